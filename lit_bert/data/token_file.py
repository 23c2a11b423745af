"""A split as tokens, written: one Arrow file of its rows, and what became of the others.

The tokens are those of whole texts; of pairs and joined columns those that are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TOKENIZE_ROWS, chunked, text_hash
from lit_bert.data.cells import label_of, weight_of
from lit_bert.data.labels import ClassIndex, SplitReader
from lit_bert.io.texts import TextForm, strings_of, whole_length

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS, FACTS = "rows.arrow", "split.json"  # in the folder of a split


class TokenFile:
    """The tokens of a split.

    Args:
        reading: of the split, from its beginning.
        labels: what its labels are stored as.
        form: what its texts are made of.
        tokenizer: that cuts nothing off.
        max_length: tokens of a text that are read at a time.
        has_types: whether segments are numbered.
    """

    def __init__(
        self,
        reading: SplitReader,
        labels: ClassIndex,
        form: TextForm,
        tokenizer: Tokenizer,
        max_length: int,
        has_types: bool,
    ) -> None:
        self.reading, self.labels, self.form = reading, labels, form
        self.tokenizer, self.max_length, self.has_types = tokenizer, max_length, has_types
        self.others = reading.settings.other_columns

    def write(self, folder: Path) -> None:
        """Makes the folder with `rows.arrow` and `split.json`.

        Raises:
            UserError: a row is refused, or there is none to use.
        """
        from datasets.arrow_writer import ArrowWriter

        folder.mkdir()
        reading, kept = self.reading, 0
        with ArrowWriter(path=str(folder / ROWS), features=self._features()) as writer:
            for batch in self._batches():
                kept += len(batch["row"])
                writer.write_batch(batch)
            if not kept:
                raise self._no_rows()
            writer.finalize()
        assert reading.read == kept + sum(each.count for each in reading.skipped.values())
        facts = {
            "rows": kept,
            "read": reading.read,
            "skipped": {reason: asdict(each) for reason, each in reading.skipped.items()},
            "order": reading.settings.label_names if self.labels.translated else None,
            "notes": [*reading.corpus.notes(reading.split), *reading.notes(), *self.labels.notes()],
        }
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    def _features(self) -> Any:
        from datasets import Features, List, Value

        return Features(
            {
                "row": Value("int64"),
                "text": Value("string"),
                **({"text_pair": Value("string")} if self.form.kind == "pair" else {}),
                "input_ids": List(Value("int32")),
                **({"token_type_ids": List(Value("int32"))} if self.has_types else {}),
                "labels": _label_feature(self.reading.settings.label_form, self.labels.names),
                "hash": Value("uint64"),
                **({} if self.form.kind == "single" else {"whole_length": Value("int32")}),
                **({"weight": Value("float64")} if "weight_column" in self.others else {}),
                **({"group": Value("uint64")} if "group_column" in self.others else {}),
            }
        )

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The rows by column, some at a time."""
        reading, form = self.reading, self.form
        for rows in chunked(reading, TOKENIZE_ROWS):
            texts = [text for _, text, _ in rows]
            ids, types, whole = [], [], []
            for each in form.encode(self.tokenizer, texts, self.max_length):  # as a stream: they take memory
                ids.append(np.array(each.ids, dtype=np.int32))
                if self.has_types:
                    types.append(np.array(each.type_ids, dtype=np.int32))
                whole.append(whole_length(each))
            batch: dict[str, Any] = {
                "row": np.array([index for (index, _), _, _ in rows]),
                "text": [strings_of(text)[0] for text in texts],
                "input_ids": ids,
                "labels": [self.labels.stored(numbered, label) for (_, numbered), _, label in rows],
                "hash": np.array([text_hash(text) for text in texts], dtype=np.uint64),
            }
            if "weight_column" in self.others:
                batch["weight"] = [reading.other(each, "weight_column", weight_of) for (_, each), *_ in rows]
            if "group_column" in self.others:
                named = [(at, reading.other(each, "group_column", label_of)) for (at, each), *_ in rows]
                batch["group"] = np.array([_group(*each) for each in named], dtype=np.uint64)
            if form.kind != "single":
                batch["whole_length"] = np.array(whole, dtype=np.int32)
            if form.kind == "pair":
                batch["text_pair"] = [text[1] for text in texts]
            if self.has_types:
                batch["token_type_ids"] = types
            yield batch

    def _no_rows(self) -> UserError:
        reading = self.reading
        why = "".join(f", {each} {reason}" for reason, each in reading.skipped.items())
        return UserError(
            f"split {reading.split} of {reading.corpus.source.name} has no rows to use: {reading.read:,} "
            f"read{why}. Add rows, or name other columns with --data.text_column and --data.label_column."
        )


def _group(index: int, name: str | None) -> int:
    """The group of a row, as 64 bits; a row without a name there is a group of its own."""
    return text_hash(f"row {index}" if name is None else f"group {name}")


def _label_feature(form: str, names: list[str]) -> Any:
    """How the file has labels of a form: a class index, a list of them, or a number."""
    from datasets import ClassLabel, List, Value

    if form == "number":
        return Value("float64")
    return ClassLabel(names=names) if form == "class" else List(ClassLabel(names=names))
