"""The predictions of a checkpoint for labelled rows, as a Parquet file beside it: all that a report needs.

`fit`, `validate` and `test` write it, `report`, `audit` and `export` read it.

    python -m lit_bert validate && python -m lit_bert report
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.scores import Score, Scores, all_scores, with_intervals
from lit_bert.io import escape, files, untrusted
from lit_bert.io.texts import Text, text_cells
from lit_bert.task.base import Task
from lit_bert.task.kinds import task_of_plain
from lit_bert.task.single import SingleLabel

VALIDATED, TESTED = "validate.parquet", "test.parquet"  # by the verb that scores the split
TRAINED = "train_hashes.bin"  # of the texts that a run trains on: uint64, little-endian
PROBABILITY = "probability_"  # and the class: one column each, as `predict` writes them
VALUE = "predicted_value"  # likewise, of a number
TEXTS = ("text", "text_pair")  # columns of the text; the second of pairs alone
FACTS, CLASSES, TASK = b"lit_bert", b"lit_bert classes", b"lit_bert task"  # keys of the file's metadata

MAX_LABEL = 200  # characters of a label in words
MAX_BYTES = 16 << 30  # of a file
MAX_VALUES = 1 << 31  # probabilities, and bytes of text, that are read into memory


def _checked_table(path: Path) -> tuple[Any, Task]:
    """The Arrow table in a file of predictions: whoever wrote it, each column is what `write` would write.

    Returns:
        The table, and the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else; the message says what.
    """
    import pyarrow as pa
    import pyarrow.parquet

    path.stat()
    try:
        with untrusted.open_regular(path, MAX_BYTES) as stream:
            metadata = pa.parquet.read_metadata(stream)
            plain = metadata.schema.to_arrow_schema()
            texts = [name for name in TEXTS if name == "text" or name in plain.names]
            strings = [name for name in (*texts, "label") if _is_string(plain, name)]
            file = pa.parquet.ParquetFile(stream, metadata=metadata, read_dictionary=strings)
            schema, rows = file.schema_arrow, metadata.num_rows
            if len(set(schema.names)) < len(schema.names) or not rows:
                raise ValueError("no rows, or a column twice")
            facts = untrusted.parse_object(schema.metadata[FACTS].decode(), "its metadata")
            task = _task_of(schema)
            names = output_columns(task)
            if rows * len(names) > MAX_VALUES:
                raise ValueError(f"{rows:,} rows of {len(names):,} outputs, which is too much")
            for name in ("row", *texts, "label", *names):
                if name not in schema.names or not _has_type(schema.field(name).type, name, task):
                    raise ValueError(f"column {escape.line(name, 80)} is missing or of another type")
            table = file.read(columns=["row", *texts, "label", *names])
        table = table.replace_schema_metadata({**schema.metadata, FACTS: json.dumps(facts)})
        for name in (*texts, *(["label"] if task.label_form == "class" else [])):
            column = table.column(name)
            characters = sum(_characters(chunk) for chunk in column.chunks)
            if characters > MAX_VALUES:
                raise ValueError(f"{characters:,} characters in column {name}, which is too much")
            table = table.set_column(table.column_names.index(name), name, column.cast(pa.string()))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        numbers = table.column("row").to_numpy()
        if numbers.min() < 0 or len(np.unique(numbers)) < rows:
            raise ValueError("a row's number is negative or comes twice")
        outputs = np.stack([table.column(name).to_numpy() for name in names], axis=1)
        if not np.isfinite(outputs).all():
            raise ValueError("outputs that are not finite")
        if problem := task.outputs_problem(outputs):
            raise ValueError(problem)
        return table, task
    except Exception as error:  # Arrow has many of its own
        raise ValueError(str(error)) from error


def _has_type(kind: Any, column: str, task: Task) -> bool:
    import pyarrow as pa

    if column == "row":
        return bool(pa.types.is_integer(kind))
    if column == "label" and task.label_form == "classes":
        return bool(pa.types.is_list(kind) and pa.types.is_string(kind.value_type))
    if column in TEXTS or (column == "label" and task.label_form == "class"):
        return bool(pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
    return bool(pa.types.is_floating(kind))


def _is_string(schema: Any, name: str) -> bool:
    import pyarrow as pa

    return name in schema.names and bool(pa.types.is_string(schema.field(name).type))


def label_text(task: Task, label: Any) -> str:
    """A stored label or prediction of a row on one line, with the names of classes as tables have them."""
    named = replace(task, class_names=tuple(escape.names(task.class_names)))
    return escape.line(named.shown(label), MAX_LABEL)


def output_columns(task: Task) -> list[str]:
    """The columns of outputs, C of them."""
    return [VALUE] if task.label_form == "number" else [PROBABILITY + name for name in task.class_names]


def _characters(chunk: Any) -> int:
    """Bytes of a dictionary-encoded column once it is decoded."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(chunk.dictionary).cast("int64").take(chunk.indices)).as_py() or 0)


