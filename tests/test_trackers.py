"""Where a fit keeps its scores, settings, pictures and card, read back by its own tools."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, texts_of, write_csv

from lit_bert.train.dashboard import Dashboard
from lit_bert.train.record import EpochRecord, ErrorReporter
from lit_bert.train.trackers import open_tracker, precision_recall_figure

RUN = Path("checkpoints/version_0")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_mlflow_has_scores_settings_pictures_and_the_card(run: Run, quick: list[str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    outcome = run("fit", *quick, "--tracker=mlflow")
    assert outcome.code == 0, outcome.err
    uri = f"sqlite:///{Path('checkpoints').resolve() / 'mlflow.db'}"
    assert f"mlflow ui --backend-store-uri {uri}" in outcome.out
    client = mlflow.MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "lit_bert"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("version_0", "FINISHED")
    scores = json.loads((RUN / "validate.json").read_text(encoding="utf-8"))
    assert scores
    history = client.get_metric_history(found.info.run_id, "val/f1")
    assert len(history) == 2  # epochs
    best = found.data.metrics["val_best/f1"]
    assert best == max(each.value for each in history)
    assert {f"val/f1_class/{name}" for name in ("joy", "sadness", "anger")} <= found.data.metrics.keys()
    assert "train/f1" in found.data.metrics
    assert found.data.params["batch_size"] == "8"
    assert found.data.params["validation_rows"] == "24"

    def artifacts(path: str | None = None) -> list[str]:
        return [each.path for each in client.list_artifacts(found.info.run_id, path)]

    assert {"README.md", "config.yaml", "validate.json"} <= set(artifacts())
    assert len([each for each in artifacts("val") if "confusion_matrix" in each]) == 2
    assert len(artifacts("val/precision_recall")) == 6  # classes, at each of two validations
    card = client.download_artifacts(found.info.run_id, "README.md")
    assert "macro F1" in Path(card).read_text(encoding="utf-8")
    assert not [name for name in names_in(RUN) if name.startswith("events")]
    # The settings of the run start it again, and go on with it.
    again = run("fit", "--config", RUN / "config.yaml", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert again.code == 0, again.err
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.parametrize(
    ("labels", "pictures", "score", "said"),
    [
        (lambda n: {"joy": n % 2, "fear": int(n % 3 == 0)}, "val/precision_recall/", "val/f1", "macro F1"),
        (lambda n: {"label": n / 8}, "val/predicted_by_label", "val/r2", "gives a text a number"),
    ],
    ids=["multi_label", "regression"],
)
def test_mlflow_has_scores_and_pictures_of_other_kinds_of_tasks(
    run: Run,
    quick: list[str],
    labels: Callable[[int], dict[str, object]],
    pictures: str,
    score: str,
    said: str,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    texts = texts_of("joy", 60)
    write_csv(Path("table.csv"), [{"text": text, **labels(n)} for n, text in enumerate(texts)])
    flags = ["--data.dataset=table.csv", "--data.stand_in=null", "--trainer.max_epochs=1"]
    outcome = run("fit", *quick, *flags, "--tracker=mlflow")
    assert outcome.code == 0, outcome.err
    assert "not" not in outcome.err.partition("MLflow")[2]  # nothing could not be kept
    client = mlflow.MlflowClient(f"sqlite:///{Path('checkpoints').resolve() / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "lit_bert"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert {score, score.replace("val/", "val_best/")} <= found.data.metrics.keys()
    kept = [each.path for each in client.list_artifacts(found.info.run_id, "val")]
    kept += [each.path for each in client.list_artifacts(found.info.run_id, "val/precision_recall")]
    assert any(each.startswith(pictures) for each in kept), kept
    assert not any("confusion" in each for each in kept)
    card = client.download_artifacts(found.info.run_id, "README.md")
    assert said in Path(card).read_text(encoding="utf-8")


def test_runs_of_several_seeds_are_in_one_store(
    run: Run, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{Path('own.db').resolve()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mood")
    outcome = run("fit", *quick, "--tracker=mlflow", "--seeds=2", "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mood")
    found = client.search_runs([experiment.experiment_id])
    assert {each.info.run_name for each in found} == {"seed_0", "seed_1"}


def test_wandb_offline_has_scores_pictures_and_the_card(
    run: Run, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = run("fit", *quick, "--tracker=wandb")
    assert outcome.code == 0, outcome.err
    assert "wandb sync" in outcome.out
    (kept,) = (RUN / "wandb").glob("offline-run-*")
    assert str(kept) in outcome.out
    (log,) = kept.glob("*.wandb")
    wanted = {b"val/f1", b"val_best/f1", b"batch_size", b"README.md", b"confusion_matrix"}
    end = time.monotonic() + 20  # the file is written by a process of W&B
    while missing := {each for each in wanted if each not in log.read_bytes()}:
        assert time.monotonic() < end, missing
        time.sleep(0.1)
    pictures = list((kept / "files" / "media").rglob("*.png"))
    assert len([each for each in pictures if "confusion" in each.name]) == 2


def test_wandb_without_an_account_is_refused(
    quick: list[str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(Exception, match="WANDB_MODE=offline"):
        open_tracker("wandb", tmp_path, ErrorReporter())


def test_csv_keeps_a_table_of_the_scores(run: Run, quick: list[str]) -> None:
    outcome = run("fit", *quick, "--tracker=csv")
    assert outcome.code == 0, outcome.err
    with (RUN / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len([row for row in rows if row["val/f1"]]) == 2
    assert "metrics.csv" in outcome.out
    assert "best.ckpt" in names_in(RUN)


def test_none_keeps_the_run_alone(run: Run, quick: list[str]) -> None:
    outcome = run("fit", *quick, "--tracker=none")
    assert outcome.code == 0, outcome.err
    assert "look at it" not in outcome.out
    kept = names_in(RUN)
    assert {"best.ckpt", "last.ckpt", "config.yaml"} <= kept
    assert not [name for name in kept if name.startswith(("events", "metrics", "hparams"))]
    assert run("validate").code == 0


def test_what_does_not_fit_is_refused(
    quick: list[str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--tracker" in refused("fit", *quick, "--tracker=comet")
    assert "trainer.logger" in refused("fit", *quick, "--tracker=csv", "--trainer.logger=false")


def test_a_store_that_cannot_be_reached_is_refused_before_training(
    run: Run, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/all.db")
    outcome = run("fit", *quick, "--tracker=mlflow")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "MLFLOW_TRACKING_URI" in outcome.err
    assert not RUN.exists()


def test_an_error_of_a_tracker_is_reported_once_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    tracker = open_tracker("mlflow", tmp_path / "run", ErrorReporter())
    assert tracker is not None
    tracker._client = None  # type: ignore[attr-defined]
    for step in range(3):
        tracker.log_metrics({"val/f1": 0.5}, step)
    assert len(caplog.records) <= 1
    assert Dashboard(EpochRecord()).facts == {}


def test_a_precision_recall_curve_is_that_of_the_definition() -> None:
    figure = precision_recall_figure(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.1]), "a $name")
    (line,) = figure.axes[0].get_lines()
    assert line.get_xdata().tolist() == [0.5, 0.5, 1]
    np.testing.assert_allclose(line.get_ydata(), [1, 1 / 2, 2 / 3])
    assert precision_recall_figure(np.array([0]), np.array([0.1]), "b").axes[0].get_lines() == []
