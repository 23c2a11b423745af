"""What is recorded of the rows that a score rests on, and read again beside the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_bert.data.cache import text_hash
from lit_bert.evaluate.evidence import CHOOSING, ENDING
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.evaluate.record import fit_usage, rows_used_for, trained_on
from lit_bert.sources.checkpoint import Checkpoint

FITTED = "fitting the temperature"


def hashes(*texts: str) -> np.ndarray:
    return np.array([text_hash(text) for text in texts], dtype=np.uint64)


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (["c"], []),
        (["a", "c"], ["training (1 of the 2 texts)"]),
        (["b", "a"], ["training"]),
        ([], []),
    ],
)
def test_texts_that_were_trained_on_are_counted(trained: list[str], said: list[str]) -> None:
    assert trained_on(["a", "b"], hashes(*trained)) == said


def test_the_usage_of_a_fit_is_kept_with_its_validation_rows(trained: Path) -> None:
    checkpoint = Checkpoint.open(trained / "best.ckpt")
    usage = fit_usage(checkpoint)
    assert usage is not None
    assert usage["checkpoint_sha256"] == checkpoint.sha256
    assert (usage["rows"], usage["used_for"][0]) == (24, CHOOSING)
    assert usage["rows_sha256"] == Predictions.read(trained / VALIDATED).rows_sha256


@pytest.mark.parametrize("usage", [None, [], {"rows": 24}, {"rows": "24", "used_for": "all"}])
def test_a_usage_of_another_shape_is_as_none(trained: Path, tmp_path: Path, usage: Any) -> None:
    checkpoint = replace(Checkpoint.open(trained / "best.ckpt"), path=tmp_path / "best.ckpt")
    assert fit_usage(checkpoint) is None  # no file
    rows = Predictions.read(trained / VALIDATED)
    rows.with_facts(fit=usage).write(tmp_path / VALIDATED)
    assert fit_usage(checkpoint) is None
    (tmp_path / VALIDATED).write_bytes(b"PAR1")
    assert fit_usage(checkpoint) is None


def test_rows_decided_on_the_best_checkpoint_and_at_most_on_the_end_of_another(trained: Path) -> None:
    rows = Predictions.read(trained / VALIDATED)
    best, last = (Checkpoint.open(trained / name) for name in ("best.ckpt", "last.ckpt"))
    usage = {
        "rows": len(rows.labels),
        "rows_sha256": rows.rows_sha256,
        "checkpoint_sha256": best.sha256,
        "used_for": [CHOOSING, ENDING, FITTED],
    }
    assert rows_used_for(rows, best, usage) == [CHOOSING, ENDING, FITTED]
    assert rows_used_for(rows, last, usage) == [ENDING]
    assert rows_used_for(replace(rows, texts=["other", *rows.texts[1:]]), best, usage) == []
    assert rows_used_for(rows, best, None) is None
