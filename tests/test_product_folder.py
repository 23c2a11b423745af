"""An exported folder: its checksums in both forms, its facts, and which one is the newest."""

import hashlib
import os
import shutil
import time

import pytest

from lit_bert import UserError
from lit_bert.product.folder import (
    CARD,
    CHECKSUMS,
    FACTS,
    facts,
    newest,
    verify,
    write_checksums,
)
from lit_bert.product.formats import FORMATS, ONNX, ONNX_INT8


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the exported folder to do harm to."""
    return shutil.copytree(exported, tmp_path / "copied")


@pytest.fixture
def old(copied):
    """A copy as earlier versions exported it: the checksums are in the card."""
    card, sums = (copied / name for name in (CARD, CHECKSUMS))
    text = card.read_text().split("## Files")[0]
    card.write_text(
        f"{text}## Files\n\n`sha256sum --check --ignore-missing {CARD}` checks them.\n\n```\n"
        f"{sums.read_text()}```\n"
    )
    sums.unlink()
    return copied


@pytest.fixture(params=["now", "old"])
def in_either_form(request):
    """A copied folder, and the file in it that lists the checksums."""
    if request.param == "old":
        return request.getfixturevalue("old"), request.getfixturevalue("copied") / CARD
    return request.getfixturevalue("copied"), request.getfixturevalue("copied") / CHECKSUMS


def test_an_untouched_folder_is_verified_file_by_file(exported):
    found = verify(exported)
    assert found.keys() == {path.name for path in exported.iterdir()} - {CARD, CHECKSUMS}
    for name, digest in found.items():
        assert digest == hashlib.sha256((exported / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", ONNX_INT8, "config.json", FACTS])
def test_one_changed_bit_is_named(in_either_form, name):
    copied, list_file = in_either_form
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"copied/{name} is not the file that {list_file.name} lists"):
        verify(copied)


def test_a_file_that_went_missing_is_named(copied):
    (copied / ONNX).unlink()
    with pytest.raises(UserError, match=rf"cannot read .*copied/{ONNX}: No such file"):
        verify(copied)


@pytest.mark.parametrize("card", [None, b"", b"# A model\n", b"\xff\xfe"])
def test_a_folder_without_a_list_is_not_verified(copied, card):
    for name in (CARD, CHECKSUMS):
        (copied / name).unlink()
    if card is not None:
        (copied / CARD).write_bytes(card)
    with pytest.raises(UserError, match=rf"copied has no {CHECKSUMS}; expected a folder that `export` wrote"):
        verify(copied)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "lists no files"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"# sums\n", "has the line # sums; expected a SHA-256"),
        (b"abc  config.json\n", "has the line abc  config.json;"),
        (b"\x1b[31m\n", r"has the line \\x1b\[31m;"),
        (b"A" * 64 + b"  config.json\n", "expected a SHA-256"),
    ],
)
def test_a_damaged_list_is_refused_whatever_the_card_says(old, content, said):
    """An earlier export has its list in the card; once there is a file of checksums, it alone counts."""
    (old / CHECKSUMS).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        verify(old)
    assert len(str(caught.value).splitlines()) == 1


def test_the_card_may_be_edited(copied):
    (copied / CARD).write_text("# Somebody's own words, as on the Hub\n")
    assert verify(copied)


def test_the_list_of_an_earlier_export_is_in_its_card(old, exported):
    assert not (old / CHECKSUMS).exists()
    assert verify(old) == verify(exported)


@pytest.mark.timeout(60)
def test_a_list_that_is_a_pipe_or_a_link_elsewhere_is_not_read(copied, tmp_path):
    (copied / CHECKSUMS).rename(tmp_path / "sums")
    (copied / CHECKSUMS).symlink_to(tmp_path / "sums")
    with pytest.raises(UserError, match="is a link out of its folder"):
        verify(copied)
    (copied / CHECKSUMS).unlink()
    os.mkfifo(copied / CHECKSUMS)
    with pytest.raises(UserError, match="is no ordinary file"):
        verify(copied)


def test_a_file_that_no_export_has_shows_when_the_folder_is_verified(copied):
    (copied / "notes.txt").write_text("mine")
    write_checksums(copied)
    with pytest.raises(UserError, match=rf"{CHECKSUMS} lists notes\.txt, which is no file of an export"):
        verify(copied)


def test_the_facts_are_those_of_the_export(exported):
    found = facts(exported)
    assert found["labels"] == ["anger", "joy", "sadness"]
    assert found["max_length"] == 128
    assert found["scores"]["validation"]["macro_f1"].keys() == {"value", "low", "high"}
    assert found["files"].keys() == {each.file for each in FORMATS}


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "notes.txt", "..", "a b", "model.onnx/../../x"])
def test_a_list_with_another_file_opens_none(in_either_form, name):
    copied, list_file = in_either_form
    secret = copied.parent / "x"
    secret.write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    list_file.write_text(f"{list_file.read_text()}{digest}  {name}\n")
    with pytest.raises(UserError, match=rf"{list_file.name} lists .*, which is no file of an export"):
        verify(copied)


@pytest.mark.parametrize("name", [ONNX, "config.json", "tokenizer.json"])
def test_a_list_that_leaves_out_a_file_is_refused(in_either_form, name):
    copied, list_file = in_either_form
    lines = list_file.read_text().splitlines()
    list_file.write_text("\n".join(line for line in lines if not line.endswith(f"  {name}")))
    with pytest.raises(UserError, match=rf"does not list {name}, which is there"):
        verify(copied)


def test_a_list_with_a_file_twice_is_refused(in_either_form):
    copied, list_file = in_either_form
    list_file.write_text(f"{list_file.read_text()}{'0' * 64}  {ONNX}\n")
    with pytest.raises(UserError, match="or one twice"):
        verify(copied)


@pytest.mark.timeout(60)
def test_a_listed_pipe_is_not_waited_for(copied):
    (copied / ONNX).unlink()
    os.mkfifo(copied / ONNX)
    with pytest.raises(UserError, match="is no ordinary file"):
        verify(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", ONNX, ONNX_INT8])
@pytest.mark.parametrize("content", [b"", b"{}", b'{"id2label": {"0": "a"}}', b"\x08\x01"])
def test_serve_refuses_a_damaged_folder_with_checksums_that_fit_it_in_one_line(
    copied, refused, name, content
):
    """As a stranger would: the list is made anew."""
    (copied / name).write_bytes(content)
    write_checksums(copied)
    assert "cannot be used (" in refused("serve", copied, f"--file={name if name == ONNX_INT8 else ONNX}")


@pytest.mark.parametrize("content", [b"[]", b'{"scores": 5}', b'{"labels": "joy"}', b'{"scores": NaN}'])
def test_facts_of_another_shape_are_refused(copied, content):
    (copied / FACTS).write_bytes(content)
    with pytest.raises(UserError, match=rf"copied has no readable {FACTS}"):
        facts(copied)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff"])
def test_facts_that_cannot_be_read_name_the_folder(copied, content):
    (copied / FACTS).unlink()
    if content is not None:
        (copied / FACTS).write_bytes(content)
    with pytest.raises(UserError, match=rf"copied has no readable {FACTS}"):
        facts(copied)


def test_verify_says_that_there_is_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        verify(tmp_path / "nope")


# --- the newest ---


def test_the_newest_folder_is_the_one_exported_last_whatever_its_name(copied, tmp_path):
    root = tmp_path / "runs"
    for run in ("b", "a", "c"):
        shutil.copytree(copied, root / run / "exported")
    now = time.time()
    for run, age in (("b", 20), ("a", 10), ("c", 30)):
        os.utime(root / run / "exported" / ONNX, (now - age, now - age))
    assert newest(root) == root / "a" / "exported"
    (root / "a" / "exported" / "tokenizer.json").unlink()  # it cannot answer
    assert newest(root) == root / "b" / "exported"


def test_without_an_exported_folder_the_remedy_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no exported folder below .*Run `python -m lit_bert export`"):
        newest(tmp_path)
