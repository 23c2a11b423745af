"""Files and folders are written whole or not at all, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lit_bert.io import files


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def broken_file(target: Path) -> None:
    with files.whole(target) as partial:
        partial.write_text("half")
        raise RuntimeError("in between")


def broken_folder(target: Path) -> None:
    with files.whole_folder(target) as partial:
        (partial / "b").write_text("2")
        raise RuntimeError("no proof")


def test_a_file_takes_its_name_when_it_is_whole(place: Path) -> None:
    target = place / "scores.json"
    target.write_text("before")
    with files.whole(target) as partial:
        partial.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    assert os.listdir(place) == ["scores.json"]


def test_an_error_leaves_what_was_there_and_nothing_else(place: Path) -> None:
    target = place / "scores.json"
    target.write_text("before")
    with pytest.raises(RuntimeError, match="in between"):
        broken_file(target)
    assert target.read_text() == "before"
    assert os.listdir(place) == ["scores.json"]


def test_a_file_has_the_rights_of_any_other_new_one(place: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write_text(place / "new", "x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o640
    assert os.umask(mask) == mask  # it is as it was


def test_a_link_is_replaced_and_its_target_stays(place: Path) -> None:
    secret, link = place / "secret", place / "link"
    secret.write_text("mine")
    link.symlink_to(secret)
    files.write_text(link, "new")
    assert not link.is_symlink()
    assert (link.read_text(), secret.read_text()) == ("new", "mine")


def test_text_is_utf_8_with_line_ends_as_they_are(place: Path) -> None:
    files.write_text(place / "text", "a\nb\r\nü")
    assert (place / "text").read_bytes() == "a\nb\r\nü".encode()


def test_a_folder_that_is_not_there_is_an_error_of_the_system(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write_text(place / "no" / "file", "x")


def test_a_folder_takes_its_name_when_it_is_whole(place: Path) -> None:
    target = place / "deep" / "exported"
    with files.whole_folder(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    with files.whole_folder(target) as partial:
        (partial / "b").write_text("2")
        assert os.listdir(target) == ["a"]
    assert os.listdir(target) == ["b"]
    assert os.listdir(place / "deep") == ["exported"]


def test_an_error_in_a_folder_leaves_the_one_that_was_there(place: Path) -> None:
    target = place / "exported"
    target.mkdir()
    (target / "a").write_text("1")
    with pytest.raises(RuntimeError, match="no proof"):
        broken_folder(target)
    assert os.listdir(target) == ["a"]
    assert os.listdir(place) == ["exported"]


def test_what_is_there_is_not_made_again(place: Path) -> None:
    made = []

    def write(partial: Path) -> None:
        made.append(partial)
        partial.write_text(str(len(made)))

    for _ in range(2):
        files.make_once(place / "cache" / "entry", write)
    assert len(made) == 1
    assert (place / "cache" / "entry").read_text() == "1"
    assert {path.name for path in (place / "cache").iterdir()} <= {"entry", "entry.lock"}


def test_what_another_process_made_meanwhile_is_kept(place: Path) -> None:
    final = place / "entry"

    def write(partial: Path) -> None:
        partial.mkdir()
        (partial / "mine").touch()
        final.mkdir()  # on a file system that ignores locks
        (final / "theirs").touch()

    files.make_once(final, write)
    assert os.listdir(final) == ["theirs"]


def test_the_newest_is_the_one_written_last_of_any_of_the_names(place: Path) -> None:
    for name, age in (("a/best.ckpt", 30), ("b/best.ckpt", 10), ("b/last.ckpt", 20), ("c/other.ckpt", 0)):
        file = place / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    assert files.newest(place, "best.ckpt") == place / "b" / "best.ckpt"
    assert files.newest(place, "best.ckpt", "other.ckpt") == place / "c" / "other.ckpt"
    assert files.newest(place, "a/best.ckpt", "last.ckpt") == place / "b" / "last.ckpt"
    not_in_b = files.newest(place, "best.ckpt", where=lambda file: file.parent.name != "b")
    assert not_in_b == place / "a" / "best.ckpt"
    assert files.newest(place, "gone.ckpt") is None
    assert files.newest(place / "nowhere", "best.ckpt") is None


def test_a_link_to_nothing_is_not_the_newest(place: Path) -> None:
    (place / "a").mkdir()
    (place / "a" / "best.ckpt").symlink_to(place / "gone")
    assert files.newest(place, "best.ckpt") is None
