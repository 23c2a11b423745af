"""The columns of the file that predictions came from, which the predictions do not keep.

python -m lit_bert report checkpoints/version_0 --columns reviews.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.data.cells import BadRow, CellError, Row, text_in
from lit_bert.data.readers.options import DEFAULT, ReadOptions
from lit_bert.data.rows import column_names, read_rows
from lit_bert.evaluate.predictions import Predictions
from lit_bert.io import escape
from lit_bert.io.texts import TextForm


def read_columns(
    file: Path, predictions: Predictions, form: TextForm, options: ReadOptions = DEFAULT
) -> dict[str, list[Any]]:
    """The cells of each column but those of the text, N each, in the order of the predictions.

    Args:
        file: of the split that was scored.
        form: what made the texts, of which columns.
        options: how the rows were read that the model was trained on.

    Raises:
        UserError: the file cannot be read, or its rows are not those that were scored.
    """
    name, columns = escape.line(file, 200), column_names(file, options)
    wanted = {int(row) + 1: index for index, row in enumerate(predictions.rows.tolist())}
    rows: list[Row] = [{}] * len(wanted)
    missing = set(wanted)
    for numbered in read_rows(file, options):
        index = wanted.get(numbered.number)
        if index is not None and not isinstance(numbered.row, BadRow):
            rows[index] = numbered.row
            missing.discard(numbered.number)
    if missing:
        raise UserError(
            f"--columns {name} has no row {min(missing):,}, which was scored. Give the file of the split "
            f"{escape.line(predictions.facts.get('split'), 60)}."
        )
    for found in forms_in(columns, form):
        if all(_has_text(row, found, text) for row, text in zip(rows, predictions.texts, strict=True)):
            others = [column for column in columns if column not in found.columns]
            return {column: [row.get(column) for row in rows] for column in others}
    raise UserError(
        f"--columns {name}: no column has the texts that were scored in the rows where they stood. Give the "
        f"file of the split {escape.line(predictions.facts.get('split'), 60)}."
    )


def forms_in(columns: list[str], form: TextForm) -> list[TextForm]:
    """What may have made the texts: the form that is known, and of single texts any column."""
    known = [form] if set(form.columns) <= set(columns) else []
    if form.kind != "single":
        return known
    return known + [TextForm("single", (column,)) for column in columns if column not in form.columns]


def _has_text(row: Row, form: TextForm, text: Any) -> bool:
    try:
        return text_in(row, form) == text
    except CellError:
        return False
