"""X, y, sample_weight and groups, as an estimator's `fit` is given them, into the file that a fit reads.

What X, y and the others hold is checked here, where they still have these names; scikit-learn wants a
ValueError for most of it, and some of its words.

    python -c "from lit_bert import TextClassifier; TextClassifier().fit(frame, labels, groups=authors)"
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import column_or_1d

from lit_bert.data.cells import CellError, Numbered, missing_column, text_in
from lit_bert.data.columns import LABEL, find_columns, stored_form
from lit_bert.data.frames import Frame, Row
from lit_bert.data.writer import RowWriter
from lit_bert.io.texts import TextForm
from lit_bert.sources.text_settings import names_as_setting

COLUMNS = {  # that are written beside those of X: the setting that names each, and its name
    "y": ("data.label_column", LABEL),
    "sample_weight": ("data.weight_column", "lit_bert weight"),
    "groups": ("data.group_column", "lit_bert group"),
}


class Labels(NamedTuple):
    """y, as it is written.

    Attributes:
        values: one a text: a label, or a list of them.
        columns: how many the array of 0 and 1 had that it came in; 0 where it was none.
    """

    values: list[Any]
    columns: int = 0


class Table(NamedTuple):
    """The rows of X, and the other arguments, by their names: a value a row each."""

    columns: list[str]
    rows: list[Row]
    others: dict[str, list[Any]]

    @classmethod
    def of(cls, frame: Frame, others: dict[str, list[Any]]) -> Table:
        """The rows of a frame.

        Raises:
            ValueError: there are none, or not as many as values of another argument.
        """
        rows = list(frame.rows)
        if not rows:
            raise ValueError("there are no texts; expected at least a few of each class")
        for name, values in others.items():
            if len(values) != len(rows):
                raise ValueError(
                    f"X has {len(rows)} texts, and {name} {len(values)} values; expected one each"
                )
        return cls(frame.columns, rows, others)

    def names(self, taken: Collection[str]) -> dict[str, str]:
        """The column of each other argument: none that is taken."""
        return {argument: _free_name(COLUMNS[argument][1], taken) for argument in self.others}

    def text_settings(self, given: Mapping[str, Any], label: str) -> dict[str, str]:
        """The settings that name the columns of the text, found as in a file, in X alone.

        Args:
            given: settings of the user.
            label: the column of y.

        Raises:
            UserError: they are not there, or not certain.
            ValueError: a row has no text, where the user does not skip such rows.
        """
        numbered = (Numbered(number, 0, row) for number, row in enumerate(self.rows, 1))
        text, form = given.get("data.text_column"), given.get("data.text_form", "auto")
        found = find_columns(numbered, text, label, form, "X")
        for column in found.text:
            if column not in self.columns:
                raise missing_column(column, self.columns, "text_column", "X")
        if given.get("data.missing") != "skip":
            for number, row in enumerate(self.rows, 1):
                check_text(row, found.text_form, number)
        return {"data.text_column": names_as_setting(found.text), "data.text_form": stored_form(found)}

    def write(self, file: Path, names: Mapping[str, str]) -> None:
        """Writes all of it, the other arguments under these names."""
        columns = {names[argument]: values for argument, values in self.others.items()}
        with RowWriter(file, [*self.columns, *columns]) as writer:
            writer.write(
                {**row, **{name: values[place] for name, values in columns.items()}}
                for place, row in enumerate(self.rows)
            )


def check_text(row: Row, form: TextForm, number: int) -> None:
    """Raises a ValueError where a row of X has no text."""
    try:
        problem = None if text_in(row, form) is not None else "no text"
    except CellError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"item {number} of X has {problem} ({', '.join(form.columns)}); expected a string")


def list_or_array(values: Any, name: str) -> list[Any] | np.ndarray:
    """One value a text: a list of values of Python, or, of several labels a text, an array (N, C).

    Args:
        name: what messages call it.

    Raises:
        ValueError: it is an array of another shape.
        TypeError: it is one value.
    """
    if hasattr(values, "toarray"):  # sparse
        values = values.toarray()
    for method in ("to_list", "to_pylist"):  # one column of pandas or polars; of Arrow
        if hasattr(values, method):
            return list(getattr(values, method)())
    if hasattr(values, "__array__"):
        array = np.asarray(values)
        if array.ndim == 2 and array.shape[1] != 1:
            return array
        return list(column_or_1d(array, warn=True).tolist())
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} is a {type(values).__name__}; expected one value for each text")
    return [native(value) for value in values]


def native(value: Any) -> Any:
    """A value of numpy as Python has it."""
    return value.item() if isinstance(value, np.generic) else value


def one_a_text(values: Any, name: str) -> list[Any]:
    """One value a text, as `list_or_array`.

    Raises:
        ValueError: it is an array with several.
    """
    found = list_or_array(values, name)
    if isinstance(found, np.ndarray):
        raise ValueError(f"{name} has the shape {found.shape}; expected one value for each text")
    return found


def weights_of(sample_weight: Any) -> list[float]:
    """A weight a text.

    Raises:
        ValueError: one is none, or all are zero.
    """
    weights = np.asarray(one_a_text(sample_weight, "sample_weight"), dtype=float)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError("sample_weight has a value below zero or none above zero; expected zero or more")
    return list(weights.tolist())


def _free_name(name: str, taken: Collection[str]) -> str:
    """The name, with a sign behind it where another column has it."""
    while name in taken:
        name += "_"
    return name
