"""Whether the first row of a table holds the names of its columns.

The rule, for the first `SAMPLE_ROWS` rows:

- For a header speaks a usual name (`USUAL_NAMES`), and a name over a column of numbers alone.
- Against it speaks a cell that comes again below, in a column where values recur; and, without a usual name,
  a number over a column of numbers.
- Both, or nothing but 0, 1, 2, …, which some programs write as names: the user is asked. Neither: it is a
  header, and that is said.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.data.columns import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES
from lit_bert.io import escape

SAMPLE_ROWS = 500
USUAL_NAMES = frozenset(
    [
        *(*TEXT_NAMES, *LABEL_NAMES, *itertools.chain(*PAIR_NAMES)),
        *"tweets reviews messages comments title targets ratings id idx index row number".split(),
        *"date time name url source author user lang language split".split(),
    ]
)


def header_of(rows: Sequence[Sequence[Any] | None], path: Path, wanted: bool | None) -> tuple[bool, str]:
    """Whether the first row is a header, and a note where that was not plain, or "".

    Args:
        rows: the first rows; None for one that cannot be read.
        wanted: what the user says, or None.

    Raises:
        UserError: the rule does not decide.
    """
    first = rows[0] if rows else None
    if wanted is not None or not first:
        return wanted is not False, ""
    names = ["" if cell is None else str(cell).strip() for cell in first]
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
    if (counted and rest) or (against and (usual or over_numbers)):
        raise _question(path, rows)
    if against:
        return False, (
            f"{shown}: the first line is a row as the others are, so the columns are called column_1 to "
            f"column_{len(names)}; --data.header true takes it for their names"
        )
    if usual or over_numbers or not rest:
        return True, ""
    columns_shown = ", ".join(escape.line(name, 40) for name in names[:10])
    return True, (
        f"{shown}: the first line is taken for the names of the columns ({columns_shown}); --data.header "
        "false takes it for a row"
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
