"""The process of a verb: what it says, which of several it is, and which checkpoint all of them use."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from pathlib import Path

import pytest

from lit_bert import UserError
from lit_bert.cli.start import prepare_process
from lit_bert.io.ranks import RANKS, is_first_process
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.train.processes import CHECKPOINT, find_checkpoint, shared_checkpoint


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of several, whatever the tests are started by."""
    for name in (*RANKS, CHECKPOINT):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", RANKS)
def test_a_process_with_another_rank_than_0_is_not_the_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_first_process()
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


def test_started_processes_take_the_checkpoint_of_the_first(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(trained / "best.ckpt")
    with shared_checkpoint(checkpoint):
        with pytest.raises(UserError, match=r"no best\.ckpt below"):
            find_checkpoint("best")  # the first one looks for itself
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert find_checkpoint("best") == checkpoint.path
        assert find_checkpoint(None) == checkpoint.path
    assert CHECKPOINT not in os.environ
    with pytest.raises(UserError, match=r"no best\.ckpt below"):
        find_checkpoint("best")


def test_what_was_shared_before_is_shared_again_also_after_an_error(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHECKPOINT, "earlier.ckpt")
    with contextlib.suppress(KeyError), shared_checkpoint(Checkpoint.open(trained / "best.ckpt")):
        assert os.environ[CHECKPOINT] == str(trained / "best.ckpt")
        raise KeyError
    assert os.environ[CHECKPOINT] == "earlier.ckpt"


def test_a_started_process_and_a_run_without_a_checkpoint_share_none(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared_checkpoint(None):
        assert CHECKPOINT not in os.environ
    monkeypatch.setenv("RANK", "1")
    with shared_checkpoint(Checkpoint.open(trained / "best.ckpt")):
        assert CHECKPOINT not in os.environ


# --- what stands on the screen


def test_messages_are_lines_on_standard_error_once(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # in one process a verb may follow another
        prepare_process()
    logging.getLogger("lit_bert.data").info("100% of 3 rows")
    assert capfd.readouterr() == ("", "100% of 3 rows\n")


def test_processes_behind_the_first_say_only_what_is_wrong(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    prepare_process()
    logging.getLogger("lit_bert.data").info("3 rows")
    logging.getLogger("lit_bert.data").error("no rows")
    assert capfd.readouterr() == ("", "no rows\n")


def test_warnings_of_libraries_are_kept_off_the_screen_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.warnoptions", [])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        prepare_process()
        for module in ("torch.nn", "lightning.pytorch.trainer", "torchlike", "lit_bert.data"):
            warnings.warn_explicit(module, UserWarning, "file.py", 1, module=module)
    assert [str(each.message) for each in shown] == ["torchlike", "lit_bert.data"]


def test_a_thread_that_ends_in_an_error_says_so_unless_the_disk_is_full(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    prepare_process()

    def fail(error: Exception) -> None:
        raise error

    for error in (OSError(28, "No space left on device"), ValueError("a fault")):
        thread = threading.Thread(target=fail, args=[error])
        thread.start()
        thread.join()
    output = capfd.readouterr().err
    assert "ValueError: a fault" in output
    assert "No space left" not in output
