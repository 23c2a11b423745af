"""The interface of a kind of task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from lit_bert.task.guarantee import ACCURACY, Accuracy, Coverage, Labelled, Promise, promises_of

Parameters = Mapping[str, tuple[float, ...]]
Scorer = Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """A score over all rows.

    Attributes:
        key: its name in JSON.
        title: its name in tables, of 14 characters at most.
        long_title: on pages.
        is_error: whether less of it is better.
        is_distance: whether it is a sum of absolute values, which resampling rows biases upwards.
        in_brief: whether it stands in short tables, too.
    """

    key: str
    title: str
    long_title: str = ""
    is_error: bool = False
    is_distance: bool = False
    in_brief: bool = True


class Choice(NamedTuple):
    """What a task takes from validation rows: itself with other parameters, and what to say of it."""

    task: Any
    fact: dict[str, Any]


@dataclass(frozen=True)
class Task(ABC):
    """A kind of task with its classes.

    All that is special to it is here. Modules of torch and torchmetrics that it needs are handed to it, as
    this folder is used where neither is installed.

    What a network says of N texts is called `outputs` here, float32 (N, C): probabilities of classes, or
    values where the task is to predict a number (C is 1).

    Attributes:
        class_names: C of them, in the order of the network's outputs. Of a number, what it is called.
        parameters: what the task took from rows, such as thresholds, by name.
        kind: its name in `--data.task`, checkpoints and exported folders.
        summary: what each text has, for the help of `--data.task`.
        problem_type: its name in the config.json of transformers.
        label_form: how a label is stored: the index of a `class`, int64 (); the `classes` that a text has,
            uint8 (C,), 0 or 1; a `number`, float32 ().
        label_range: the least and the greatest label, of a number.
        scores: what is computed over all rows, in the order of `scorer`.
        main: the key of the score that chooses between models.
        class_scores: what is computed for each class; () without classes.
        logged_names: the names of what training logs of a split, beside its loss.
        logged_main: the one of them that chooses between epochs; more of it is better.
        fewest_classes: that a model can have.
        choice_use: what validation rows are used for by `choose`, in words.
        is_ordered: whether the classes have an order.
        worst: what the first of `errors` are, as an adjective: "most confident" or "largest".
        worst_note: the order of `errors`, as a sentence.
        gain_unit: what the scores of words in the report are in: logits, times `unit`.
        guarantees: names of `task.guarantee` that it can give.
        balancing: the settings for rare classes that it can be trained with, by name.
    """

    class_names: tuple[str, ...]
    parameters: Parameters = field(default_factory=dict)
    kind: ClassVar[str]
    summary: ClassVar[str]
    problem_type: ClassVar[str]
    label_form: ClassVar[Literal["class", "classes", "number"]]
    label_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    scores: ClassVar[tuple[Score, ...]]
    main: ClassVar[str] = "macro_f1"
    class_scores: ClassVar[tuple[str, ...]] = ("f1",)
    logged_names: ClassVar[tuple[str, ...]] = ("f1", "f1_micro", "accuracy")
    logged_main: ClassVar[str] = "f1"
    fewest_classes: ClassVar[int] = 2
    choice_use: ClassVar[str] = ""
    is_ordered: ClassVar[bool] = False
    worst: ClassVar[str] = "most confident"
    worst_note: ClassVar[str] = "Wrong, and with the highest probability for it."
    gain_unit: ClassVar[str] = "in logits"
    guarantees: ClassVar[tuple[str, ...]] = ()
    balancing: ClassVar[tuple[str, ...]] = ()

    @property
    def main_title(self) -> str:
        """The title of the score that chooses between models."""
        (title,) = (each.title for each in self.scores if each.key == self.main)
        return title

    @classmethod
    def of(cls, class_names: Sequence[str], parameters: Parameters | None = None) -> Self:
        """This kind of task with these classes.

        Raises:
            ValueError: it has no such parameters.
        """
        found = {name: tuple(values) for name, values in (parameters or {}).items()}
        task = cls(tuple(class_names), found)
        if refused := task.promises.keys() - set(cls.guarantees):
            raise ValueError(f"a task of kind {cls.kind} gives no guarantee of {min(refused)}")
        for each in task.promises.values():
            if isinstance(each, Coverage) and len(each.thresholds) not in task.set_thresholds:
                raise ValueError(f"a guarantee of sets has {len(each.thresholds)} thresholds")
        task.check_parameters()
        return task

    @property
    def set_thresholds(self) -> tuple[int, ...]:
        """How many thresholds a guarantee of sets may have: one, or one for each class; of intervals none."""
        return (0,) if self.label_form == "number" else (1, len(self.class_names))

    @property
    def own_parameters(self) -> Parameters:
        """Those that are no guarantees."""
        return {name: values for name, values in self.parameters.items() if name not in self.guarantees}

    def check_parameters(self) -> None:
        """Raises a ValueError where `own_parameters` are none of this kind; by default there are none."""
        if self.own_parameters:
            raise ValueError(f"a task of kind {self.kind} has no parameters")

    def with_parameters(self, **parameters: Sequence[float]) -> Self:
        """The task with some parameters set anew."""
        found = {name: tuple(map(float, values)) for name, values in parameters.items()}
        return replace(self, parameters={**self.parameters, **found})

    # --- training

    @classmethod
    def parameters_of_labels(cls, labels: np.ndarray) -> dict[str, tuple[float, ...]]:
        """Parameters that come from the labels of the training rows, (N,) or (N, C); by default none."""
        return {}

    @abstractmethod
    def loss(
        self, functional: Any, logits: Any, labels: Any, label_smoothing: float = 0.0, weights: Any = None
    ) -> Any:
        """Mean nats per text, a tensor ().

        Args:
            functional: torch.nn.functional.
            logits: float (B, C).
            labels: as the rows store them, (B,) or (B, C).
            label_smoothing: share of each label that is spread over other classes, 0 to 1.
            weights: what the loss of each text is multiplied by, float (B,), of 1 in the mean over all rows;
                None is 1 each.
        """

    def training_loss(
        self,
        functional: Any,
        logits: Any,
        labels: Any,
        label_smoothing: float = 0.0,
        weights: Any = None,
        class_weights: Any = None,
        focal_gamma: float = 0.0,
    ) -> Any:
        """What training minimises, a tensor (); by default `loss`.

        Args:
            class_weights: what the loss of a label of each class is multiplied by, float (C,); None is 1.
            focal_gamma: power of 1 less the probability of the label, which the loss is multiplied by (Lin et
                al., 2017, https://arxiv.org/abs/1708.02002). Both are given to kinds whose `balancing` has
                them.
        """
        return self.loss(functional, logits, labels, label_smoothing, weights)

    def balanced_weights(self, shares: np.ndarray) -> np.ndarray:
        """Class weights, float64 (C,), with which every class counts the same, of `class_shares`."""
        raise NotImplementedError(f"a task of kind {self.kind} has no class weights")

    def log_prior(self, shares: np.ndarray) -> np.ndarray:
        """The logarithm of what the logits of a class are by its share alone, float64 (C,)."""
        raise NotImplementedError(f"a task of kind {self.kind} has no classes with a share")

    @abstractmethod
    def metrics(self, torchmetrics: Any) -> dict[str, Any]:
        """The torchmetrics of a split, of logits (B, C) and labels as the rows store them."""

    @abstractmethod
    def logged(self, computed: dict[str, Any]) -> tuple[dict[str, Any], Any, list[int]]:
        """What is logged, of what `metrics` have computed.

        Returns:
            Scores by their names, which are `logged_names`; the F1 of each class, (C,); how many rows have
            each class as a label. Both are empty without classes.
        """

    # --- answers

    @abstractmethod
    def outputs(self, logits: np.ndarray) -> np.ndarray:
        """Outputs, float32 (N, C), of logits (N, C)."""

    @abstractmethod
    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """What rows are taken for, as labels are stored, of outputs (N, C)."""

    @abstractmethod
    def answer(self, outputs: np.ndarray, truncated: bool) -> Any:
        """The answer to one text: a named tuple of plain values for JSON, whose last field is `truncated`.

        Args:
            outputs: (C,).
            truncated: whether the end of the text was not read.
        """

    @abstractmethod
    def answer_schema(self) -> dict[str, Any]:
        """The JSON schema of each field of `answer` but `truncated`, in its order."""

    def explained_class(self, outputs: np.ndarray) -> int:
        """The class whose output an explanation of the answer is about, of outputs (C,)."""
        return int(outputs.argmax())

    def explained(self, answer: Any) -> dict[str, Any]:
        """The class that an explanation of an answer is about, where it does not say so itself, for JSON."""
        return {}

    def explained_schema(self) -> dict[str, Any]:
        """The JSON schema of each field of `explained`."""
        return {}

    def support(self, outputs: np.ndarray) -> np.ndarray:
        """How much the outputs (N, C) speak for each class, float64 (N, C): log-odds, or the values."""
        clipped = np.maximum(outputs.astype(np.float64), MIN_PROBABILITY)
        return np.log(clipped) - np.log(np.maximum(1 - outputs.astype(np.float64), MIN_PROBABILITY))

    # --- tables and texts

    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns that `predict` adds to a table."""

    @abstractmethod
    def cells(self, outputs: np.ndarray) -> list[Any]:
        """The values of `columns` of one row, of its outputs (C,)."""

    @abstractmethod
    def shown(self, label: Any) -> str:
        """A stored label or prediction of one row, in words."""

    @abstractmethod
    def limits(self) -> str:
        """What a reader of the model card has to know of the answers, as a sentence."""

    # --- labels and outputs as they are kept in a file

    @abstractmethod
    def stored_labels(self, labels: np.ndarray) -> list[Any]:
        """Labels, (N,) or (N, C), as cells of a table: a name, a list of names, or a number."""

    @abstractmethod
    def labels_of(self, cells: Sequence[Any]) -> np.ndarray:
        """What `stored_labels` was given.

        Raises:
            ValueError, KeyError, TypeError: a cell is no such label.
        """

    def outputs_problem(self, outputs: np.ndarray) -> str | None:
        """What is wrong with finite outputs (N, C) out of a file, or None."""
        return None if outputs.min() >= 0 and outputs.max() <= 1 else "probabilities below 0 or above 1"

    # --- scores of rows

    @abstractmethod
    def scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Scorer:
        """From how many times each row counts, float (N,), to a vector of scores, float64.

        Those of `scores`, then for each of `class_scores` those of the C classes; NaN where there is none.
        """

    def main_scorer(self, outputs: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], float]:
        """From how many times each row counts to the score `main`, without computing the others if it can."""
        place, score = [each.key for each in self.scores].index(self.main), self.scorer(outputs, labels)
        return lambda times: float(score(times)[place])

    @abstractmethod
    def row_losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The loss of each row without smoothing, float64 (N,)."""

    def is_right(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """Whether rows are predicted as they are labelled, bool (N,); None where that is no question."""
        same = self.predictions(outputs) == labels
        return same.reshape(len(labels), -1).all(1)

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        """How sure the predictions of rows are, (N,)."""
        return outputs.max(1)

    def errors(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Indices of the wrong rows, int64, the worst first: those that were most sure."""
        right = self.is_right(outputs, labels)
        assert right is not None
        wrong = np.flatnonzero(~right)
        return wrong[np.argsort(-self.confidence(outputs[wrong]), kind="stable")]

    def label_counts(self, labels: np.ndarray) -> list[int]:
        """How many rows have each class as a label, C of them; [] without classes."""
        return np.bincount(labels, minlength=len(self.class_names)).tolist()

    def suspected_labels(self, outputs: np.ndarray, labels: np.ndarray, filters: Any) -> np.ndarray:
        """Indices of rows whose label looks wrong, int64, the least probable label first.

        Confident learning (Northcutt et al., 2021, https://arxiv.org/abs/1911.00068) estimates how many
        labels are wrong, and that many of the least probable are taken: of labels changed on purpose it finds
        as many as cleanlab's default choice of rows, among a fifth fewer suspects.

        Args:
            filters: cleanlab's `filter` and `multilabel_classification`, by attribute.
        """
        if len(np.unique(labels)) < 2:  # no other label to suspect
            return np.empty(0, dtype=np.int64)
        probs = outputs.astype(np.float64)
        return filters.filter.find_label_issues(
            labels,
            probs / probs.sum(1, keepdims=True),
            filter_by="low_self_confidence",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,  # processes would have to be given copies
        )

    @property
    def unit(self) -> float:
        """What differences of outputs are measured in: 1 of probabilities."""
        return 1.0

    # --- what is chosen on validation rows

    @abstractmethod
    def logits_of(self, outputs: np.ndarray) -> np.ndarray:
        """Logits (N, C) that give the outputs, finite."""

    def calibration(
        self, logits: np.ndarray, labels: np.ndarray, has_bias: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """What logits are multiplied by and then added to, (C,) each, to be calibrated.

        None where the task has nothing to calibrate. What it is worth can only be told from other rows.

        Args:
            has_bias: whether something can be added.
        """
        return None

    def calibration_error(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Expected calibration error, 0 to 1."""
        raise NotImplementedError(f"a task of kind {self.kind} has nothing to calibrate")

    def choose(self, outputs: np.ndarray, labels: np.ndarray) -> Choice | None:
        """Parameters by validation rows, after calibration; None where there are none to choose."""
        return None

    def choice_note(self, fact: dict[str, Any]) -> str:
        """A line that says what `choose` came to, of its fact."""
        return ""

    # --- guarantees, on rows that serve nothing else

    @cached_property
    def promises(self) -> dict[str, Promise]:
        """What is promised of the answers, by name."""
        return promises_of(self.parameters)

    def guarantee(self, name: str, rate: float, rows: Labelled, validated: Labelled) -> Promise | None:
        """A guarantee by rows, calibrated; None where they do not give it.

        Args:
            name: one of `guarantees`.
            rate: that is to hold.
            validated: other rows, which may have served the model.
        """
        raise NotImplementedError(f"a task of kind {self.kind} gives no guarantees")

    def answered(self, outputs: np.ndarray) -> np.ndarray:
        """Which rows get an answer, bool (N,), of outputs (N, C): all without a guarantee of accuracy."""
        found = self.promises.get(ACCURACY)
        if not isinstance(found, Accuracy):
            return np.ones(len(outputs), bool)
        return self.confidence(outputs) >= found.threshold

    def without_guarantees(self) -> Self:
        """The same task, which promises nothing."""
        return replace(self, parameters=dict(self.own_parameters))

    def held(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The share of each row's labels that its set or interval holds, float (N,)."""
        raise NotImplementedError(f"a task of kind {self.kind} gives no guarantees")

    # --- the network that is exported

    def exported(self) -> tuple[Self, float, float]:
        """The task of an exported folder, and what its logits are multiplied by and then added to.

        So that other programs, which know nothing of parameters, read the same numbers out of them.
        """
        return self, 1.0, 0.0


MIN_PROBABILITY = 1e-9  # keeps the logarithm of a probability finite
