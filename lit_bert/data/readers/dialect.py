"""How a CSV or TSV file is taken: its encoding, what stands between cells, what `"` means, and its header.

What stands between cells is found in the first lines: what is usual for the file's ending (a comma in .csv, a
tab in .tsv), unless the first line then has one cell alone and with another of `DELIMITERS` has as many as
(nearly) every other line. Where another fits every line as well as the usual one, the user is asked.

A file that holds a `"` is read in two ways, with and without quoted cells, and the records are counted
(`_quoting_of`). `header` has the rule for the first line.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import BadRow
from lit_bert.data.readers.delimited import USUAL, Record, read_records
from lit_bert.data.readers.header import SAMPLE_ROWS, header_of
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.readers.text import encoding_of, open_text, stamp
from lit_bert.io import escape

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_CHARACTERS = 1 << 17  # of a file, in which its delimiter is looked for
FITTING_SHARE = (
    0.9  # of the lines have as many cells as the first, where a delimiter is taken for the right one
)


class Dialect(NamedTuple):
    """How a delimited file is taken.

    Attributes:
        quoted: whether `"` opens and closes cells that may hold line ends; else it is an ordinary character.
        header: whether the first record holds the names of the columns.
        notes: what a person has to know of these choices, a line each.
    """

    encoding: str
    delimiter: str
    quoted: bool
    header: bool
    notes: tuple[str, ...]


def dialect_of(path: Path, form: str, options: ReadOptions) -> Dialect:
    """How to take a delimited file: as the options say, or as its content does.

    Args:
        form: `csv` or `tsv`.

    Raises:
        UserError: the file can be read in several ways.
    """
    return _dialect_of(path, stamp(path), form, options)


@lru_cache(maxsize=256)
def _dialect_of(path: Path, stamp: tuple[Path, int, int, int], form: str, options: ReadOptions) -> Dialect:
    encoding = encoding_of(path, options.encoding)
    delimiter, note = options.delimiter, ""
    if delimiter is None:
        delimiter, note = _delimiter_of(path, encoding.name, USUAL[form])
    layout = Layout(path, encoding.name, delimiter)
    quoting = _quoting_of(layout, form, options.quoting)
    with open_text(path, encoding.name) as stream:
        records = itertools.islice(read_records(stream, delimiter, quoting.quoted), SAMPLE_ROWS)
        rows = [None if isinstance(record.cells, BadRow) else record.cells for record in records]
    header, header_note = header_of(rows, path, options)
    notes = (encoding.note, note, quoting.note, header_note)
    return Dialect(encoding.name, delimiter, quoting.quoted, header, tuple(filter(None, notes)))


# --- what stands between cells ---


def _delimiter_of(path: Path, encoding: str, usual: str) -> tuple[str, str]:
    """What stands between the cells, and a note where it is not what is usual."""
    lines = _first_lines(path, encoding)
    fits = {delimiter: _fit(lines, delimiter) for delimiter in DELIMITERS}
    width, share = fits.pop(usual)
    others = {each: found for each, found in fits.items() if found[0] > 1 and found[1] >= FITTING_SHARE}
    if width > 1:  # the usual one; what else is in every line, the same number of times, contests it
        others = {each: found for each, found in others.items() if found[1] == 1 or share < FITTING_SHARE}
        several = {usual: width, **{each: found[0] for each, found in others.items()}}
    else:
        several = {each: found[0] for each, found in others.items()} or {usual: width}
    if len(several) > 1 and len(lines) > 1:
        raise _ambiguous_delimiter(path, lines, several)
    taken = next(iter(several))
    if taken == usual:
        return usual, ""
    flag = f"--data.delimiter {_named(usual)} takes {DELIMITERS[usual]}"
    name = escape.line(path.name, 100)
    return taken, f"{name}: cells are separated by {DELIMITERS[taken]}, {several[taken]} a line; {flag}"


def _first_lines(path: Path, encoding: str) -> list[str]:
    """Whole lines from the start of a file; of one with a longer first line, the start of that."""
    lines, left = [], SAMPLE_CHARACTERS
    with open_text(path, encoding) as stream:
        while left > 0 and (line := stream.readline(left)):
            lines.append(line)
            left -= len(line)
    return lines[:-1] if left <= 0 and len(lines) > 1 else lines


def _fit(lines: list[str], delimiter: str) -> tuple[int, float]:
    """Cells of the first record, and the share of the records that have as many: of the better reading."""
    if not any(delimiter in line for line in lines):
        return 1, 1.0
    found = []
    for quoted in (True, False):
        records = list(itertools.takewhile(_is_whole, read_records(lines, delimiter, quoted)))
        if not records or sum(record.lines for record in records) < len(lines) / 2:
            continue
        widths = [len(record.cells) for record in records if isinstance(record.cells, list)]
        found.append((widths[0], sum(width == widths[0] for width in widths) / len(widths)))
    return max(found, key=lambda each: each[1], default=(1, 0.0))  # of equals the first: quoted cells


def _is_whole(record: Record) -> bool:
    return not isinstance(record.cells, BadRow)


def _named(delimiter: str) -> str:
    return {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}[delimiter]


def _ambiguous_delimiter(path: Path, lines: list[str], several: dict[str, int]) -> UserError:
    """Shows the first two records as each delimiter gives them."""

    def shown(delimiter: str) -> str:
        records = list(itertools.islice(read_records(lines, delimiter, True), 2))
        if not all(map(_is_whole, records)):
            records = list(itertools.islice(read_records(lines, delimiter, False), 2))
        return " and ".join(_shown_cells(record) for record in records)

    ways = "; ".join(f"--data.delimiter {_named(each)} reads {shown(each)}" for each in several)
    return UserError(
        f"{path} can be read in {len(several)} ways, as {' and '.join(DELIMITERS[each] for each in several)} "
        f"separate as many cells in every line. {ways}. Say which it is."
    )


def _shown_cells(record: Record) -> str:
    return escape.line(json.dumps(record.cells, ensure_ascii=False, default=str), 200)


# --- quotes ---


class Layout(NamedTuple):
    """A file, and what has to be known before its quotes can be looked at."""

    path: Path
    encoding: str
    delimiter: str


class Quoting(NamedTuple):
    """How `"` in a delimited file is taken.

    `quoted`: whether it opens and closes cells that may hold line ends; else it is an ordinary character.
    `note`: what a person has to know of that choice, one line, or "".
    """

    quoted: bool
    note: str


def _quoting_of(layout: Layout, form: str, wanted: str) -> Quoting:
    """How to take `"` in a CSV or TSV file: as `wanted` says, or found by reading it in both ways.

    A reader that takes a stray `"` for the start of a quoted cell swallows line ends, and with them rows. So
    the records are counted in both ways. Quoted cells it is where every record then has as many cells as the
    header; unless every line has, too, and some records hold line ends: then nothing in the file decides. A
    TSV file is taken as unquoted then, and for a CSV file the user is asked.

    Args:
        form: `csv` or `tsv`.
        wanted: `csv` for quoted cells, `none` for unquoted ones, `auto` to find out.

    Raises:
        UserError: both ways are sound and give different rows.
    """
    path = layout.path
    with open_text(path, layout.encoding) as stream:
        if not any('"' in block for block in iter(lambda: stream.read(1 << 16), "")):
            return Quoting(wanted != "none", "")
    name = escape.line(path.name, 100)
    if wanted == "none":
        return Quoting(False, f'{name}: a " is an ordinary character (--data.quoting none)')
    quoted = _scan(layout, quoted=True)
    spans = quoted.spanning and (
        f"{name}: {quoted.spanning:,} record{'s' * (quoted.spanning > 1)} hold{'s' * (quoted.spanning == 1)} "
        f"line ends inside quotes, the first at row {quoted.first_spanning.number} "
        f"(lines {quoted.first_spanning.line} to {quoted.first_spanning.end})"
    )
    if wanted == "csv":
        return Quoting(True, f"{spans} (--data.quoting csv)" if spans else "")
    if quoted.clean and not spans:
        return Quoting(True, "")
    unquoted = _scan(layout, quoted=False)
    spans = spans and f"{spans}; --data.quoting none takes each line as a row"
    if quoted.clean and (not unquoted.clean or unquoted.width < 2):
        return Quoting(True, spans or "")
    if quoted.clean and (unquoted.has_quoted_cells or form == "csv"):
        raise _ambiguous_quoting(layout, quoted.first_spanning)
    if unquoted.clean and not unquoted.has_quoted_cells:
        why = "every line has as many cells as the header"
        if not quoted.clean:
            why += f", and with quoted cells {quoted.bad:,} row{'s' * (quoted.bad > 1)} would be broken"
        return Quoting(
            False,
            f'{name}: a " is an ordinary character: {why}; --data.quoting csv takes it as the start or '
            "end of a quoted cell",
        )
    return Quoting(True, spans or "")


class _Span(NamedTuple):
    number: int = 0
    line: int = 0
    end: int = 0


NO_SPAN = _Span()


@dataclass
class _Scan:
    """Statistics of reading a delimited file with, or without, quoted cells.

    Attributes:
        width: cells of the header.
        bad: records that are broken, or have another number of cells than the header.
        spanning: records that hold line ends.
        first_spanning: the first of them.
        has_quoted_cells: of an unquoted reading: whether some cell stands in quotes as a whole, or a name in
            the header has one, so that the file is likely to use them as CSV does.
    """

    width: int = 0
    bad: int = 0
    spanning: int = 0
    first_spanning: _Span = NO_SPAN
    has_quoted_cells: bool = False

    @property
    def clean(self) -> bool:
        return not self.bad


def _scan(layout: Layout, quoted: bool) -> _Scan:
    found = _Scan()
    with open_text(layout.path, layout.encoding) as stream:
        for number, (line, lines, cells) in enumerate(read_records(stream, layout.delimiter, quoted)):
            if isinstance(cells, BadRow):
                found.bad += 1
                continue
            if not number:
                found.width = len(cells)
                found.has_quoted_cells = any('"' in cell for cell in cells)
            elif len(cells) != found.width:
                found.bad += 1
            if lines > 1:
                found.spanning += 1
                if found.spanning == 1:
                    found.first_spanning = _Span(number, line, line + lines - 1)
            found.has_quoted_cells |= any(
                len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells if '"' in cell
            )
    return found


def _ambiguous_quoting(layout: Layout, span: _Span) -> UserError:
    """Shows the first record that holds line ends as it would be read in each way."""

    def shown(quoted: bool) -> str:
        with open_text(layout.path, layout.encoding) as stream:
            records = read_records(stream, layout.delimiter, quoted)
            cells = [each.cells for each in records if span.line <= each.line <= span.end]
        return " and ".join(escape.line(json.dumps(each, ensure_ascii=False), 200) for each in cells[:2])

    more = ", …" if span.end - span.line > 1 else ""
    return UserError(
        f"{layout.path} can be read in two ways. With quoted cells, row {span.number} (lines {span.line} to "
        f'{span.end}) is {shown(True)}; with a " as an ordinary character these lines are '
        f"{shown(False)}{more}. "
        "Say which it is: --data.quoting csv or --data.quoting none."
    )
