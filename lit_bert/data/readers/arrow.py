"""Parquet, Feather and Arrow files, a batch at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, Row, refuse_repeated_columns
from lit_bert.io import escape

PARQUET_ROWS = 1024  # rows held in memory at a time
READ_BYTES = 1 << 20  # of a column at a time


def read_arrow(path: Path, form: str) -> Iterator[Numbered]:
    """The rows of a file, `form` being `parquet` or `arrow`."""
    import pyarrow

    number = 0
    with _open(path, form) as (schema, batches):
        refuse_repeated_columns(schema.names, path)
        while True:
            try:
                batch = next(batches, None)
                if batch is not None and form == "arrow":  # Parquet's are checked while they are decoded
                    batch.validate(full=True)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise UserError(
                    f"{path} cannot be read after row {number}: {escape.first_line(error)}"
                ) from None
            if batch is None:
                return
            for row in _rows(batch):
                number += 1
                yield Numbered(number, 0, row)


def arrow_columns(path: Path, form: str) -> list[str]:
    """The columns of a file, in order."""
    with _open(path, form) as (schema, _):
        refuse_repeated_columns(schema.names, path)
        return schema.names


def class_names(path: Path, form: str, column: str) -> list[str] | None:
    """The names of a ClassLabel column as `datasets` writes them into a file's schema, else None."""
    with _open(path, form) as (schema, _):
        metadata = schema.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return feature["names"] if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # not the metadata of `datasets`
        return None


def _rows(batch: Any) -> Iterator[Row | BadRow]:
    """The rows of an Arrow batch; row by row if it cannot be converted, so that only one is lost."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield BadRow(f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1} is not UTF-8")
        except (ValueError, OverflowError) as error:
            yield BadRow(escape.first_line(error))


@contextlib.contextmanager
def _open(path: Path, form: str) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema of a file and its batches, or a UserError that says the file is none."""
    import pyarrow
    import pyarrow.parquet

    name = {"parquet": "Parquet", "arrow": "Arrow or Feather"}[form]
    with contextlib.ExitStack() as stack:
        try:
            if form == "parquet":
                # By default it keeps all that it has read (pre_buffer), and a column of a row group.
                streamed: Any = {"pre_buffer": False, "buffer_size": READ_BYTES}
                file = stack.enter_context(pyarrow.parquet.ParquetFile(path, **streamed))
                schema, batches = file.schema_arrow, file.iter_batches(batch_size=PARQUET_ROWS)
            else:
                schema, batches = _open_ipc(path, stack)
        except PermissionError:
            raise
        except (OSError, ValueError, pyarrow.ArrowException) as error:  # ArrowInvalid is a ValueError
            raise UserError(
                f"{path} is not a readable {name} file, perhaps a truncated one "
                f"({escape.first_line(error)}). Copy or write it again."
            ) from None
        yield schema, batches


def _open_ipc(path: Path, stack: contextlib.ExitStack) -> tuple[Any, Iterator[Any]]:
    """A file of Arrow's own form, with its batches listed at the end (as Feather is), or a stream of them."""
    import pyarrow
    import pyarrow.ipc

    stream = stack.enter_context(pyarrow.OSFile(str(path)))
    start = stream.read(6)
    stream.seek(0)
    if start == b"ARROW1":
        file = stack.enter_context(pyarrow.ipc.open_file(stream))
        return file.schema, (
            part for index in range(file.num_record_batches) for part in _parts(file.get_batch(index))
        )
    reader = stack.enter_context(pyarrow.ipc.open_stream(stream))
    return reader.schema, (part for batch in reader for part in _parts(batch))


def _parts(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, PARQUET_ROWS) for start in range(0, batch.num_rows, PARQUET_ROWS))