@dataclass(frozen=True)
class Predictions:
    """Labelled rows with what a model said of them.

    Attributes:
        task: what labels and outputs are.
        texts: N of them, in the order of the data; a pair is two strings.
        rows: int64 (N,), their numbers in the split, from 0.
        labels: (N,) or (N, C), as the task stores them.
        outputs: float32 (N, C).
        facts: their origin, plain values: split, checkpoint, sha256, sources, …; `used_for` says what
            these rows decided about the model before they were scored.
    """

    task: Task
    texts: list[Text]
    rows: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """C of them."""
        return list(self.task.class_names)

    @cached_property
    def preds(self) -> np.ndarray:
        """What the rows were taken for, as their labels are stored."""
        return self.task.predictions(self.outputs)

    @cached_property
    def errors(self) -> np.ndarray:
        """Indices of the wrong rows, the worst first."""
        return self.task.errors(self.outputs, self.labels)

    @property
    def evidence(self) -> Evidence:
        """How many rows there are of each class, and what they were used for."""
        used_for = self.facts.get("used_for")
        known = isinstance(used_for, list) and all(isinstance(each, str) for each in used_for)
        return Evidence.of(self.task, self.outputs, self.labels, used_for if known else None)

    @cached_property
    def scores(self) -> Scores[float]:
        """Without their intervals."""
        return all_scores(self.task, self.outputs, self.labels)

    @cached_property
    def intervals(self) -> Scores[Score]:
        """Scores with their intervals."""
        return with_intervals(self.task, self.outputs, self.labels)

    @property
    def rows_sha256(self) -> str:
        """Hex digest of texts and labels in their order: the same for the same rows of a data set."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.task.stored_labels(self.labels), strict=True):
            content = json.dumps([text, label]).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def with_outputs(self, outputs: np.ndarray, **facts: Any) -> Predictions:
        """The same rows with other outputs, and more facts."""
        return replace(self, outputs=outputs.astype(np.float32), facts={**self.facts, **facts})

    def with_facts(self, **facts: Any) -> Predictions:
        """The same with more facts."""
        return replace(self, facts={**self.facts, **facts})

    def write(self, path: Path) -> None:
        """Writes the file beside its name, then renames it.

        Raises:
            OSError: there is no room, or no right to.
        """
        import pyarrow as pa
        import pyarrow.parquet

        predicted: Any = {} if self.task.label_form == "number" else self.task.stored_labels(self.preds)
        names = {"class": "predicted_label", "classes": "predicted_labels"}
        columns: dict[str, Any] = {
            "row": self.rows,
            **{name: [text_cells(text)[name] for text in self.texts] for name in text_cells(self.texts[0])},
            "label": self.task.stored_labels(self.labels),
            **({names[self.task.label_form]: predicted} if predicted else {}),
            **{name: self.outputs[:, place] for place, name in enumerate(output_columns(self.task))},
        }
        facts = {"kind": self.task.kind, "parameters": self.task.parameters}
        metadata = {
            FACTS: json.dumps(self.facts),
            CLASSES: json.dumps(self.class_names),
            TASK: json.dumps(facts),
        }
        kinds = {"label": pa.list_(pa.string())} if self.task.label_form == "classes" else {}
        arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
        table = pa.table(arrays).replace_schema_metadata(metadata)
        with files.whole(path) as partial:
            pa.parquet.write_table(table, partial)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """The content of a file that `write` wrote.

        Raises:
            UserError: it is missing or something else.
        """
        import pyarrow as pa
        import pyarrow.parquet

        try:
            table, task = _checked_table(path)
            facts = json.loads(table.schema.metadata[FACTS])
            columns = {name: table.column(name) for name in table.column_names}
            texts = [columns[name].to_pylist() for name in TEXTS if name in columns]
            return cls(
                task,
                texts[0] if len(texts) == 1 else list(zip(*texts, strict=True)),
                columns["row"].to_numpy(),
                task.labels_of(columns["label"].to_pylist()),
                np.stack([columns[name].to_numpy() for name in output_columns(task)], axis=1),
                facts,
            )
        except FileNotFoundError:
            raise UserError(
                f"no predictions {path}; `python -m lit_bert validate --ckpt_path FILE` writes them."
            ) from None
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            what = escape.line(" ".join(str(error).split()), 200)
            raise UserError(
                f"{path} holds no predictions that lit_bert wrote ({type(error).__name__}: {what}). "
                "Write them again with `python -m lit_bert validate`."
            ) from None

    def check_same_rows(self, other: Predictions) -> None:
        """Raises a UserError where the other's rows, labels or classes differ."""
        what = f"split {self.facts.get('split')} of the one run and {other.facts.get('split')} of the other"
        if (self.task.kind, self.class_names) != (other.task.kind, other.class_names):
            raise UserError(f"{what} have different tasks or classes: these runs cannot be compared.")
        if len(self.texts) != len(other.texts):
            raise UserError(
                f"{what} have {len(self.texts):,} and {len(other.texts):,} rows: only runs that were scored "
                "on the same rows can be compared. Score both with `python -m lit_bert validate` on the "
                "same data."
            )
        differing = [
            index
            for index, pair in enumerate(zip(self.texts, other.texts, strict=True))
            if pair[0] != pair[1] or not np.array_equal(self.labels[index], other.labels[index])
        ]
        if differing:
            raise UserError(
                f"{len(differing):,} of {len(self.texts):,} rows differ in text or label, the first at row "
                f"{self.rows[differing[0]] + 1}: only runs that were scored on the same rows can be compared."
            )


