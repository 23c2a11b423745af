"""The settings that say which columns make a text, and how: read, and written into checkpoints.

python -m lit_bert fit --data.text_column title,body --data.text_form joined
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.texts import MAX_COLUMNS, TextForm


def parse_names(text: str, setting: str) -> tuple[str, ...]:
    """The columns that a setting names: with commas between them, as in a line of CSV, or one as it is."""
    if "," not in text and '"' not in text:
        return (text,)
    try:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True), [])]
    except csv.Error as error:
        raise UserError(
            f"data.{setting} is {escape.line(text, 200)}; expected names with commas between them ({error})."
        ) from None
    if not all(names) or len(set(names)) < len(names) or len(names) > MAX_COLUMNS:
        raise UserError(
            f"data.{setting} is {escape.line(text, 200)}; expected different names of columns, at most "
            f"{MAX_COLUMNS}."
        )
    return tuple(names)


def names_as_setting(names: Sequence[str]) -> str:
    """What `parse_names` reads as these names."""
    if len(names) == 1 and "," not in names[0] and '"' not in names[0]:
        return names[0]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(names)
    return stream.getvalue()


def form_of(columns: Sequence[str], wanted: str) -> Literal["single", "pair", "joined"]:
    """The form of a text of these columns.

    Args:
        wanted: auto, pair or joined.

    Raises:
        UserError: it is not one that so many columns can have.
    """
    names = ", ".join(escape.line(name, 60) for name in columns)
    if wanted == "pair" and len(columns) != 2:
        raise UserError(
            f"data.text_form is pair, and data.text_column names {len(columns)} column"
            f"{'s' * (len(columns) != 1)} ({names}); expected two. Name two, or join all of them in one text "
            "with --data.text_form joined."
        )
    if wanted == "joined" and len(columns) < 2:
        raise UserError(
            f"data.text_form is joined, and data.text_column names one column ({names}); expected several, "
            "as in --data.text_column title,body."
        )
    if len(columns) == 1:
        return "single"
    return "pair" if len(columns) == 2 and wanted != "joined" else "joined"


def form_in_settings(text_column: str, text_form: str) -> TextForm:
    """The form of a text, by the settings of a checkpoint."""
    names = parse_names(text_column, "text_column")
    return TextForm(form_of(names, text_form), names)
