"""Checkpoints with random edits: the same answers as before, finite ones, or one line that refuses the file.

Format 2 is edited as what its file has, a JSON text and tensors; format 1 as what its pickle has.

The first tests open a file and label a few texts with it. The last one goes through the verbs, which takes
a hundred times as long: it gets one in 50 of the inputs.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import FUZZ_INPUTS, Outcome, Run, files
from formats import content_of, read_file, write_file
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_fuzz_folders import check_line, edited_bytes, limited, one_line
from test_untrusted_checkpoints import OLD_FORM
from ugly import UGLY

from lit_bert import BertClassifier, EmotionDataModule
from lit_bert.sources.checkpoint import Checkpoint

pytestmark = pytest.mark.fuzz

TEXTS = ["i am so happy today", "sad", "the dog is mad but glad " * 8, "漢字 \x1b[31m"]
# Places that answers come from: weights, architecture and tokenizer.
ANSWERING = [("state_dict",), ("weights", "architecture"), ("EmotionDataModule", "tokenizer"), ("tensors",)]
DIVERGED = re.compile("(training|validation) loss is|after optimizer step")  # what a run that started says
SHARE = 50  # one in so many inputs goes through the verbs

# --- values

NUMBERS = st.one_of(
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 127, 128, 129, 2**31, 2**63, 10**9, 10**400, -(10**20)]),
    st.sampled_from([0.5, 1.0, -0.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")]),
    st.integers(),
    st.floats(),
)
STRINGS = st.one_of(
    st.sampled_from(
        ["", " ", "os.system", "../../pwned", "/etc/passwd", "a\0b", "\ud800", "x" * 20_000, "{}"]
    ),
    st.sampled_from(UGLY),
    st.text(max_size=8),
)
SHAPES = [(), (0,), (1,), (3,), (32,), (3, 32), (32, 32), (0, 32), (1, 1, 1), (35, 32)]
TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.uint8]
FILLED = st.builds(
    torch.full, st.sampled_from(SHAPES), st.sampled_from([0.0, 1.0, -1e38, 1e-45, float("nan"), float("inf")])
)
TENSORS = st.one_of(
    FILLED,
    FILLED.map(torch.nn.Parameter),
    st.builds(lambda tensor, kind: tensor.to(kind), FILLED, st.sampled_from(TYPES)),
    st.sampled_from([3, 10**7]).map(lambda rows: torch.zeros(1).expand(rows, 32)),
    st.sampled_from(SHAPES).map(lambda shape: torch.empty(shape, device="meta")),
    st.just(torch.zeros(3, 32).to_sparse()),
)
PLAIN = st.none() | NUMBERS | STRINGS
NESTED = st.recursive(
    PLAIN | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def deep(levels: int) -> list[Any]:
    """Lists in each other, each in two places."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def circular() -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = [1]
    value.append(value)
    return value


ODD: st.SearchStrategy[Any] = st.one_of(
    NESTED,
    st.sampled_from([(), (1, 2), [], {}, OrderedDict(a=1), {1.5: 2}, {None: 1}, {("a",): 1}, {b"a": 1}]),
    st.sampled_from([b"bytes", {1, 2}, 1j, torch.Size([2]), torch.float32, torch.device("cpu"), slice(1)]),
    st.sampled_from([Path("pwned"), range(3), print, zipfile.ZipFile]),
)


def kindred(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type, which a check of types lets through."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int):
        return st.one_of(
            st.sampled_from([0, 1, -1, 2, 3, 7, 2**31, 2**62, 2**63, 10**30]),
            st.integers(-5, value + 5 if value > 0 else 5),
        )
    if isinstance(value, float):
        return (
            st.sampled_from([0.0, -0.5, 0.5, 0.999, 1.0, 1e-300, 1e30, 1e308, -1e308, value * 2])
            | st.floats()
        )
    if isinstance(value, str):
        return STRINGS | st.sampled_from([value + "\n", value.upper(), value[1:], f" {value} "])
    return ODD


def variants(value: Any) -> list[Any]:
    """Other forms of a list or a tensor, and lists that are in several places of each other."""
    found: list[Any] = [deep(8), circular()]  # more takes a second: tests/test_untrusted_checkpoints.py
    if isinstance(value, list):
        found += [value[::-1], value[1:], value * 2, tuple(value), dict(enumerate(value))]
    elif isinstance(value, torch.Tensor) and value.numel():
        value = value.detach()
        wild = value.clone().reshape(-1)
        wild[-1] = float("nan") if value.is_floating_point() else 0
        found += [value * 0, value * 3, -value, value.long(), value.double(), value.half(), value.bfloat16()]
        found += [value[None], value[:1] if value.ndim else value, wild.reshape(value.shape)]
        found += [value.t()] if value.ndim == 2 else []
    return found


# --- edits

Place = tuple[Any, ...]


class Part(NamedTuple):
    """A dict or list within a checkpoint, a key of it, and the keys that lead there, that one included."""

    holder: Any
    key: Any
    place: Place


def some_part(data: st.DataObject, content: dict[str, Any]) -> Part:
    """Any value, those near the root more often: most of the others are states of the optimizer."""
    said = ("config", "EmotionDataModule", "hyper_parameters", "weights", "settings", "data", "model")
    said = [key for key in said if key in content]
    keys: list[Any] = [*content, *said] or [None]
    part = Part(content, data.draw(st.sampled_from(keys), "key"), ())
    part = part._replace(place=(part.key,))
    while data.draw(st.integers(0, 4)):
        inner = part.holder.get(part.key) if isinstance(part.holder, dict) else part.holder[part.key]
        if not isinstance(inner, dict | list) or not inner or len(part.place) > 12:
            break
        key = data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner))), "key")
        part = Part(inner, key, (*part.place, key))
    return part


