"""Texts and labels that come as Python objects: lists, frames of pandas and polars, Arrow tables, Datasets.

A kind of object is known by the library that it is of, which is not imported here: whoever has such an object
has it installed. numpy only, as the predictor reads them, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
TEXT, PAIR = "text", "text_pair"  # columns of texts that come without names


class Frame(NamedTuple):
    """Rows, and the way back to the kind of object that they came in.

    Attributes:
        columns: their names.
        rows: by column; a stream where the object is one.
        with_columns: from names and values of new columns to the same kind of object, with them beside its
            own; a ValueError where it has one of that name.
    """

    columns: list[str]
    rows: Iterable[Row]
    with_columns: Callable[[Mapping[str, Sequence[Any]]], Any]


def frame_of(given: Any) -> Frame:
    """The rows of an object.

    Args:
        given: a pandas or polars DataFrame or Series, an Arrow table or array, a Dataset, or strings, pairs
            of strings or mappings in any iterable.

    Raises:
        TypeError: it is one string, or something else.
        ValueError: two columns have one name.
    """
    frame = _read(given)
    if twice := [name for name, count in Counter(frame.columns).items() if count > 1]:
        raise ValueError(f"several columns are called {twice[0]!r}; rename all but one of them")

    def with_columns(new: Mapping[str, Sequence[Any]]) -> Any:
        if clash := [name for name in new if name in frame.columns]:
            raise ValueError(f"there is a column {clash[0]!r} already; rename it, or leave it out")
        return frame.with_columns(new)

    return frame._replace(with_columns=with_columns)


def _read(given: Any) -> Frame:
    library = type(given).__module__.partition(".")[0]
    name = type(given).__name__
    if library == "pandas" and name == "DataFrame":
        return _of_pandas(given)
    if library == "pandas" and name == "Series":
        return _of_pandas(given.to_frame(given.name if isinstance(given.name, str) else TEXT))
    if library == "polars" and name in ("DataFrame", "Series"):
        return _of_polars(given if name == "DataFrame" else given.to_frame(given.name or TEXT))
    if library == "pyarrow" and hasattr(given, "to_batches"):
        return _of_arrow(given)
    if library == "datasets" and name == "Dataset":
        return _of_dataset(given)
    if (
        isinstance(given, str | bytes | Mapping)
        or not isinstance(given, Iterable)
        or hasattr(given, "toarray")
    ):
        sparse = "sparse " if hasattr(given, "toarray") else ""
        raise TypeError(
            f"got a {sparse}{name}; expected texts: a list of strings, a frame, a table or a Dataset"
        )
    return _of_iterable(given)


def text_in(row: Row, kind: str, columns: Sequence[str]) -> Any:
    """The text of a row as the predictor takes it: a string, two of them, or one by column.

    Args:
        kind: single, pair or joined.
        columns: that a text has; of a single one, or a pair, that came without names, `text` and `text_pair`.
    """
    unnamed = (TEXT, PAIR)[: len(columns)]
    names = unnamed if columns[0] not in row and unnamed[0] in row and kind != "joined" else columns
    if kind == "single" and names[0] not in row and len(row) == 1:
        names = list(row)
    cells = [row.get(name) for name in names]
    if kind == "single":
        return cells[0]
    return cells if kind == "pair" else dict(zip(columns, cells, strict=True))


def _of_pandas(frame: Any) -> Frame:
    names = [str(each) for each in frame.columns]

    def rows() -> Iterable[Row]:
        for values in frame.itertuples(index=False, name=None):
            yield dict(zip(names, map(_plain, values), strict=True))

    return Frame(names, rows(), lambda new: frame.assign(**{key: list(value) for key, value in new.items()}))


def _of_polars(frame: Any) -> Frame:
    def with_columns(new: Mapping[str, Sequence[Any]]) -> Any:
        added = type(frame)({key: list(value) for key, value in new.items()}, strict=False)
        return frame.hstack(added)

    return Frame(list(frame.columns), frame.iter_rows(named=True), with_columns)


def _of_arrow(table: Any) -> Frame:
    def rows() -> Iterable[Row]:
        for batch in table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()

    def with_columns(new: Mapping[str, Sequence[Any]]) -> Any:
        import pyarrow as pa

        whole = table
        for key, value in new.items():
            whole = whole.append_column(key, pa.array(list(value)))
        return whole

    return Frame(list(table.schema.names), rows(), with_columns)


def _of_dataset(dataset: Any) -> Frame:
    def with_columns(new: Mapping[str, Sequence[Any]]) -> Any:
        whole = dataset
        for key, value in new.items():
            whole = whole.add_column(key, list(value))
        return whole

    return Frame(list(dataset.column_names), dataset, with_columns)


def _of_iterable(given: Iterable[Any]) -> Frame:
    """Records come back as records: each text's own columns, then the new ones."""
    items = given if isinstance(given, Sequence) else list(given)
    rows = [_row(item, number) for number, item in enumerate(items, 1)]
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def with_columns(new: Mapping[str, Sequence[Any]]) -> Any:
        return [
            {**row, **{key: value[place] for key, value in new.items()}} for place, row in enumerate(rows)
        ]

    return Frame(columns, rows, with_columns)


def _row(item: Any, number: int) -> Row:
    """A text as a row: a string, two of them, or one that has its columns already."""
    if isinstance(item, str):  # numpy's, too
        return {TEXT: str(item)}
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()}
    is_pair = (
        isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(each, str) for each in item)
    )
    if is_pair:
        return {TEXT: item[0], PAIR: item[1]}
    raise TypeError(
        f"item {number} is a {type(item).__name__}; expected a string, a pair of them or a mapping"
    )


def _plain(value: Any) -> Any:
    """A cell of pandas as Python has it: its missing values are no text."""
    if value is None or (isinstance(value, float) and value != value) or type(value).__name__ == "NAType":
        return None
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
