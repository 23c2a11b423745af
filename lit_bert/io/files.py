"""Files written whole or not at all, and removed only by who wrote them.

A folder may have come from somebody else: names in it can be links that lead out of it. What is written here
takes the place of whatever has its name, link or not, and never goes through it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


READABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