def edit(data: st.DataObject, content: dict[str, Any]) -> list[Place]:
    """Changes one to three places of a checkpoint's content. Returns those places."""
    touched: list[Place] = []
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3]), "edits")):
        holder, key, place = some_part(data, content)
        if key is None:
            break
        touched.append(place)
        kind = data.draw(
            st.sampled_from(
                ["kindred", "kindred", "variant", "odd", "remove", "rename", "double", "add", "alias", "name"]
            ),
            "kind",
        )
        if kind == "kindred":
            holder[key] = copied(data.draw(kindred(holder[key]), "value"))
        elif kind == "variant":  # drawn by number: a failure prints what was drawn
            forms = variants(holder[key])
            holder[key] = forms[data.draw(st.integers(0, len(forms) - 1), "form")]
        elif kind == "odd":
            holder[key] = copied(data.draw(ODD, "value"))
        elif kind == "remove":
            del holder[key]
        elif kind == "alias":
            other = some_part(data, content)
            holder[key] = other.holder[other.key]
        elif kind == "name":  # of a class, in both places where it stands
            model, facts = content.get(model_of(content)), content.get("EmotionDataModule")
            names = model.get("label_names") if isinstance(model, dict) else None
            if isinstance(names, list) and names:
                model["label_names"] = [data.draw(STRINGS, "name"), *names[1:]]
                if isinstance(facts, dict):
                    facts["label_names"] = model["label_names"]
                touched[-1] = (model_of(content), "label_names")
        elif isinstance(holder, list):
            holder.insert(key, copied(data.draw(ODD, "value")) if kind == "add" else holder[key])
        else:
            new = data.draw(
                STRINGS | st.sampled_from([*map(str, holder), "class_path", "_instantiator", "config"]), "new"
            )
            value = copied(data.draw(ODD, "value")) if kind == "add" else holder[key]
            if kind == "rename":
                del holder[key]
            holder[new] = value
            touched.append((*place[:-1], new))
    return touched


def model_of(content: dict[str, Any]) -> str:
    """The key of what both formats say of the model."""
    return "hyper_parameters" if "state_dict" in content or "hyper_parameters" in content else "model"


def meet(one: Place, other: Place) -> bool:
    """Whether one of two places lies in the other."""
    return all(first == second for first, second in zip(one, other, strict=False))


