"""scikit-learn's way to lit_bert: estimators that train, score and label in this process.

The same code as `fit`, `predict` and `export`, with the same settings and the same weights at the end.

    python -c "from lit_bert import TextClassifier; print(TextClassifier().fit(texts, labels).predict(texts))"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score

from lit_bert.data.cells import CellError, label_of
from lit_bert.data.fit_arguments import Labels, list_or_array, native, one_a_text
from lit_bert.estimator import TextEstimator
from lit_bert.sources.schema import Plain, Text, checked
from lit_bert.sources.weights import MINILM
from lit_bert.task.guarantee import ACCURACY


class KnownLabels(Plain):
    """What a saved classifier knows of its labels.

    Attributes:
        by_name: each class as y had it, by its name.
        columns: of the array of 0 and 1 that y was; 0 where it was none.
    """

    by_name: dict[Text, bool | int | float | Text]
    columns: int


class TextClassifier(ClassifierMixin, TextEstimator):
    """A classifier of texts, for scikit-learn.

    Labels are strings, whole numbers or booleans, one a text; or, for several a text, lists of them or an
    array of 0 and 1, (N, C). What `predict` gives is what `fit` was given.

    Of scikit-learn's own checks those on the number of features do not hold, as a text has none;
    tests/test_estimator_checks.py has all of these, with reasons.

    Args:
        pretrained, max_epochs, batch_size, learning_rate, max_length, random_state, run_dir, settings,
            verbose: as of `TextRegressor`.
        ordered: whether classes are in an order, that of their values: stars 1 to 5.

    Attributes:
        classes_: the C classes, in the order of columns of `predict_proba`.
        scores_: of the validation rows, such as `macro_f1`.
        checkpoint_: the file of the model.
    """

    def __init__(
        self,
        pretrained: str = MINILM,
        max_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        max_length: int = 128,
        random_state: int = 0,
        run_dir: str | None = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
        ordered: bool = False,
    ) -> None:
        super().__init__(
            pretrained,
            max_epochs,
            batch_size,
            learning_rate,
            max_length,
            random_state,
            run_dir,
            settings,
            verbose,
        )
        self.ordered = ordered

    def predict(self, X: Any) -> Any:
        """Labels of texts: an array (N,); of several labels a text lists, or an array (N, C) as it came.

        Where accuracy is guaranteed (`settings={"guarantee": "accuracy=0.98"}`), None stands for no answer.
        """
        outputs = self._outputs(X)[1]
        preds = self.task_.predictions(outputs)
        if self.task_.label_form == "class":
            found, answered = self.classes_[preds], self.task_.answered(outputs)
            return (
                np.where(answered, found.astype(object), None) if ACCURACY in self.task_.promises else found
            )
        if self._known["columns"]:
            return preds.astype(int)
        names = self.classes_.tolist()
        return [[names[index] for index in np.flatnonzero(row)] for row in preds]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float32 (N, C), in the order of `classes_`."""
        return self._outputs(X)[1]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of texts with the right label; of several a text, with all of them and no other."""
        found = self.predict(X)
        if isinstance(found, list):
            wanted = self._labels(y).values
            if len(wanted) != len(found):
                raise ValueError(f"X has {len(found)} texts, and y {len(wanted)} values; expected one each")
            hits = [_names(one) == _names(other) for one, other in zip(found, wanted, strict=True)]
            return float(np.average(hits, weights=sample_weight))
        if ACCURACY in self.task_.promises:  # None is no label of scikit-learn's
            return float(np.average(found == np.asarray(y, dtype=object), weights=sample_weight))
        return float(accuracy_score(y, found, sample_weight=sample_weight))

    def _labels(self, y: Any) -> Labels:
        values = list_or_array(y, "y")
        if not isinstance(values, np.ndarray):
            return Labels([_distinct(value) if _is_list(value) else value for value in values])
        if not np.isin(values, (0, 1)).all():
            raise ValueError(
                "y is an array (N, C) with values beside 0 and 1; expected these, or labels (N,)"
            )
        return Labels([np.flatnonzero(row).tolist() for row in values], values.shape[1])

    def _learn(self, labels: Labels, others: Labels | None) -> tuple[Any, dict[str, Any]]:
        by_name = self._by_name(labels)
        is_multi = labels.columns or any(isinstance(each, list) for each in labels.values)
        if not is_multi and len(by_name) < 2:
            raise ValueError(f"y has one class ({labels.values[0]!r}); expected at least two classes")
        if others and (unknown := self._by_name(others).keys() - by_name.keys()):
            raise ValueError(f"y of validation has {min(unknown)!r}, which y lacks; expected its classes")
        task: dict[str, Any] = {
            "data.task": "multi_label" if is_multi else "ordinal" if self.ordered else "single"
        }
        if labels.columns or (self.ordered and not any(isinstance(each, str) for each in by_name.values())):
            task["data.label_names"] = list(by_name)
        return {"by_name": by_name, "columns": labels.columns}, task

    def _by_name(self, labels: Labels) -> dict[str, Any]:
        """Each class by its name, numbers in their order."""
        flat = [each for label in labels.values for each in (label if isinstance(label, list) else [label])]
        found: dict[str, Any] = {}
        for value in [*range(labels.columns), *flat]:
            if isinstance(value, complex):
                raise ValueError(f"Complex data not supported: y has {value}; expected labels")
            if isinstance(value, float) and value % 1 and not self.ordered:  # words as of scikit-learn
                raise ValueError(
                    f"Unknown label type: continuous. y has {value}; expected strings, whole numbers or "
                    "booleans, or any numbers with ordered=True. TextRegressor takes numbers."
                )
            try:
                name = label_of(value)
            except CellError as error:
                raise ValueError(f"y has {error}; expected labels") from None
            if name is None:
                raise ValueError("y has an empty label; expected one for each text")
            if found.setdefault(name, value) != value:
                raise ValueError(f"y has {found[name]!r} and {value!r}, which would be one class; use one")
        are_numbers = all(isinstance(value, int | float) for value in found.values())
        return dict(sorted(found.items(), key=lambda item: item[1])) if are_numbers else found

    def _use(self, checkpoint: Path) -> None:
        super()._use(checkpoint)
        values = [self._known["by_name"].get(name, name) for name in self.task_.class_names]
        kinds = {float if type(value) is int else type(value) for value in values}
        self.classes_ = np.array(values, dtype=object if len(kinds) > 1 else None)

    def _checked_known(self, stored: Any) -> Any:
        return checked(KnownLabels, stored, "classes").model_dump()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = tags.target_tags.multi_output = True
        return tags


class TextRegressor(RegressorMixin, TextEstimator):
    """A model that gives a text a number, for scikit-learn.

    Args:
        pretrained: encoder, as `--weights.pretrained`.
        max_epochs: passes over the training rows; None takes what suits their number (README, Few rows).
        batch_size: texts per optimizer step; None likewise.
        learning_rate: the highest one; None takes what suits the encoder.
        max_length: tokens a text is cut at.
        random_state: seed.
        run_dir: folder for runs; None is a temporary one, which goes with the estimator.
        settings: further settings of `fit` by their names on the command line, such as
            `{"model.adversarial_norm": 0}`.
        verbose: whether to say what `fit` says.

    Attributes:
        scores_: of the validation rows, such as `r2`.
        checkpoint_: the file of the model.
    """

    def predict(self, X: Any) -> np.ndarray:
        """The numbers of texts, float32 (N,)."""
        return self._outputs(X)[1][:, 0]

    def _labels(self, y: Any) -> Labels:
        return Labels([_number(value) for value in one_a_text(y, "y")])

    def _learn(self, labels: Labels, others: Labels | None) -> tuple[Any, dict[str, Any]]:
        if not np.isfinite([*labels.values, *(others.values if others else ())]).all():
            raise ValueError("y has a value that is not finite; expected numbers")
        if len(labels.values) < 2:
            raise ValueError("there is 1 sample; expected at least a few")
        return None, {"data.task": "regression"}

    def _checked_known(self, stored: Any) -> None:
        return None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | np.ndarray)


def _distinct(labels: Any) -> list[Any]:
    """The labels of a text.

    Raises:
        ValueError: one comes twice, as in a row of 0 and 1 that is no label.
    """
    found = [native(each) for each in labels]
    if len(set(map(repr, found))) < len(found):
        raise ValueError(
            f"y has {found}, with a label twice; expected each once, or an array (N, C) of 0 and 1"
        )
    return found


def _names(labels: Any) -> set[str | None]:
    return {label_of(each) for each in (labels if isinstance(labels, list) else [labels])}


def _number(value: Any) -> float:
    if isinstance(value, complex):
        raise ValueError(f"Complex data not supported: y has {value}; expected numbers")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"y has {value!r}; expected numbers") from None
