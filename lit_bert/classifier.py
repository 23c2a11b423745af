"""scikit-learn's way to lit_bert: estimators that train, score and label in this process.

The same code as `fit`, `predict` and `export`, with the same settings and the same weights at the end.

    python -c "from lit_bert import TextClassifier; print(TextClassifier().fit(texts, labels).predict(texts))"
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from lit_bert.data.cells import CellError, label_of
from lit_bert.estimator import TextEstimator, native
from lit_bert.sources.weights import MINILM


class TextClassifier(ClassifierMixin, TextEstimator):
    """A classifier of texts, for scikit-learn.

    Labels are strings, whole numbers or booleans, one a text; or, for several a text, lists of them or an
    array of 0 and 1, (N, C). What `predict` gives is what `fit` was given.

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
        max_epochs: int = 3,
        batch_size: int = 32,
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
        """Labels of texts: an array (N,); of several labels a text lists, or an array (N, C) as it came."""
        outputs = self._outputs(X)[1]
        preds = self.task_.predictions(outputs)
        if self.task_.label_form == "class":
            return self.classes_[preds]
        if self._is_indicator:
            return preds.astype(int)
        return [[self.classes_[index] for index in np.flatnonzero(row)] for row in preds]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float32 (N, C), in the order of `classes_`."""
        return self._outputs(X)[1]

    def _labels(self, y: Any) -> list[Any]:
        values = list(y.to_list() if hasattr(y, "to_list") else y)
        if getattr(y, "ndim", 1) == 2:
            return [[str(index) for index in np.flatnonzero(row)] for row in values]
        return [[native(each) for each in value] if _is_list(value) else native(value) for value in values]

    def _kind(self, labels: list[Any]) -> str:
        if any(isinstance(each, list) for each in labels):
            return "multi_label"
        return "ordinal" if self.ordered else "single"

    def _learn_classes(self, labels: list[Any]) -> None:
        flat = [each for label in labels for each in (label if isinstance(label, list) else [label])]
        by_name: dict[str, Any] = {}
        for value in flat:
            try:
                name = label_of(value)
            except CellError as error:
                raise ValueError(f"y has {error}; expected labels") from None
            if name is None:
                raise ValueError("y has an empty label; expected one for each text")
            if by_name.setdefault(name, value) != value:
                raise ValueError(f"y has {by_name[name]!r} and {value!r}, which would be one class; use one")
        self._by_name = by_name

    def _use(self, checkpoint: Path) -> None:
        super()._use(checkpoint)
        names = list(self.task_.class_names)
        self.classes_ = np.array([self._by_name.get(name, name) for name in names])

    def _known(self) -> Any:
        return {"by_name": self._by_name, "indicator": self._is_indicator}

    def _restore_classes(self, stored: Any) -> None:
        by_name = stored.get("by_name") if isinstance(stored, dict) else None
        plain = isinstance(by_name, dict) and all(
            isinstance(each, str | int | float) for each in by_name.values()
        )
        self._by_name = dict(by_name or {}) if plain else {}
        self._is_indicator = bool(plain and stored.get("indicator"))

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, validation: Any = None
    ) -> Self:
        self._is_indicator = getattr(y, "ndim", 1) == 2
        return super().fit(X, y, sample_weight, groups, validation)

    fit.__doc__ = TextEstimator.fit.__doc__


class TextRegressor(RegressorMixin, TextEstimator):
    """A model that gives a text a number, for scikit-learn.

    Args:
        pretrained: encoder, as `--weights.pretrained`.
        max_epochs: passes over the training rows.
        batch_size: texts per optimizer step.
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

    def _labels(self, y: Any) -> list[Any]:
        return [float(value) for value in y]

    def _kind(self, labels: list[Any]) -> str:
        return "regression"

    def _learn_classes(self, labels: list[Any]) -> None:
        if not np.isfinite(labels).all():
            raise ValueError("y has a value that is not finite; expected numbers")

    def _known(self) -> Any:
        return None

    def _restore_classes(self, stored: Any) -> None:
        pass


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | np.ndarray)
