"""Files that a stranger may have written, checked before any library sees them.

Files are bounded in size before memory is taken, and JSON is read as plain values; `tokenizers.py`,
`safetensors_files.py` and `onnx_files.py` beside it compare what such files say with fixed lists.
Needs no torch, as the predictor uses it too.

    python -m lit_bert serve exported
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.io import escape

MAX_JSON_BYTES = 16 << 20  # a lit_bert.json of 50,000 classes has half of it
MAX_DEPTH = 32  # of lists and objects within each other; a tokenizer.json has 8
MAX_INT = 10**39  # transformers writes 10**30, and that as a whole number, for "no limit"
MAX_CLASSES = 100_000


# --- files ---


def open_regular(path: Path, max_bytes: int | None = None) -> BufferedReader:
    """The file, open for reading: an ordinary one that lies in its folder and has at most `max_bytes`.

    A link is followed within the folder, and to where the Hub's cache keeps its files, nowhere else: whoever
    made the folder does not choose which files of this machine are read.

    Raises:
        UserError: it is something else, too large, or cannot be read.
    """
    name = escape.line(path)
    try:
        real, folder = path.resolve(strict=True), path.parent.resolve(strict=True)
        homes = {folder}
        if folder.parent.name == "snapshots":
            homes.add(folder.parent.parent / "blobs")
        if path.is_symlink() and real.parent not in homes:
            raise UserError(f"{name} is a link out of its folder; put the file itself there.")
        # Opening a named pipe would wait for a writer, and opening a device may do anything.
        if not stat.S_ISREG(real.stat().st_mode):
            raise UserError(f"{name} is no ordinary file; put the file itself there.")
        stream = os.fdopen(os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        try:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{name} is no ordinary file; put the file itself there.")
            if max_bytes is not None and status.st_size > max_bytes:
                raise UserError(
                    f"{name} has {status.st_size:,} bytes; expected at most {max_bytes:,}. "
                    "This is not such a file; get it again."
                )
        except BaseException:
            stream.close()
            raise
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL in a name
        what = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"cannot read {name}: {what}. Get it again, or check its rights.") from None
    return stream


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """The content of a text file in UTF-8.

    Raises:
        UserError: it is no ordinary file, too large, unreadable, or not in UTF-8.
    """
    with open_regular(path, max_bytes) as stream:
        try:
            content = stream.read(max_bytes + 1)  # it may have grown since
        except OSError as error:
            raise UserError(f"cannot read {escape.line(path)}: {error.strerror}. Get it again.") from None
    if len(content) > max_bytes:
        raise UserError(f"{escape.line(path)} has more than {max_bytes:,} bytes; get it again.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{escape.line(path)} is not text in UTF-8 (byte {error.start}); get it again."
        ) from None


# --- JSON ---


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: it cannot be read as text, or is not the JSON that `parse_json` takes.
    """
    return parse_json(read_text(path, max_bytes), escape.line(path), max_bytes)


def parse_json(text: str, what: str, max_characters: int = MAX_JSON_BYTES) -> Any:
    """The value of a JSON text: of bounded size and depth, finite numbers, each key once.

    Args:
        what: its name in messages.
        max_characters: that it may have.

    Raises:
        UserError: it is something else.
    """
    if len(text) > max_characters:
        raise UserError(f"{what} has {len(text):,} characters; expected at most {max_characters:,}.")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        _check_values(value, surrogates=re.search(r"\\u[dD][89a-fA-F]", text) is not None)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else escape.line(error, 200)
        raise UserError(f"{what} is not JSON that can be used ({why}); get it again.") from None
    return value


def parse_object(text: str, what: str, max_characters: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """`parse_json` for what has to be an object."""
    value = parse_json(text, what, max_characters)
    if not isinstance(value, dict):
        raise UserError(f"{what} holds no JSON object; get it again.")
    return value


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """`read_json` for what has to be an object."""
    return parse_object(read_text(path, max_bytes), escape.line(path), max_bytes)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:100]!r} twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _check_values(value: Any, surrogates: bool) -> None:
    """Raises a ValueError where a value is nested too deeply, or is no finite number or Unicode text."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
                if surrogates:
                    below += each
            elif isinstance(each, list):
                below += each
            elif isinstance(each, float):
                if not math.isfinite(each):
                    raise ValueError("a number beyond all bounds")
            elif isinstance(each, int):
                if abs(each) > MAX_INT:
                    raise ValueError("a number of more than 39 digits")
            elif surrogates and isinstance(each, str):
                each.encode("utf-8")
        if not below:
            return
        level = below
    raise ValueError("nested too deeply")


def class_names_of_config(config: dict[str, Any], what: str) -> list[str]:
    """The class names of a config.json, in the order of the logits.

    Raises:
        UserError: `id2label` leaves one out, names one twice, or `label2id` says otherwise.
    """
    id2label, label2id = config.get("id2label"), config.get("label2id")
    if not isinstance(id2label, dict) or not 0 < len(id2label) <= MAX_CLASSES:
        raise UserError(
            f"{what} has no id2label; expected an object with the names of 1 to {MAX_CLASSES:,} classes "
            'by their numbers, as in {"0": "no", "1": "yes"}.'
        )
    names = [id2label.get(str(index)) for index in range(len(id2label))]
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(
                f"{what} has no name for class {index} in id2label; expected the numbers 0 to "
                f"{len(names) - 1}, each with a text."
            )
    index_of = {name: index for index, name in enumerate(names)}
    if len(index_of) < len(names):
        twice = next(name for index, name in enumerate(names) if index_of[name] != index)
        raise UserError(f"{what} names two classes {escape.line(twice, 80)!r} in id2label; rename one.")
    if label2id is not None and label2id != index_of:
        raise UserError(f"{what} has a label2id that contradicts its id2label; put right which is wrong.")
    return [str(name) for name in names]


def is_library_error(error: BaseException) -> bool:
    """Whether it comes from within a library: panics of Rust are no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class UnsafeFileError(Exception):
    """A file has a part that is not among the accepted ones; the message says which."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise UnsafeFileError(message)


def is_count(value: Any, high: int, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
