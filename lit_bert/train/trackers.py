"""Where `fit` keeps scores, settings, pictures and the model card: `--tracker`.

TensorBoard and CSV files are Lightning's loggers, in the folder of the run. MLflow and W&B come beside that
folder, by their own clients: Lightning's loggers for them drop characters of names, so that two classes would
meet in one curve, and write no pictures.

    python -m lit_bert fit --tracker mlflow
    mlflow ui --backend-store-uri sqlite:///checkpoints/mlflow.db
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_bert import UserError, require_package
from lit_bert.io import escape
from lit_bert.train.record import ErrorReporter

TRACKERS = ("tensorboard", "csv", "mlflow", "wandb", "none")
PROJECT = "lit_bert"  # of runs on a server, unless an environment variable names another
SERVERS = {"mlflow": "MLFLOW_TRACKING_URI", "wandb": "WANDB_MODE"}  # and the variable that says where
MAX_SETTING = 500  # characters of a setting


class RunFolder(CSVLogger):
    """A folder for each run, and nothing of its own in it."""

    def log_metrics(self, *_: Any, **__: Any) -> None:
        """Keeps nothing."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Keeps nothing."""

    def save(self) -> None:
        """Writes nothing."""

    def finalize(self, status: str) -> None:
        """Writes nothing."""


_LOGGERS = {"tensorboard": TensorBoardLogger, "csv": CSVLogger}


def _class_path(logger: type) -> str:
    module = "lightning.pytorch.loggers" if logger in _LOGGERS.values() else logger.__module__
    return f"{module}.{logger.__name__}"


def apply_tracker(config: Any) -> None:
    """Has the logger of a parsed configuration be that of its tracker, with its folder.

    Raises:
        UserError: the configuration has a logger that no tracker uses, or a library is missing.
    """
    tracker = config["tracker"]
    if tracker is None:
        return
    if tracker in SERVERS:
        require_package("mlflow" if tracker == "mlflow" else "wandb", "trackers")
    if tracker == "mlflow":
        require_package("sqlalchemy", "trackers")
    wanted = _class_path(_LOGGERS.get(tracker, RunFolder))
    logger = config["trainer"]["logger"]
    known = {_class_path(each) for each in (TensorBoardLogger, CSVLogger, RunFolder)}
    if not isinstance(logger, Namespace) or logger.get("class_path") not in known:
        raise UserError(
            f"got --tracker {tracker} and a trainer.logger of another kind; leave one of them out."
        )
    if logger["class_path"] != wanted:
        arguments = logger["init_args"]
        kept = {name: arguments.get(name) for name in ("save_dir", "name", "version")}
        config["trainer"]["logger"] = Namespace(class_path=wanted, init_args=Namespace(**kept))


def open_tracker(kind: str | None, folder: Path, errors: ErrorReporter) -> Tracker | None:
    """The tracker of a run, where it is one beside the run's folder.

    Args:
        kind: of `TRACKERS`.
        folder: of the run.
        errors: reports what cannot be kept while the run goes on.

    Raises:
        UserError: nothing can be kept there.
    """
    if kind not in SERVERS:
        return None
    try:
        return MlflowTracker(folder, errors) if kind == "mlflow" else WandbTracker(folder, errors)
    except UserError:
        raise
    except Exception as error:  # each client has many of its own
        what = f"{type(error).__name__}: {escape.line(' '.join(str(error).split()), 200)}"
        raise UserError(
            f"--tracker {kind} cannot keep this run ({what}). See {SERVERS[kind]}, or take another tracker."
        ) from None


