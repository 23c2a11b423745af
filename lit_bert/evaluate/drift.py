"""What a model is asked about, counted without keeping a text, and compared with what it was validated on.

At the end of a fit the validation rows become a `Reference`: bins, and how many rows are in each, of the
answers, of how sure they are, of the length of texts, of how the tokenizer takes them, and of where the
network places them. The same bins count any other texts, in a `Sketch` of fixed size, and sketches of several
processes or days add up. numpy only, as the predictor counts, too.

    python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from lit_bert import UserError
from lit_bert.evaluate.shift_tests import fisher, holm, smirnov
from lit_bert.evaluate.text_facts import TextFacts
from lit_bert.io import escape, untrusted
from lit_bert.task.base import Task

REFERENCE = "drift.json"  # beside a checkpoint, and in an exported folder
RATE = 0.01  # of an alarm where nothing has changed, over all tests together
FEWEST_ROWS = 20  # to compare
BINS = 50  # of what has an order, at most
DIRECTIONS = 16  # at random, onto which embeddings are projected
LISTED = 3  # classes whose share has moved
CLASSES, CONFIDENCE, VALUE = "classes", "confidence", "value"
LENGTH, UNKNOWN, PIECES, EMBEDDINGS = "length", "unknown", "pieces", "embeddings"
OF_OUTPUTS, OF_TEXTS = (CLASSES, CONFIDENCE, VALUE), (LENGTH, UNKNOWN, PIECES)
TITLES = {
    CLASSES: "shares of the answers",
    CONFIDENCE: "how sure the answers are",
    VALUE: "the numbers answered",
    LENGTH: "tokens of a text",
    UNKNOWN: "texts with a piece that the tokenizer does not know",
    PIECES: "tokens a word",
    EMBEDDINGS: "where the network places the texts",
}


# --- counts


Counts = dict[str, np.ndarray]


@dataclass
class Sketch:
    """How many rows are in each bin of a reference.

    Attributes:
        rows: that were counted.
        counts: by what is counted, int64: of classes (C,), of unknown pieces (2,), of embeddings
            (1 + DIRECTIONS, K), else (K,).
    """

    rows: int = 0
    counts: Counts = field(default_factory=dict)

    def merge(self, other: Sketch) -> None:
        """Adds the rows of another one, of the same reference."""
        self.rows += other.rows
        for name, each in other.counts.items():
            self.counts[name] = self.counts[name] + each if name in self.counts else each


class Embedding(NamedTuple):
    """How embeddings become numbers: by their distance from a centre, and along directions drawn by a seed.

    Attributes:
        centre, scale: mean and standard deviation of each of F features of the reference's rows, (F,).
    """

    centre: np.ndarray
    scale: np.ndarray

    def values(self, features: np.ndarray) -> np.ndarray:
        """Of features (N, F): float32 (1 + DIRECTIONS, N), so that what batches add up to is the same."""
        standard = (features - self.centre) / self.scale
        directions = np.random.default_rng(0).standard_normal((DIRECTIONS, len(self.centre)))
        found = np.vstack([np.linalg.norm(standard, axis=1), directions @ standard.T])
        return found.astype(np.float32)


@dataclass(frozen=True)
class Reference:
    """What a model was validated on, to compare other texts with.

    Attributes:
        task: of the model.
        sketch: of the rows.
        edges: of the bins of what has an order: bin k has what is above edge k - 1 and up to edge k.
        embedding: None where embeddings are not counted.
        facts: what it is of, plain values: the SHA-256 of `checkpoint` and of its `rows`.
    """

    task: Task
    sketch: Sketch
    edges: dict[str, list[np.ndarray]]
    embedding: Embedding | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls,
        task: Task,
        texts: TextFacts,
        outputs: np.ndarray | None = None,
        features: np.ndarray | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Of rows that the model was not trained on.

        Args:
            outputs: (N, C), by the very model; None: of answers nothing is compared.
            features: what its last layer is given, (N, F), likewise.
        """
        embedding = None
        if features is not None:
            scale = features.std(0, dtype=np.float64)
            embedding = Embedding(features.mean(0, dtype=np.float64), np.where(scale > 0, scale, 1.0))
        values = _values(task, texts, outputs, features, embedding)
        edges = {name: [_edges(row) for row in rows] for name, rows in values.items()}
        empty = cls(task, Sketch(), edges, embedding, facts or {})
        empty.sketch.merge(empty.count(texts, outputs, features))
        return empty

    def count(
        self, texts: TextFacts, outputs: np.ndarray | None = None, features: np.ndarray | None = None
    ) -> Sketch:
        """The sketch of some rows; what the reference does not have is not counted."""
        values = _values(self.task, texts, outputs, features, self.embedding)
        counts = {
            name: np.array([_counted(row, edges) for row, edges in zip(rows, self.edges[name], strict=True)])
            for name, rows in values.items()
            if name in self.edges
        }
        counts = {name: each if name == EMBEDDINGS else each[0] for name, each in counts.items()}
        counts[UNKNOWN] = np.array([(~texts.unknown).sum(), texts.unknown.sum()])
        if outputs is not None and CONFIDENCE in self.edges:
            found = self.task.predictions(outputs)
            counts[CLASSES] = np.array(self.task.label_counts(found), np.int64)
        return Sketch(len(texts.length), counts)

    @property
    def has_answers(self) -> bool:
        """Whether answers are compared, and not texts alone."""
        return CONFIDENCE in self.edges or VALUE in self.edges

    @cached_property
    def key(self) -> str:
        """The same for references whose sketches can be added and compared."""
        said = {"classes": self.task.class_names, "kind": self.task.kind, **self._plain_bins()}
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _plain_bins(self) -> dict[str, Any]:
        embedding = None
        if self.embedding is not None:
            embedding = {name: each.tolist() for name, each in self.embedding._asdict().items()}
        edges = {name: [each.tolist() for each in rows] for name, rows in self.edges.items()}
        return {"edges": edges, "embedding": embedding}

    def as_dict(self) -> dict[str, Any]:
        """What `from_dict` reads."""
        return {"facts": dict(self.facts), **self._plain_bins(), **sketch_as_dict(self.sketch)}

    @classmethod
    def from_dict(cls, task: Task, said: Any, what: str) -> Self:
        """The reference of a file.

        Args:
            task: of the model that the file stands beside.
            what: its name in messages.

        Raises:
            UserError: it is no such reference.
        """
        try:
            facts, edges, embedding = (said[name] for name in ("facts", "edges", "embedding"))
            made = (
                None
                if embedding is None
                else Embedding(*map(_numbers, map(embedding.get, Embedding._fields)))
            )
            names = {*OF_OUTPUTS, *OF_TEXTS, EMBEDDINGS} - {CLASSES, UNKNOWN}
            found = {name: [_numbers(row) for row in rows] for name, rows in edges.items() if name in names}
            sizes = {name: 1 + DIRECTIONS if name == EMBEDDINGS else 1 for name in found}
            if (
                not isinstance(facts, dict)
                or found.keys() != edges.keys()
                or any(len(found[name]) != size for name, size in sizes.items())
                or any(
                    len(row) >= BINS or (np.diff(row) <= 0).any() for rows in found.values() for row in rows
                )
                or (EMBEDDINGS in found) != (made is not None)
                or (made and (len(made.centre) != len(made.scale) or (made.scale <= 0).any()))
            ):
                raise ValueError("bins that are none")
            made_of = cls(task, Sketch(), found, made, facts)
            made_of.sketch.merge(made_of.read_sketch(said))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{what} is no reference of this model ({escape.line(error, 100)}); fit or export again."
            ) from None
        return made_of

    def read_sketch(self, said: Any) -> Sketch:
        """The sketch that `sketch_as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else, or of other bins.
        """
        rows, counts = said["rows"], {name: np.array(each) for name, each in said["counts"].items()}
        if not untrusted.is_count(rows, 1 << 53):
            raise ValueError("rows that are no number")
        for name, each in counts.items():
            if each.dtype != np.int64 or each.shape != self._shape(name) or each.min() < 0:
                raise ValueError(f"counts of {escape.line(name, 40)} that are none")
        answers = {CLASSES} if CONFIDENCE in self.edges else set()
        if rows and not self.edges.keys() | {UNKNOWN} | answers <= counts.keys():
            raise ValueError("counts that lack some")
        for name, each in counts.items():
            sums = each if name == CLASSES and self.task.label_form == "classes" else each.sum(-1)
            is_whole = name in (UNKNOWN, LENGTH) or (name == CLASSES and self.task.label_form == "class")
            if (sums > rows).any() or (is_whole and sums != rows):
                raise ValueError(f"counts of {name} that are not of {rows} texts")
        return Sketch(rows, counts)

    def _shape(self, name: str) -> tuple[int, ...]:
        if name == CLASSES and self.task.label_form != "number":
            return (len(self.task.class_names),)
        if name == EMBEDDINGS:
            return 1 + DIRECTIONS, BINS
        return (2,) if name == UNKNOWN else (BINS,) if name in self.edges else ()


