"""JSON Lines, an object a line; and one JSON array of objects, parsed element by element."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, Row, text_problem
from lit_bert.io import escape

JSON_DEPTH = 100  # lists and objects in each other; deeper ones could break the stack of whoever writes them
CHARACTERS = 1 << 18  # of an array, read at a time
MOST_CHARACTERS = 1 << 28  # of one element
LITERAL = 10  # characters of the longest name that may be cut, -Infinity, and one more
CUT = (
    "Unterminated string",
    "Invalid \\",
    "Expecting value",
    "Invalid control",
)  # errors where the cut is not


def read_json_lines(stream: Iterable[str], encoding: str) -> Iterator[Numbered]:
    number = 0
    for line_number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        number += 1
        row: Row | BadRow
        try:
            found = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            row = BadRow(f"not JSON ({error})")
        else:
            row = _row_of(found, line, encoding)
        yield Numbered(number, line_number, row)


def _row_of(found: Any, source: str, encoding: str) -> Row | BadRow:
    """A parsed value as a row; `source` is the text that it was parsed from."""
    try:
        strings = "".join(_strings(found))
    except _Twice as error:
        return BadRow(str(error))
    except ValueError as error:
        return BadRow(f"not JSON ({error})")
    if problem := text_problem(source, encoding=encoding) or text_problem(strings, escaped=True):
        return BadRow(problem)
    return found if isinstance(found, dict) else BadRow("not a JSON object")


class _Twice(ValueError):
    """A key occurs twice."""


class _DuplicateKey(dict[str, Any]):
    """An object that has a key twice: one of its values would be lost."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        return _DuplicateKey(next(key for key in keys if keys.count(key) > 1))
    return found


def _strings(found: Any, depth: int = 0) -> Iterator[str]:
    if depth > JSON_DEPTH:
        raise ValueError(f"nested more than {JSON_DEPTH} deep")
    if isinstance(found, _DuplicateKey):
        raise _Twice(f"the key '{escape.line(found.key, 60)}' occurs twice in one object")
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield key
            yield from _strings(value, depth + 1)
    elif isinstance(found, list):
        for value in found:
            yield from _strings(value, depth + 1)


# --- one array ---


def is_array(stream: IO[str]) -> bool:
    """Whether the first character beyond white space opens an array."""
    return _skip_blanks(stream, "")[:1] == "["


def read_json_array(stream: IO[str], path: Path, encoding: str) -> Iterator[Numbered]:
    """The elements of an array as rows.

    Raises:
        UserError: it is no array, or what follows an element is not JSON; the rows before it were given.
    """
    parser = json.JSONDecoder(object_pairs_hook=_object)
    buffer = _skip_blanks(stream, "")
    number = 0

    def broken(why: str) -> UserError:
        return UserError(
            f"{path} cannot be read after row {number}: {why}. Expected one JSON array of objects, or an "
            "object a line in a file called .jsonl."
        )

    if buffer[:1] != "[":
        raise broken("it does not start with [")
    buffer = _skip_blanks(stream, buffer[1:])
    while buffer[:1] != "]":
        if number:
            if buffer[:1] != ",":
                raise broken(
                    f"expected , or ], got '{escape.line(buffer[:20])}'" if buffer else "it ends there"
                )
            buffer = _skip_blanks(stream, buffer[1:])
        asked = CHARACTERS
        while True:
            try:
                found, end = parser.raw_decode(buffer)
                if end < len(buffer):  # a number at the end may go on
                    break
                why = "it ends there"
            except RecursionError:
                raise broken("nested too deep") from None
            except ValueError as error:
                why = str(error)
                position = getattr(error, "pos", len(buffer))
                if position < len(buffer) - LITERAL and not why.startswith(CUT):
                    raise broken(why) from None
            more = stream.read(asked)
            if not more:
                raise broken(why)
            buffer += more
            asked = len(buffer)
            if asked > MOST_CHARACTERS:
                raise broken(f"no end of the next element within {MOST_CHARACTERS:,} characters ({why})")
        number += 1
        yield Numbered(number, 0, _row_of(found, buffer[:end], encoding))
        buffer = _skip_blanks(stream, buffer[end:])
    if _skip_blanks(stream, buffer[1:]):
        raise broken("there is more after the ] at its end")


def _skip_blanks(stream: IO[str], buffer: str) -> str:
    """What comes next: at least one character, unless the file ends."""
    buffer = buffer.lstrip(" \t\r\n")
    while not buffer and (buffer := stream.read(CHARACTERS)):
        buffer = buffer.lstrip(" \t\r\n")
    return buffer