class Tracker(Logger):
    """A run on a server for runs. What cannot be kept is reported once, and training goes on.

    Args:
        folder: of the run.
        errors: that report it.
    """

    def __init__(self, folder: Path, errors: ErrorReporter) -> None:
        super().__init__()
        self.folder, self._guard = folder, errors.guard
        self._open = True

    @property
    def name(self) -> str:
        """The name of the project."""
        return PROJECT

    @property
    def version(self) -> str:
        """The name of the run."""
        return self.folder.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keeps scores of a step."""
        with self._guard(f"scores for {self.where()}"):
            self._scores({name: float(value) for name, value in metrics.items()}, step or 0)

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Keeps nothing: `log_settings` does, when the scores are known."""

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Keeps the settings of the run and the scores of what is kept in the end."""
        with self._guard(f"settings for {self.where()}"):
            self._settings({name: _plain(value) for name, value in settings.items()}, dict(scores))

    @rank_zero_only
    def add_figure(self, tag: str, figure: Any, step: int) -> None:
        """Keeps a matplotlib figure under a tag such as `val/confusion_matrix`."""
        with self._guard(f"pictures for {self.where()}"):
            self._figure(tag, figure, step)

    @rank_zero_only
    def add_pr_curve(self, tag: str, labels: Any, predictions: Any, step: int) -> None:
        """Keeps the precision-recall curve of a class as a picture.

        Args:
            tag: with the name of the class.
            labels: bool (N,).
            predictions: probabilities of the class (N,).
            step: of the optimizer.
        """
        figure = precision_recall_figure(np.asarray(labels), np.asarray(predictions), tag.rpartition("/")[2])
        self.add_figure(tag, figure, step)

    @rank_zero_only
    def add_text(self, tag: str, text: str, step: int) -> None:
        """Keeps a text in Markdown."""
        with self._guard(f"texts for {self.where()}"), tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"{tag.replace('/', '_')}_{step}.md"
            file.write_text(text, encoding="utf-8")
            self._file(file)

    @rank_zero_only
    def add_file(self, file: Path) -> None:
        """Keeps a file under its name."""
        with self._guard(f"files for {self.where()}"):
            self._file(file)

    def finalize(self, status: str) -> None:
        """Ends a run that failed; one that did not has its last scores and files still to come."""
        if status != "success":
            self.close(failed=True)

    @rank_zero_only
    def close(self, failed: bool = False) -> None:
        """Ends the run on the server."""
        if self._open:
            self._open = False
            with self._guard(f"the end for {self.where()}"):
                self._close(failed)

    @abstractmethod
    def where(self) -> str:
        """Where the run is kept, for people."""

    @abstractmethod
    def command(self) -> str:
        """A command that shows the run."""

    @abstractmethod
    def _scores(self, scores: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _settings(self, settings: dict[str, Any], scores: dict[str, float]) -> None: ...

    @abstractmethod
    def _figure(self, tag: str, figure: Any, step: int) -> None: ...

    @abstractmethod
    def _file(self, file: Path) -> None: ...

    @abstractmethod
    def _close(self, failed: bool) -> None: ...


class MlflowTracker(Tracker):
    """MLflow: at MLFLOW_TRACKING_URI, else in an SQLite file above the run's folder.

    Args:
        folder, errors: as `Tracker` says.
    """

    def __init__(self, folder: Path, errors: ErrorReporter) -> None:
        super().__init__(folder, errors)
        from mlflow import MlflowClient

        for name in ("mlflow", "mlflow.store.db.utils", "alembic"):  # which say what tables are made
            logging.getLogger(name).setLevel(logging.ERROR)
        root = folder.resolve().parent
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = given or f"sqlite:///{root / 'mlflow.db'}"
        files = None if given else (root / "mlflow_files").as_uri()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        with FileLock(root / ".mlflow.lock"):  # runs of several seeds start at once
            self._client = MlflowClient(self.uri)
            found = self._client.get_experiment_by_name(name)
            place = found.experiment_id if found else self._client.create_experiment(name, files)
            self._run = self._client.create_run(place, run_name=folder.name).info.run_id

    def where(self) -> str:
        """The address of the store."""
        return f"MLflow at {escape.line(self.uri)}"

    def command(self) -> str:
        """That of MLflow's pages."""
        return f"mlflow ui --backend-store-uri {self.uri}"

    def _scores(self, scores: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run, metrics=[Metric(name, value, now, step) for name, value in scores.items()]
        )

    def _settings(self, settings: dict[str, Any], scores: dict[str, float]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in settings.items()]
        self._client.log_batch(self._run, params=params)
        self._scores(scores, 0)

    def _figure(self, tag: str, figure: Any, step: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"{tag.rpartition('/')[2]}_{step}.png"
            figure.savefig(file)
            self._client.log_artifact(self._run, str(file), tag.rpartition("/")[0])

    def _file(self, file: Path) -> None:
        self._client.log_artifact(self._run, str(file))

    def _close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


class WandbTracker(Tracker):
    """W&B, as its environment variables say; WANDB_MODE=offline keeps the run below its folder.

    Args:
        folder, errors: as `Tracker` says.
    """

    def __init__(self, folder: Path, errors: ErrorReporter) -> None:
        super().__init__(folder, errors)
        import wandb

        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
        if not offline and not wandb.login(prompt=False):
            raise UserError(
                "--tracker wandb has no account: run `wandb login`, or set WANDB_MODE=offline and send the "
                "run later with `wandb sync`."
            )
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def where(self) -> str:
        """The folder or the address of the run."""
        return f"W&B at {escape.line(self._run.dir if self._run.offline else self._run.url)}"

    def command(self) -> str:
        """The one that sends a run that was kept here; else its page is at its address."""
        return f"wandb sync {Path(self._run.dir).parent}" if self._run.offline else str(self._run.url)

    def _scores(self, scores: dict[str, float], step: int) -> None:
        # Its own steps may only grow, and several logs of one step would overwrite each other.
        self._run.log({**scores, "trainer/global_step": step})

    def _settings(self, settings: dict[str, Any], scores: dict[str, float]) -> None:
        self._run.config.update(settings, allow_val_change=True)
        self._run.summary.update(scores)

    def _figure(self, tag: str, figure: Any, step: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "figure.png"
            figure.savefig(file)
            self._run.log({tag: self._wandb.Image(str(file)), "trainer/global_step": step})

    def _file(self, file: Path) -> None:
        artifact = self._wandb.Artifact(file.name.replace(" ", "_"), type="file")
        artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def _close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _plain(value: Any) -> Any:
    """A setting as a number, or as a text of one line."""
    return value if isinstance(value, int | float) else escape.line(value, MAX_SETTING)


def precision_recall_figure(labels: np.ndarray, probs: np.ndarray, name: str) -> Any:
    """A matplotlib figure of precision over recall, at every threshold.

    Args:
        labels: bool (N,), whether a row has the class.
        probs: (N,), of the class.
        name: of the class.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    right = labels.astype(bool)[np.argsort(-probs, kind="stable")].cumsum()
    if right.size and right[-1]:
        axes.plot(right / right[-1], right / np.arange(1, len(right) + 1))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(name, parse_math=False)
    return figure
