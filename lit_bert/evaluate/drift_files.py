"""References and statistics as files: what a model was validated on, and what it was asked about.

No text is in either, and neither grows with the number of texts. A file of statistics goes on with what it
has, is written whole every few seconds, and is compared by `drift` alone or with others. numpy only.

    python -m lit_bert predict --input monday.csv --statistics monday.json
    python -m lit_bert drift checkpoints/version_0/best.ckpt monday.json tuesday.json
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lit_bert import UserError
from lit_bert.evaluate.drift import REFERENCE, Reference, Sketch, sketch_as_dict
from lit_bert.evaluate.text_facts import TextReader
from lit_bert.io import escape, files, untrusted
from lit_bert.io.texts import Text
from lit_bert.task.base import Task

FORMAT = 1
KIND = "lit_bert_statistics"  # the first key of a file of statistics, with the format
CHECKPOINT = "checkpoint"  # the name of a reference that is of no exported file
FLUSH_S = 10.0  # between two writes of a file of statistics


# --- references


def write_references(path: Path, references: Mapping[str, Reference]) -> None:
    """Writes the references of a checkpoint, or of each file of an exported folder.

    Raises:
        OSError: as `files.whole`.
    """
    said = {name: each.as_dict() for name, each in references.items()}
    files.write_text(path, json.dumps({"format": FORMAT, "references": said}) + "\n")


def read_reference(folder: Path, name: str, task: Task) -> Reference:
    """The reference of a file of a folder.

    Args:
        name: of the exported file, or CHECKPOINT.
        task: of the model.

    Raises:
        UserError: there is none, or it is of something else.
    """
    path = folder / REFERENCE
    what = escape.line(path)
    if not path.is_file():
        raise UserError(
            f"{escape.line(folder)} has no {REFERENCE}, which says what the model was validated on; "
            "`python -m lit_bert fit` writes it beside the checkpoint, and `export` of such a run."
        )
    said = untrusted.read_object(path)
    references = said.get("references")
    if said.get("format") != FORMAT or not isinstance(references, dict) or name not in references:
        raise UserError(f"{what} has no reference of {escape.line(name, 80)}; fit or export again.")
    return Reference.from_dict(task, references[name], what)


# --- statistics


class Statistics:
    """What a model was asked about, in memory and, where it has a path, in a file.

    Can be added to from several threads at a time. A file belongs to one process at a time; one that somebody
    has moved away begins anew.

    Args:
        reference: whose bins count.
        reader: of the texts.
        path: of the file, which goes on where it exists.

    Raises:
        UserError: the file is none of this model, or cannot be written.
    """

    def __init__(self, reference: Reference, reader: TextReader, path: Path | None = None) -> None:
        self.reference, self.reader, self.path = reference, reader, path
        self.sketch = Sketch()
        self._new = Sketch()  # what the file does not have yet
        self._lock = threading.Lock()
        self._written = _identity(path)
        if path is not None and self._written:
            self.sketch = read_statistics(path, reference)
        self.flush()

    def add(self, texts: Sequence[Text], outputs: np.ndarray, features: np.ndarray | None = None) -> None:
        """Counts texts with what the model says of them, (N, C), and what its last layer is given, (N, F)."""
        found = self.reference.count(self.reader.facts(texts), outputs, features)
        with self._lock:
            self.sketch.merge(found)
            self._new.merge(found)
            if time.monotonic() < self._next:
                return
        with contextlib.suppress(UserError):  # no answer fails as the disk is full; the last write says so
            self.flush()

    def flush(self) -> None:
        """Writes the file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        with self._lock:
            self._next = time.monotonic() + FLUSH_S
            if self.path is None:
                return
            found = _identity(self.path)
            if found not in (None, self._written):
                raise UserError(
                    f"the statistics {escape.line(self.path)} are written by another process, too; name a "
                    "file of its own for each, and `drift` adds them up."
                )
            sketch = self.sketch if found else Sketch(self._new.rows, dict(self._new.counts))
            said = {KIND: FORMAT, "reference": self.reference.key, **sketch_as_dict(sketch)}
            try:
                files.write_text(self.path, json.dumps(said) + "\n")
                self.sketch, self._new, self._written = sketch, Sketch(), _identity(self.path)
            except OSError as error:
                raise UserError(
                    f"cannot write the statistics {escape.line(self.path)}: {error.strerror}. Choose another "
                    "--statistics."
                ) from None


def _identity(path: Path | None) -> tuple[int, int, int] | None:
    """What changes whenever somebody writes a file; None where there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns, found.st_size)


def is_statistics(path: Path) -> bool:
    """Whether a file begins as one of statistics does."""
    start = f'{{"{KIND}"'.encode()
    if not path.is_file():
        return False
    with untrusted.open_regular(path) as stream:
        return stream.read(len(start)) == start


def read_statistics(path: Path, reference: Reference) -> Sketch:
    """What a file of statistics has counted.

    Raises:
        UserError: it is something else, or counts by the bins of another model.
    """
    what, said = escape.line(path), untrusted.read_object(path)
    if said.get(KIND) != FORMAT:
        raise UserError(f"{what} is no file of statistics; `predict --statistics FILE` writes one.")
    if said.get("reference") != reference.key:
        raise UserError(
            f"{what} has the statistics of another model, or of another file of it; name one of its."
        )
    try:
        return reference.read_sketch(said)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{what} is damaged ({escape.line(error, 100)}); remove it.") from None
