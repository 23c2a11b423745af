"""Whether the first row of a table holds the names of its columns.

The rule, for the first `SAMPLE_ROWS` rows:

- A row with all columns that data.text_column and data.label_column name is one; in `predict`, the former.
- For a header speaks a usual name (`USUAL_NAMES`), and a name over a column of numbers alone.
- Against it speaks a cell that comes again below, in a column where values recur; and, without a usual name,
  a number over a column of numbers.
- Nothing but 0, 1, 2, …, which some programs write as names: the user is asked.
- Both, or neither: there is none where the settings name column_1, column_2, …. Else with both the user is
  asked, and with neither it is a header, which is said.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.data.columns import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES
from lit_bert.data.readers.delimited import numbered_columns
from lit_bert.data.readers.options import ReadOptions
from lit_bert.io import escape
from lit_bert.sources.text_settings import parse_names

SAMPLE_ROWS = 500
USUAL_NAMES = frozenset(
    [
        *(*TEXT_NAMES, *LABEL_NAMES, *itertools.chain(*PAIR_NAMES)),
        *"tweets reviews messages comments title targets ratings id idx index row number".split(),
        *"date time name url source author user lang language split".split(),
    ]
)


def header_of(rows: Sequence[Sequence[Any] | None], path: Path, options: ReadOptions) -> tuple[bool, str]:
    """Whether the first row is a header, and a note where that was not plain, or "".

    Args:
        rows: the first rows; None for one that cannot be read.

    Raises:
        UserError: the rule does not decide.
    """
    first = rows[0] if rows else None
    if options.header is not None or not first:
        return options.header is not False, ""
    cells = ["" if cell is None else str(cell) for cell in first]
    if _has_columns(cells, options.columns):
        return True, ""
    names = [cell.strip() for cell in cells]
    rest = [row for row in rows[1:] if row is not None and len(row) == len(names)]
    columns = [
        [str(row[index]).strip() for row in rest if row[index] not in (None, "")]
        for index in range(len(names))
    ]
    usual = any(name.casefold() in USUAL_NAMES for name in names)
    pairs = list(zip(names, columns, strict=True))
    over_numbers = any(
        name and not _is_number(name) and column and all(map(_is_number, column)) for name, column in pairs
    )
    recurs = any(name in column and len(set(column)) <= len(column) / 2 for name, column in pairs if name)
    is_data = any(_is_number(name) and column and all(map(_is_number, column)) for name, column in pairs)
    counted = len(names) > 1 and names == [str(index) for index in range(len(names))]
    against = recurs or (is_data and not usual)
    shown = escape.line(path.name, 100)
    speaks_for = usual or over_numbers
    is_numbered = _has_columns(numbered_columns(len(names)), options.columns)
    if (counted and rest) or (against and speaks_for and not is_numbered):
        raise _question(path, rows)
    if against or (is_numbered and not speaks_for):
        return False, (
            f"{shown}: the first line is a row as the others are, so the columns are called column_1 to "
            f"column_{len(names)}; --data.header true takes it for their names"
        )
    if speaks_for or not rest:
        return True, ""
    columns_shown = ", ".join(escape.line(name, 40) for name in names[:10])
    return True, (
        f"{shown}: the first line is taken for the names of the columns ({columns_shown}); --data.header "
        "false takes it for a row"
    )


def _has_columns(names: Sequence[str], wanted: Sequence[tuple[str, str]]) -> bool:
    """Whether all columns that settings name are among these; False where none is named."""
    return bool(wanted) and all(
        text in names or set(parse_names(text, setting)) <= set(names) for setting, text in wanted
    )


def _is_number(text: str) -> bool:
    return escape.PLAIN_NUMBER.fullmatch(text) is not None


def _question(path: Path, rows: Sequence[Sequence[Any] | None]) -> UserError:
    def shown(row: Sequence[Any] | None) -> str:
        return escape.line(json.dumps(row, ensure_ascii=False, default=str), 200)

    return UserError(
        f"{path} can be read in two ways. With --data.header true the columns are called {shown(rows[0])}, "
        f"and the first row is {shown(rows[1])}; with --data.header false the first row is {shown(rows[0])}. "
        "Say which it is."
    )