@pytest.fixture(scope="module")
def originals(trained: Path) -> dict[str, dict[str, Any]]:
    """The content of good checkpoints: those of the best and of the last epoch, in all forms."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("best.ckpt", "last.ckpt"):
        values, tensors = read_file(trained / name)
        content = content_of(trained / name)
        old = {key: json.loads(text) for key, text in OLD_FORM.items()}
        found[name] = {**values, "tensors": tensors}
        found |= {f"{name} of format 1": content, f"{name} of the old form": {**content, "config": old}}
    return found


KINDS = ["", " of format 1", " of the old form"]
FORMS = st.sampled_from([f"best.ckpt{kind}" for kind in KINDS] * 3 + [f"last.ckpt{kind}" for kind in KINDS])
RESUMABLE = st.sampled_from([f"last.ckpt{kind}" for kind in KINDS])
MAX_VALUES = 100_000  # of a tensor in a file of format 2: it has all of them


def copied(value: Any) -> Any:
    """A copy to edit; tensors are shared, as edits replace them."""
    if isinstance(value, dict):
        return type(value)((key, copied(each)) for key, each in value.items())
    return [copied(each) for each in value] if isinstance(value, list) else value


def written(content: Any, form: str) -> bytes:
    """The bytes of a file of that form, with the checksums that belong to it."""
    if " of " in form:
        stream = io.BytesIO()
        torch.save(content, stream)
        return stream.getvalue()
    content = dict(content)
    found = content.pop("tensors", {})
    tensors = {}
    for name, tensor in found.items() if isinstance(found, dict) else ():
        dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        if dense and tensor.numel() <= MAX_VALUES and isinstance(name, str) and name != "__metadata__":
            tensors[name.encode("utf-8", "replace").decode()] = tensor
    try:
        text = json.dumps(content, skipkeys=True, default=str)
    except ValueError:  # a list that holds itself
        text = "[" * 10_000
    path = Path("written.safetensors").resolve()
    try:
        return write_file(text, tensors, path).read_bytes()
    finally:
        path.unlink(missing_ok=True)


# --- opening and labelling


class Answers(NamedTuple):
    """What a checkpoint makes of TEXTS: names of the C classes, and probabilities, float32 (N, C)."""

    names: list[str]
    probs: torch.Tensor


def answers(path: Path) -> Answers:
    """As a program gets them that uses the package.

    Raises:
        UserError: the checkpoint is no good one.
    """
    model = BertClassifier.load_from_checkpoint(path).eval()
    assert model.weights is not None
    tokenizer = model.weights.tokenizer(16)
    probs = []
    for encoding in tokenizer.encode_batch(TEXTS):
        ids = torch.tensor([encoding.ids])
        with torch.inference_mode():
            probs.append(model.predict_step({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0))
    return Answers(model.hparams["label_names"], torch.cat(probs))


@pytest.fixture(scope="module")
def expected(
    originals: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answers]:
    """The answers of the good ones."""
    found = {}
    for name, content in originals.items():
        path = tmp_path_factory.mktemp("good") / "last.ckpt"
        path.write_bytes(written(content, name))
        found[name] = answers(path)
    return found


def opened(content: bytes, capfd: pytest.CaptureFixture[str]) -> Answers | None:
    """The answers of a file with that content, sound ones; None where it was refused in one line."""
    path = Path("theirs/last.ckpt")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    before = files("..")
    capfd.readouterr()
    with limited():
        found = one_line(lambda: answers(path))
        if found is not None:
            one_line(lambda: EmotionDataModule.load_from_checkpoint(path))
    if found is not None:
        assert found.probs.shape == (len(TEXTS), len(found.names))
        assert found.probs.isfinite().all()
        assert torch.allclose(found.probs.sum(1), torch.ones(len(TEXTS)), atol=1e-4)
    assert files("..") == before
    assert path.read_bytes() == content
    output = capfd.readouterr()
    assert output.out == ""
    for line in output.err.splitlines():
        assert line.startswith("note "), line
    return found


@given(data=st.data())
def test_edited_values_give_the_same_answers_or_one_line(
    originals: dict[str, dict[str, Any]],
    expected: dict[str, Answers],
    capfd: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    form = data.draw(FORMS, "form")
    content = copied(originals[form])
    touched = edit(data, content)
    found = opened(written(content, form), capfd)
    if found is not None:
        assert found.names == content[model_of(content)]["label_names"]
        if not any(meet(place, each) for place in touched for each in ANSWERING):
            assert torch.equal(found.probs, expected[form].probs)


@given(data=st.data())
def test_a_damaged_file_gives_the_same_answers_or_one_line(
    originals: dict[str, dict[str, Any]],
    expected: dict[str, Answers],
    capfd: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    form = data.draw(FORMS, "form")
    found = opened(edited_bytes(data, written(originals[form], form)), capfd)
    if found is not None:
        assert found.names == expected[form].names
        assert torch.equal(found.probs, expected[form].probs)


@given(data=st.data())
def test_an_archive_of_other_members_gives_answers_or_one_line(
    originals: dict[str, dict[str, Any]], capfd: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """Members edited, removed, renamed and doubled, with checksums that are right."""
    form = data.draw(FORMS.filter(lambda form: " of " in form), "form")
    opened(rearchived(data, written(originals[form], form)), capfd)


@given(data=st.data())
def test_another_header_gives_the_same_answers_or_one_line(
    originals: dict[str, dict[str, Any]],
    expected: dict[str, Answers],
    capfd: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    """Of a file of format 2: what it says of tensors and of itself, with a length that is right."""
    form = data.draw(st.sampled_from(["best.ckpt", "last.ckpt"]), "form")
    whole = written(originals[form], form)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    edit(data, header)
    try:
        text = json.dumps(header, skipkeys=True, default=str).encode()
    except ValueError:
        text = b"[" * 10_000
    found = opened(len(text).to_bytes(8, "little") + text + whole[8 + length :], capfd)
    if found is not None:
        assert found.names == expected[form].names
        assert torch.equal(found.probs, expected[form].probs)


def rearchived(data: st.DataObject, original: bytes) -> bytes:
    """The archive with other members."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        members = [(each.filename, archive.read(each)) for each in archive.infolist()]
    for _ in range(data.draw(st.sampled_from([1, 1, 2]), "edits")):
        small = [index for index, (name, _) in enumerate(members) if "/data/" not in name]
        index = data.draw(st.sampled_from(small) | st.integers(0, len(members) - 1), "member")
        name, content = members[index]
        kind = data.draw(
            st.sampled_from(["edit", "edit", "edit", "remove", "rename", "double", "add"]), "kind"
        )
        if kind == "edit":
            members[index] = name, edited_bytes(data, content)
        elif kind == "remove":
            del members[index]
        elif kind == "rename":
            other = st.sampled_from([name for name, _ in members])
            new = data.draw(other | st.text(max_size=5).map("archive/".__add__), "new")
            members[index] = new, content
        elif kind == "double":
            members.insert(data.draw(st.integers(0, len(members))), (name, edited_bytes(data, content)))
        else:
            new = data.draw(
                st.sampled_from(["archive/constants.pkl", "archive/code/x.py", "../../pwned", "x", ""])
            )
            members.append((new, data.draw(st.binary(max_size=20))))
        if not members:
            break
    stream = io.BytesIO()
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED]), "method")
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


