"""What the estimators for scikit-learn share: training, labelling, saving, by the functions of the verbs.

The same code as `fit`, `predict` and `export`, with the same settings and the same weights at the end.

    python -c "from lit_bert import TextRegressor; print(TextRegressor().fit(texts, numbers).predict(texts))"
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs
from lit_bert.cli.lightning import command_with_checkpoint
from lit_bert.data.cells import Numbered
from lit_bert.data.fit_arguments import COLUMNS, Labels, Table, check_text, one_a_text, weights_of
from lit_bert.data.frames import Frame, frame_of, text_in
from lit_bert.evaluate.output_collector import OutputCollector
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.sources.checkpoint import BEST, Checkpoint
from lit_bert.sources.schema import Plain, Text, checked
from lit_bert.sources.weights import MINILM
from lit_bert.task.base import Task
from lit_bert.train.fit import run_fit
from lit_bert.verbs import export, fit, predict

FACTS = "classifier.json"  # beside a saved checkpoint
log = logging.getLogger("lit_bert")


class SavedParameters(Plain):
    """The parameters of an estimator that its folder may name."""

    pretrained: Text
    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    max_length: int
    random_state: int
    ordered: bool = False


class TextEstimator(BaseEstimator, ABC):
    """What both estimators share; each says what labels are."""

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
    ) -> None:
        self.pretrained = pretrained
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_length = max_length
        self.random_state = random_state
        self.run_dir = run_dir
        self.settings = settings
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        validation: tuple[Any, Any] | None = None,
    ) -> Self:
        """Trains, and keeps the best epoch.

        Args:
            X: N texts: strings, pairs of strings or mappings from columns to strings, in a list or a
                generator; or a frame of pandas or polars, an Arrow table or a Dataset.
            y: their N labels.
            sample_weight: (N,), 0 or more, one above.
            groups: (N,); rows of a group are all trained on or all validated on.
            validation: texts and labels to validate on; None takes a tenth of the rows.

        Raises:
            ValueError: X and y differ in length, a label is none, or there is one class.
            UserError: a setting or the data is refused, as by `fit`.
        """
        given = self._read(X, y, sample_weight, groups, validation)
        place = tempfile.TemporaryDirectory(prefix="lit_bert-") if self.run_dir is None else None
        root = Path(place.name if place else str(self.run_dir))
        data = Path(tempfile.mkdtemp(prefix="data-", dir=_made(root)))
        for split, table in given.tables.items():
            table.write(data / f"{split}.jsonl", given.names)
        settings = {
            "weights.pretrained": self.pretrained,
            "data.dataset": str(data),
            **given.settings,
            "data.missing": "refuse",  # what is skipped would go unseen
            "weights.stand_in": "null",  # likewise
            "data.max_length": self.max_length,
            "data.batch_size": self.batch_size,
            "model.learning_rate": self.learning_rate,
            "trainer.max_epochs": self.max_epochs,
            "trainer.logger.init_args.save_dir": str(root),
            "seed_everything": self.random_state,
            **(self.settings or {}),
        }
        flags = [f"--{name}={_flag(value)}" for name, value in settings.items() if value is not None]
        with quiet(self.verbose):
            result = run_fit(fit.prepared(fit.parsed(checked_configs(flags)), None, []))
        if result is None or result.checkpoint is None:
            raise UserError("the fit kept no checkpoint: checkpoint.monitor is null. Leave it as it is.")
        self._place, self._known = place, given.known  # not before: after an error the last fit holds
        self._use(Path(result.checkpoint))
        self.scores_ = dict(result.scores)
        return self

    def _read(self, X: Any, y: Any, sample_weight: Any, groups: Any, validation: Any) -> _FitData:
        """The arguments of `fit`, checked."""
        frame = frame_of(X)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        labels, other_labels = self._labels(y), None
        columns = {"y": labels.values}
        if sample_weight is not None:
            columns["sample_weight"] = weights_of(sample_weight)
        if groups is not None:
            columns["groups"] = one_a_text(groups, "groups")
        tables = {"train": Table.of(frame, columns)}
        if validation is not None:
            other_labels = self._labels(validation[1])
            tables["validation"] = Table.of(frame_of(validation[0]), {"y": other_labels.values})
        known, settings = self._learn(labels, other_labels)
        names = tables["train"].names({name for table in tables.values() for name in table.columns})
        settings |= {COLUMNS[argument][0]: name for argument, name in names.items()}
        own = self.settings or {}
        if clash := own.keys() & {"data.dataset", *(COLUMNS[argument][0] for argument in columns)}:
            raise ValueError(f"settings have {min(clash)}, which the arguments of fit say; leave it out")
        settings |= tables["train"].text_settings(own, names["y"])
        return _FitData(tables, names, settings, known)

    def _use(self, checkpoint: Path) -> None:
        self.checkpoint_ = checkpoint
        self.task_: Task = Checkpoint.open(checkpoint).task
        self._labeller = _Labeller(checkpoint)

    def _outputs(self, X: Any) -> tuple[Frame, np.ndarray]:
        """The rows of X and what the task says of them, float32 (N, C)."""
        check_is_fitted(self, "checkpoint_")
        frame = frame_of(X)
        with quiet(self.verbose):
            return frame, self._labeller.outputs(frame)

    def label(self, X: Any) -> Any:
        """X with the columns that the verb `predict` adds, as the kind of object that came in."""
        frame, outputs = self._outputs(X)
        cells = [self.task_.cells(row) for row in outputs]
        names = self.task_.columns()
        added = {name: [row[place] for row in cells] for place, name in enumerate(names)}
        return frame.with_columns(added)

    def export(self, folder: str) -> str:
        """Writes the folder that `export` writes: for transformers, ONNX, the server. Returns its path."""
        check_is_fitted(self, "checkpoint_")
        with quiet(self.verbose):
            if export.export([f"--ckpt_path={self.checkpoint_}", f"--to={folder}"]):
                raise UserError(f"{folder} was not written: its files are not the model that was trained.")
        return folder

    def save(self, folder: str) -> str:
        """Writes the checkpoint, and what `load` needs beside it. Returns the folder's path.

        Not kept are `run_dir`, `settings` and `verbose`: a folder of somebody else's must name none of them.
        """
        check_is_fitted(self, "checkpoint_")
        place = _made(Path(folder))
        shutil.copy(self.checkpoint_, place / BEST)
        kept = {
            name: value for name, value in self.get_params().items() if name in SavedParameters.model_fields
        }
        facts = {"estimator": type(self).__name__, "parameters": kept, "classes": self._known}
        (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str) -> Self:
        """What `save` wrote.

        Raises:
            UserError: it is something else.
        """
        from lit_bert.io import untrusted

        facts = untrusted.read_object(Path(folder) / FACTS)
        parameters, classes = facts.get("parameters"), facts.get("classes")
        if facts.get("estimator") != cls.__name__:
            raise UserError(f"{folder} holds no {cls.__name__} that `save` wrote.")
        plain = checked(SavedParameters, parameters, f"{FACTS} of {folder}")
        own = plain.model_dump(include=set(cls._get_param_names()))
        found = cls(**own)
        found._known = found._checked_known(classes)
        found._place = None
        found._use(Path(folder) / BEST)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Holds the checkpoint itself, so that another process or machine can use it."""
        state = super().__getstate__()
        kept = {name: value for name, value in state.items() if name not in ("_place", "_labeller", "task_")}
        if "checkpoint_" in state:
            kept["checkpoint_"] = Path(state["checkpoint_"]).read_bytes()
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        content = state.pop("checkpoint_", None)
        super().__setstate__(state)
        if content is not None:
            self._place = tempfile.TemporaryDirectory(prefix="lit_bert-")
            file = Path(self._place.name) / BEST
            file.write_bytes(content)
            self._use(file)

    # --- what labels are ---

    @abstractmethod
    def _labels(self, y: Any) -> Labels:
        """y as plain values."""

    @abstractmethod
    def _learn(self, labels: Labels, others: Labels | None) -> tuple[Any, dict[str, Any]]:
        """What `predict` needs to know of labels, as plain values, and the settings of their task.

        Args:
            others: those of validation rows that were given.
        """

    @abstractmethod
    def _checked_known(self, stored: Any) -> Any:
        """What `_learn` gave, out of a file."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.target_tags.required = True
        tags.non_deterministic = False
        return tags


class _FitData(NamedTuple):
    """What a fit reads.

    Attributes:
        tables: by split.
        names: of the columns that are written for arguments.
        settings: of `fit` that belong to them.
        known: of the labels, for `predict`.
    """

    tables: dict[str, Table]
    names: dict[str, str]
    settings: dict[str, Any]
    known: Any


class _Labeller:
    """What the model of a checkpoint says of rows; it is loaded when they come first."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._command: Any = None

    def outputs(self, frame: Frame) -> np.ndarray:
        """float32 (N, C)."""
        if self._command is None:
            command, _ = command_with_checkpoint(predict.PREDICT, [f"--ckpt_path={self._checkpoint}"])
            self._collector = OutputCollector()
            command.build([self._collector])
            self._command = command
        command = self._command
        self._collector.start(len(command.model.task.class_names))
        form = command.datamodule.weights.text_form or SINGLE
        command.datamodule.predict_from(_numbered(frame, form), form)
        command.trainer.predict(command.model, datamodule=command.datamodule, return_predictions=False)
        return self._collector.outputs


@contextlib.contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Keeps what verbs say off the screen, unless it is asked for."""
    level = log.level
    said = contextlib.nullcontext() if verbose else contextlib.redirect_stdout(io.StringIO())
    errors = contextlib.nullcontext() if verbose else contextlib.redirect_stderr(io.StringIO())
    log.setLevel(logging.INFO if verbose else logging.ERROR)
    try:
        with said, errors:
            yield
    finally:
        log.setLevel(level)


def _numbered(frame: Frame, form: TextForm) -> Iterator[Numbered]:
    """The rows of a frame as `predict` has them, each with a text.

    Raises:
        ValueError: a row has no text.
    """
    for number, row in enumerate(frame.rows, 1):
        text = text_in(row, form.kind, form.columns)
        cells = [text] if form.kind == "single" else list(text.values() if isinstance(text, dict) else text)
        named = dict(zip(form.columns, cells, strict=True))
        check_text(named, form, number)
        yield Numbered(number, 0, named)


def _flag(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