def write_hashes(path: Path, hashes: np.ndarray) -> None:
    """Writes the `text_hash` of the texts that a run trains on, uint64 (N,).

    Raises:
        OSError: as `files.whole`.
    """
    with files.whole(path) as partial:
        partial.write_bytes(hashes.astype("<u8").tobytes())


def read_hashes(path: Path) -> np.ndarray | None:
    """What `write_hashes` wrote, uint64 (N,); None where there is no such file."""
    if not path.exists():
        return None
    with untrusted.open_regular(path, MAX_BYTES) as stream:
        content = stream.read()
    if len(content) % 8:
        raise UserError(
            f"{escape.line(path)} has {len(content):,} bytes; expected 8 for each text that was trained on. "
            "Get the folder of the run again, or remove this file."
        )
    return np.frombuffer(content, "<u8").astype(np.uint64)


def _task_of(schema: Any) -> Task:
    """The task that the metadata describes; in files of earlier versions it is one label a text."""
    columns = [name[len(PROBABILITY) :] for name in schema.names if name.startswith(PROBABILITY)]
    listed = json.loads(schema.metadata[CLASSES]) if CLASSES in schema.metadata else columns
    facts = untrusted.parse_object(schema.metadata.get(TASK, b"{}").decode(), "its task")
    kind, parameters = facts.get("kind", SingleLabel.kind), facts.get("parameters", {})
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in [kind, *listed]):
        raise ValueError("a task or classes that are no text")
    if not listed:
        raise ValueError("no probabilities")
    task = task_of_plain(kind, listed, parameters)
    if task.label_form != "number" and listed != columns:
        raise ValueError("columns of probabilities that are not those of its classes")
    return task
