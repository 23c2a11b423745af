"""BERT text classification with PyTorch Lightning; `python -m lit_bert --help` lists the verbs."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = [
    *("BertClassifier", "EmotionDataModule", "Predictor", "TextClassifier", "TextRegressor", "UserError"),
    *("Weights", "__version__"),
]

COMMAND: dict[str, float | None] = {
    "started": None
}  # `time.monotonic()` when the command began that this process runs; None: none
RUNS = Path("checkpoints")  # where `fit` writes and the other verbs look, below the working directory
_HOMES = {
    "BertClassifier": "model.module",
    "EmotionDataModule": "data.module",
    "Predictor": "product.predictor",
    "TextClassifier": "classifier",
    "TextRegressor": "classifier",
    "Weights": "sources.weights",
}


class UserError(Exception):
    """Something a person can put right; the message says what came, what was expected, what to run next.

    The command line shows the message alone and ends with exit code 2.
    """


def require_package(module: str, extra: str) -> None:
    """Raises a UserError where a library of an extra is not installed."""
    if find_spec(module) is None:
        raise UserError(
            f"this needs {module}, which is not installed. Run `pip install 'lit_bert[{extra}]'`."
        )


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def __getattr__(name: str) -> Any:
    # Lazily, so that `--help` and a predictor need not wait for torch.
    if name in _HOMES:
        return getattr(import_module(f"lit_bert.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lit_bert' has no attribute {name!r}")