def sketch_as_dict(sketch: Sketch) -> dict[str, Any]:
    """A sketch as plain values."""
    return {"rows": sketch.rows, "counts": {name: each.tolist() for name, each in sketch.counts.items()}}


def _numbers(said: Any) -> np.ndarray:
    if not isinstance(said, list) or not all(type(each) in (int, float) for each in said):
        raise ValueError("numbers that are none")
    return np.array(said, np.float64)


def _values(
    task: Task,
    texts: TextFacts,
    outputs: np.ndarray | None,
    features: np.ndarray | None,
    embedding: Embedding | None,
) -> dict[str, np.ndarray]:
    """What has an order, by name, of rows: float (1, N), of embeddings (1 + DIRECTIONS, N)."""
    found = {LENGTH: texts.length[None], PIECES: texts.pieces[None]}
    if outputs is not None and task.label_form == "number":
        found[VALUE] = outputs.T
    elif outputs is not None:
        found[CONFIDENCE] = task.confidence(outputs)[None]
    if features is not None and embedding is not None:
        found[EMBEDDINGS] = embedding.values(features)
    return found


def _edges(values: np.ndarray) -> np.ndarray:
    """Quantiles of values, each once, fewer than BINS."""
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return np.empty(0)
    return np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"))


def _counted(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    known = values[~np.isnan(values)].astype(np.float64)
    return np.bincount(np.searchsorted(edges, known), minlength=BINS)


# --- the comparison


class Finding(NamedTuple):
    """What became of one thing that is counted.

    Attributes:
        name: of it.
        p_value: adjusted for all that were tested.
        distance: by which share of the texts the two differ, at least, 0 to 1.
        effect: in words.
    """

    name: str
    p_value: float
    distance: float
    effect: str


def compare(reference: Reference, now: Sketch) -> list[Finding]:
    """What differs between a sketch and its reference, the most certain first.

    Raises:
        UserError: there are too few rows.
    """
    for what, sketch in (("the batch", now), ("the reference", reference.sketch)):
        if sketch.rows < FEWEST_ROWS:
            raise UserError(
                f"{what} has {sketch.rows} text{'' if sketch.rows == 1 else 's'}; expected {FEWEST_ROWS} or "
                "more, as fewer show nothing."
            )
    found = []
    for name, before in reference.sketch.counts.items():
        after = now.counts.get(name)
        if after is not None and before.sum() and after.sum():
            found.append(_finding(reference, name, (before, after), (reference.sketch.rows, now.rows)))
    adjusted = holm([each.p_value for each in found]).tolist()
    found = [each._replace(p_value=p) for each, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda each: (each.p_value, -each.distance))


def _finding(
    reference: Reference, name: str, counts: tuple[np.ndarray, np.ndarray], rows: tuple[int, int]
) -> Finding:
    before, after = counts
    if name == CLASSES:
        shares = before / rows[0], after / rows[1]
        p_values = np.array(
            [fisher(int(b), rows[0], int(a), rows[1]) for b, a in zip(before, after, strict=True)]
        )
        names = escape.names(reference.task.class_names)
        order = np.argsort(p_values, kind="stable")[:LISTED]
        effect = "; ".join(
            f"{names[c]}: {_percent(shares[0][c])}, now {_percent(shares[1][c])}" for c in order
        )
        tested = max(int(((before + after) > 0).sum()), 1)
        return Finding(
            name, min(1.0, tested * p_values.min()), float(np.abs(shares[0] - shares[1]).max()), effect
        )
    if name == UNKNOWN:
        p = fisher(int(before[1]), rows[0], int(after[1]), rows[1])
        was, now = before[1] / rows[0], after[1] / rows[1]
        return Finding(name, p, float(abs(was - now)), f"{_percent(was)}, now {_percent(now)}")
    if name == EMBEDDINGS:
        each = [smirnov(*pair) for pair in zip(before, after, strict=True)]
        p, distance = min(1.0, len(each) * min(p for _, p in each)), max(distance for distance, _ in each)
        nearer = np.cumsum(after[0])[BINS // 2 - 1] / after[0].sum()
        effect = f"{_percent(1 - nearer)} lie farther from the middle than half of the texts did"
        return Finding(name, p, distance, effect)
    (edges,) = reference.edges[name]
    distance, p = smirnov(before, after)
    return Finding(name, p, distance, f"median {_median(before, edges)}, now {_median(after, edges)}")


def _median(counts: np.ndarray, edges: np.ndarray) -> str:
    place = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    if place < len(edges):
        return f"{edges[place]:.4g}"
    return f"above {edges[-1]:.4g}" if len(edges) else "unknown"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
