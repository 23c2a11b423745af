"""The predictions of a checkpoint for labelled rows, as a Parquet file beside it: all that a report needs.

`fit`, `validate` and `test` write it, `report`, `audit` and `export` read it.

    python -m lit_bert validate && python -m lit_bert report
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.evaluate.evidence import Evidence
from lit_bert.io import escape, files, untrusted
from lit_bert.io.texts import Text, text_cells

VALIDATED, TESTED = "validate.parquet", "test.parquet"  # by the verb that scores the split
TRAINED = "train_hashes.bin"  # of the texts that a run trains on: uint64, little-endian
PROBABILITY = "probability_"  # and the class: one column each, as `predict` writes them
TEXTS = ("text", "text_pair")  # columns of the text; the second of pairs alone
FACTS, CLASSES = b"lit_bert", b"lit_bert classes"  # keys of the file's metadata

MAX_BYTES = 16 << 30  # of a file
MAX_VALUES = 1 << 31  # probabilities, and bytes of text, that are read into memory
SUM_TOLERANCE = 1e-2  # that the sum of a row's probabilities may differ from 1 by


def _checked_table(path: Path) -> Any:
    """The Arrow table in a file of predictions: whoever wrote it, each column is what `write` would write.

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
            texts = [name for name in TEXTS if name == "text" or name in metadata.schema.names]
            file = pa.parquet.ParquetFile(stream, metadata=metadata, read_dictionary=[*texts, "label"])
            schema, rows = file.schema_arrow, metadata.num_rows
            names = [name for name in schema.names if name.startswith(PROBABILITY)]
            if len(set(schema.names)) < len(schema.names) or not names or not rows:
                raise ValueError("no rows, no probabilities, or a column twice")
            if rows * len(names) > MAX_VALUES:
                raise ValueError(f"{rows:,} rows of {len(names):,} probabilities, which is too much")
            for name in ("row", *texts, "label", *names):
                if name not in schema.names or not _has_type(schema.field(name).type, name):
                    raise ValueError(f"column {escape.line(name, 80)} is missing or of another type")
            facts = untrusted.parse_object(schema.metadata[FACTS].decode(), "its metadata")
            table = file.read(columns=["row", *texts, "label", *names])
        table = table.replace_schema_metadata({**schema.metadata, FACTS: json.dumps(facts)})
        for name in (*texts, "label"):
            column = table.column(name)
            characters = sum(_characters(chunk) for chunk in column.chunks)
            if characters > MAX_VALUES:
                raise ValueError(f"{characters:,} characters in column {name}, which is too much")
            table = table.set_column(table.column_names.index(name), name, column.cast(pa.string()))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        if not {PROBABILITY + each for each in table.column("label").unique().to_pylist()} <= set(names):
            raise ValueError("a label that is no class")
        numbers = table.column("row").to_numpy()
        if numbers.min() < 0 or len(np.unique(numbers)) < rows:
            raise ValueError("a row's number is negative or comes twice")
        probs = np.stack([table.column(name).to_numpy() for name in names], axis=1)
        if not (
            np.isfinite(probs).all() and probs.min() >= 0 and np.allclose(probs.sum(1), 1, atol=SUM_TOLERANCE)
        ):
            raise ValueError("probabilities that are not finite, negative, or do not sum to 1")
        return table
    except Exception as error:  # Arrow has many of its own
        raise ValueError(str(error)) from error


def _has_type(kind: Any, column: str) -> bool:
    import pyarrow as pa

    if column == "row":
        return bool(pa.types.is_integer(kind))
    if column in (*TEXTS, "label"):
        return bool(pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type))
    return bool(pa.types.is_floating(kind))


