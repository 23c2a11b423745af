"""scikit-learn's own checks of estimators, on TextClassifier and TextRegressor.

The checks give arrays of numbers. Below, each row of one becomes a text, a word for each sign of its numbers,
and everything else is the estimators' own. A check that cannot hold for texts is in `CANNOT_HOLD`, with the
reason and with what it has to say: if it passes, or fails otherwise, the test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import WORDS
from scipy.sparse import issparse
from sklearn.utils import estimator_checks

from lit_bert import TextClassifier, TextRegressor

QUICK = {
    "max_epochs": 1,
    "batch_size": 32,
    "settings": {"model.adversarial_norm": 0, "trainer.accelerator": "cpu"},
}


def texts(X: Any) -> Any:
    """A text for each row of numbers; what has no such rows stays as it is."""
    if issparse(X):
        return X
    array = np.asarray(X)
    if array.ndim != 2:
        return X
    return [" ".join(WORDS[ord(sign) % len(WORDS)] for value in row for sign in f"{value} ") for row in array]


class OfNumbers:
    """Puts texts in the place of numbers. One epoch of a random encoder scores poorly, which is said."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(texts(X), y, sample_weight)

    def predict(self, X):
        return super().predict(texts(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        for own in (tags.classifier_tags, tags.regressor_tags):
            if own is not None:
                own.poor_score = True
        return tags


class Classifier(OfNumbers, TextClassifier):
    def predict_proba(self, X):
        return super().predict_proba(texts(X))


class Regressor(OfNumbers, TextRegressor):
    pass


class Fault(NamedTuple):
    """Why a check cannot hold, and what it says."""

    reason: str
    message: str


NO_FEATURES = "a text has no features to count, and may be of any length"
ONE_DIMENSION = "a list of texts has one dimension; one of numbers is a TypeError"
CANNOT_HOLD = {
    "check_n_features_in_after_fitting": Fault(NO_FEATURES, "does not set the `n_features_in_` attribute"),
    "check_n_features_in": Fault(NO_FEATURES, "^$"),
    "check_classifiers_train": Fault(NO_FEATURES, "when the number of features in predict is different"),
    "check_estimators_empty_data_messages": Fault(
        "rows of no features are empty texts, refused in other words", r"item 1 of X has no text"
    ),
    "check_estimators_nan_inf": Fault("the texts `nan` and `inf` are texts", "doesn't check for NaN and inf"),
    "check_fit1d": Fault(ONE_DIMENSION, "item 1 is a float64"),
    "check_fit2d_predict1d": Fault(ONE_DIMENSION, "item 1 is a float64"),
    "check_sample_weight_equivalence_on_dense_data": Fault(
        "a row that comes twice is twice in the batches, whose order and dropout are random",
        "fitting with `sample_weight` is not equivalent",
    ),
    "check_classifiers_multilabel_representation_invariance": Fault(
        "a list has the labels of a text, each once; 0 and 1 for each class come in an array", "a label twice"
    ),
}


def checks() -> list[Any]:
    """All checks of both estimators, as pytest has them."""
    found = []
    for kind in (Classifier, Regressor):
        for estimator, check in estimator_checks.estimator_checks_generator(kind(**QUICK)):
            name = estimator_checks._check_name(check)
            found.append(pytest.param(estimator, check, name, id=f"{kind.__name__}-{name}"))
    return found


@pytest.mark.parametrize(("estimator", "check", "name"), checks())
@pytest.mark.filterwarnings("ignore")
def test_what_scikit_learn_checks(estimator: Any, check: Callable[[Any], None], name: str, tiny_bert: Path):
    estimator.set_params(pretrained=str(tiny_bert))
    fault = CANNOT_HOLD.get(name)
    if fault is None:
        check(estimator)
        return
    with pytest.raises((AssertionError, ValueError, TypeError), match=fault.message):
        check(estimator)


def test_no_reason_outlives_its_check():
    assert CANNOT_HOLD.keys() <= {each.values[2] for each in checks()}
