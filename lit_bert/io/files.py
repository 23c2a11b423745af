"""Files and folders written whole or not at all; which file is the newest.

A folder may have come from somebody else: names in it can be links that lead out of it. What is written here
takes the place of whatever has its name, link or not, and never goes through it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new empty file in the folder of `path`, which takes its name when the block ends without an error.

    It is forced to disk first. After an error nothing is left of it, and what was there before still is.

    Raises:
        OSError: there is no room, no right to, or no folder.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target`, which takes its place when the block ends without an error.

    After an error nothing is left of it, and what was there before still is.

    Raises:
        OSError: there is no room, or no right to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        earlier = partial.with_name(f"{partial.name}.earlier")
        if target.is_dir():
            target.rename(earlier)
        partial.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_once(final: Path, write: Callable[[Path], Any]) -> None:
    """Has `write` make a file or folder beside `final`, then renames it; whoever comes first wins.

    The lock only saves work: file systems that ignore locks still get whole results.

    Raises:
        OSError: there is no room, or no right to.
    """
    from filelock import FileLock  # here, as the predictor imports this module and needs no other package

    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if final.exists():
            return
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            write(partial)
            try:
                partial.rename(final)
            except OSError:
                if not final.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file.

    Raises:
        OSError: as `whole`.
    """
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def newest(root: Path, *names: str, where: Callable[[Path], bool] = lambda file: True) -> Path | None:
    """The file anywhere below a folder that was written last; None if there is none.

    Args:
        names: what it may be called, with the folder right above it where that matters.
        where: whether a file counts.
    """
    times: dict[Path, int] = {}
    for file in (file for name in names for file in root.glob(f"**/{name}")):
        with contextlib.suppress(FileNotFoundError):  # removed since, as a run does with its worse epochs
            if where(file):
                times[file] = file.stat().st_mtime_ns
    return max(sorted(times), key=lambda file: times[file], default=None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


READABLE_SUFFIXES = (
    *(".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather"),
    *(".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".txt"),
)