# --- through the verbs


def called(run: Run, verb: str, *arguments: object) -> Outcome:
    """How a verb ended: well, or with one line that says why not."""
    outcome = run(verb, *arguments)
    assert outcome.code in (0, 2), outcome
    assert "Traceback" not in outcome.err
    if outcome.code == 2:
        last = outcome.err.splitlines()[-1]
        assert last.startswith(f"lit_bert {verb}: "), outcome
        check_line(last)
    return outcome


@settings(max_examples=max(8, FUZZ_INPUTS // SHARE), phases=[Phase.generate])  # shrinking would take hours
@given(data=st.data())
def test_every_verb_uses_or_refuses_an_edited_checkpoint(
    trained: Path,
    corpus: Path,
    originals: dict[str, dict[str, Any]],
    tmp_path: Path,
    run: Run,
    data: st.DataObject,
) -> None:
    folder = tmp_path / "theirs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    verb = data.draw(st.sampled_from(["predict", "test", "fit", "weights"] * 2 + ["export"]), "verb")
    form = data.draw(RESUMABLE if verb == "fit" else FORMS, "form")
    content = copied(originals[form])
    touched = edit(data, content)
    path = folder / form.split()[0]
    path.write_bytes(written(content, form))
    kept, before = path.read_bytes(), files(folder)
    flags = [f"--ckpt_path={path}", "--trainer.accelerator=cpu"]
    with limited(120):
        if verb == "predict":
            outcome = called(run, verb, *TEXTS, *flags)
            if outcome.code == 0:
                labels = [json.loads(line)["predicted_label"] for line in outcome.out.splitlines()]
                assert len(labels) == len(TEXTS)
                assert set(labels) <= set(content[model_of(content)]["label_names"])
        elif verb == "test":
            outcome = called(run, verb, *flags)
            if outcome.code == 0 and not touched:
                assert (folder / "test.json").is_file()
        elif verb == "fit":
            outcome = called(run, verb, *flags, "--trainer.max_epochs=3")
        elif verb == "weights":
            place = f"--trainer.logger.init_args.save_dir={tmp_path / 'runs'}"
            new = [f"--weights.checkpoint={path}", f"--data.dataset={corpus}", flags[1], place]
            outcome = called(run, "fit", *new, "--trainer.max_epochs=1")
        else:
            outcome = called(run, "validate", *flags)
            if outcome.code == 0:  # it scores the rows that the proof is made with
                before = files(folder)
                place = tmp_path / "exported"
                outcome = called(run, verb, flags[0], f"--to={place}", "--max_f1_loss=100")
                assert (place / "model.onnx").is_file() == (outcome.code == 0)
                shutil.rmtree(place, ignore_errors=True)
    assert not Path("pwned").exists()
    if verb == "fit" and outcome.code == 0:
        Checkpoint.open(path)
    else:
        assert path.read_bytes() == kept
    if outcome.code == 2 and not DIVERGED.search(outcome.err):
        assert files(folder) == before
    assert files(folder).keys() >= before.keys()
