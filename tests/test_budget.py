"""A run that ends when its minutes are over."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lit_bert import COMMAND, UserError
from lit_bert.model.groups import warmup_and_decay
from lit_bert.train.budget import RESERVE_S, Budget
from lit_bert.train.race import trainings


def test_a_budget_counts_from_the_beginning_of_the_command(monkeypatch):
    monkeypatch.setitem(COMMAND, "started", time.monotonic() - 30)
    budget = Budget(1.0)
    assert 29 - RESERVE_S < budget.left_s < 30.1 - RESERVE_S
    assert Budget(None).left_s == float("inf")
    with budget.reserving(2.0):
        time.sleep(0.2)
    assert budget.left_s < 29.6 - RESERVE_S
    assert Budget(0.5).is_over
    assert not Budget(None).callbacks()


@pytest.mark.parametrize("minutes", [0, -1, 1e9, float("nan")])
def test_minutes_that_are_none_are_refused(minutes):
    with pytest.raises(UserError, match="--minutes"):
        Budget(minutes)


def test_the_learning_rate_falls_with_the_time_where_that_is_further_on():
    share = 0.0
    factor = warmup_and_decay(10, 110, lambda: lambda: share)
    plain = warmup_and_decay(10, 110)
    assert [factor(step) for step in range(120)] == [plain(step) for step in range(120)]
    share = 0.5
    assert factor(10) == plain(55)
    assert factor(60) == plain(60)
    share = 1.0
    assert factor(3) == 0.0


def test_a_run_ends_within_its_minutes(run, quick):
    """Hundreds of epochs would take minutes; half of one is left."""
    run("fit", *quick, "--trainer.max_epochs=1")  # what a first start costs
    start = time.monotonic()
    flags = [flag for flag in quick if "max_epochs" not in flag]
    outcome = run("fit", *flags, "--method=finetune", "--trainer.max_epochs=5000", "--minutes=0.25")
    took = time.monotonic() - start
    assert outcome.code == 0, outcome.err
    assert "budget     " in outcome.err
    assert "steps in" in outcome.err
    assert took < 0.25 * 60 * 1.1 + 1
    assert json.loads(Path("checkpoints/version_1/validate.json").read_text())["scores"]["accuracy"] > 0.9


def test_a_run_that_goes_on_has_no_minutes(run, quick, refused):
    assert run("fit", *quick, "--trainer.max_epochs=1").code == 0
    assert "not for a run that goes on" in refused("fit", *quick, "--minutes=1", "--ckpt_path=last")


def test_the_time_is_shared_by_all_networks_that_are_trained():
    assert trainings(["soup", "frozen"], 3) == 3 * 2 + 2
    assert trainings(["finetune", "contrastive"], 2) == 2 * 2 + 1
    assert trainings(["frozen"], 3) == 0