def _characters(chunk: Any) -> int:
    """Bytes of a dictionary-encoded column once it is decoded."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.binary_length(chunk.dictionary).cast("int64").take(chunk.indices)).as_py() or 0)


@dataclass(frozen=True)
class Predictions:
    """Labelled rows with the probabilities that they got.

    Attributes:
        texts: N of them, in the order of the data; a pair is two strings.
        rows: int64 (N,), their numbers in the split, from 0.
        labels: int64 (N,).
        probs: float32 (N, C); rows sum to 1.
        class_names: C of them.
        facts: their origin, plain values: split, checkpoint, sha256, sources, …; `used_for` says what
            these rows decided about the model before they were scored.
    """

    texts: list[Text]
    rows: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    class_names: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def preds(self) -> np.ndarray:
        """Predicted classes, int64 (N,)."""
        return self.probs.argmax(1)

    @property
    def evidence(self) -> Evidence:
        """How many rows there are of each class, and what they were used for."""
        used_for = self.facts.get("used_for")
        known = isinstance(used_for, list) and all(isinstance(each, str) for each in used_for)
        return Evidence.of(self.probs, self.labels, used_for if known else None)

    @property
    def rows_sha256(self) -> str:
        """Hex digest of texts and labels in their order: the same for the same rows of a data set."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels.tolist(), strict=True):
            content = json.dumps([text, self.class_names[label]]).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def with_probs(self, probs: np.ndarray, **facts: Any) -> Predictions:
        """The same rows with other probabilities, and more facts."""
        return replace(self, probs=probs.astype(np.float32), facts={**self.facts, **facts})

    def write(self, path: Path) -> None:
        """Writes the file beside its name, then renames it.

        Raises:
            OSError: there is no room, or no right to.
        """
        import pyarrow as pa
        import pyarrow.parquet

        names = np.array(self.class_names, dtype=object)
        columns: dict[str, Any] = {
            "row": self.rows,
            **{name: [text_cells(text)[name] for text in self.texts] for name in text_cells(self.texts[0])},
            "label": names[self.labels],
            "predicted_label": names[self.preds],
            **{PROBABILITY + name: self.probs[:, index] for index, name in enumerate(self.class_names)},
        }
        metadata = {FACTS: json.dumps(self.facts), CLASSES: json.dumps(self.class_names)}
        table = pa.table(columns).replace_schema_metadata(metadata)
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
            table = _checked_table(path)
            facts = json.loads(table.schema.metadata[FACTS])
            columns = {name: table.column(name) for name in table.column_names}
            class_names = _class_names(table.schema)
            if not isinstance(facts, dict):
                raise ValueError("facts that are no mapping")
            texts = [columns[name].to_pylist() for name in TEXTS if name in columns]
            index_of = {name: index for index, name in enumerate(class_names)}
            return cls(
                texts[0] if len(texts) == 1 else list(zip(*texts, strict=True)),
                columns["row"].to_numpy(),
                np.array([index_of[name] for name in columns["label"].to_pylist()]),
                np.stack([columns[PROBABILITY + name].to_numpy() for name in class_names], axis=1),
                class_names,
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
        if self.class_names != other.class_names:
            raise UserError(f"{what} have different classes: these runs cannot be compared.")
        if len(self.texts) != len(other.texts):
            raise UserError(
                f"{what} have {len(self.texts):,} and {len(other.texts):,} rows: only runs that were scored "
                "on the same rows can be compared. Score both with `python -m lit_bert validate` on the "
                "same data."
            )
        differing = [
            index
            for index, pair in enumerate(zip(self.texts, other.texts, strict=True))
            if pair[0] != pair[1] or self.labels[index] != other.labels[index]
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


def _class_names(schema: Any) -> list[str]:
    """The classes as the metadata lists them; in files of earlier versions columns alone are called so."""
    columns = [name[len(PROBABILITY) :] for name in schema.names if name.startswith(PROBABILITY)]
    listed = json.loads(schema.metadata[CLASSES]) if CLASSES in schema.metadata else columns
    if listed != columns:
        raise ValueError("columns of probabilities that are not those of its classes")
    return columns
