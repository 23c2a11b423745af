"""Files written whole or not at all, and removed only by who wrote them; which of them is the newest.

A folder may have come from somebody else: names in it can be links that lead out of it. What is written here
takes the place of whatever has its name, link or not, and never goes through it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


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


READABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
