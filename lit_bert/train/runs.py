"""Several fits of one command: one process each, as many at a time as there are cores.

Each gets its settings as a file in its folder, and leaves its events and its result there as files. On a CPU
a step does not fill its threads, so that two fits of one thread side by side do half as much again as one
after the other with two.

    python -m lit_bert fit --seeds 5
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from lit_bert import UserError, available_cores
from lit_bert.io import files
from lit_bert.train.result import EventReader, RunResult, Validation

LOG, SETTINGS = "fit.log", "settings.json"  # in the folder of each: what it prints, what it runs with
POLL = 0.2  # seconds between two looks at the events of a run


def fit_each(
    runs: Mapping[str, dict[str, Any]], folder: Path, on_cpu: bool, quiet: bool = False
) -> list[Path]:
    """Runs `fit` once for each entry and waits for all.

    The screen gets all messages of the first one, and the validations and the end of each.

    Args:
        runs: the settings of each run as plain values, by its name; the logger's folder is set here.
        folder: where the runs go, each in a folder of its name.
        on_cpu: whether they may run side by side and share the cores. On a GPU they take turns.
        quiet: whether the messages of the first one are left out as well.

    Returns:
        The folders of the runs, in order.

    Raises:
        UserError: one of them failed; the others were stopped.
    """
    jobs = min(len(runs), available_cores()) if on_cpu else 1
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, available_cores() // jobs))
    failed = Event()
    processes: list[subprocess.Popen[bytes]] = []
    first, width = next(iter(runs)), max(map(len, runs))

    def stop() -> None:
        failed.set()
        for process in processes:
            process.terminate()

    def show(name: str, text: object) -> None:
        for each in str(text).splitlines():
            _write_line(f"{name:{width}}  {each}")

    def run(name: str) -> str | None:
        """What went wrong."""
        if failed.is_set():
            return None
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        _write_settings(place, runs[name])
        command = [sys.executable, "-m", "lit_bert", "fit"]
        command += ["--config", str(place / SETTINGS), "--result", str(place)]
        events = EventReader(place)

        def show_events() -> None:
            for event in events.new_events():
                if isinstance(event, Validation):
                    show(name, event)
                elif name == first and not quiet:
                    show(name, event.text)

        with (place / LOG).open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        processes.append(process)
        with process:
            try:
                if failed.is_set():  # while this one was started
                    process.terminate()
                while not _has_ended(process):
                    show_events()
                show_events()
            except BaseException:
                process.terminate()
                raise
        if failed.is_set():
            return None
        result = RunResult.read(place)
        if process.returncode == 0 and result and result.status == "done":
            show(name, result)
            return None
        stop()
        return _problem(name, process.returncode, result, place / LOG)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            problems = [problem for problem in pool.map(run, runs) if problem]
        except BaseException:
            stop()
            raise
    if problems:
        raise UserError(problems[0])
    return [folder / name for name in runs]


def _write_settings(place: Path, settings: Mapping[str, Any]) -> None:
    """Writes what a run is started with: its own folder is that of its logger, too."""
    trainer = dict(settings["trainer"])
    logger = dict(trainer["logger"])
    logger["init_args"] = {
        **logger["init_args"],
        "save_dir": str(place.parent),
        "name": "",
        "version": place.name,
    }
    whole = {**settings, "trainer": {**trainer, "logger": logger}}
    files.write_text(place / SETTINGS, json.dumps(whole, indent=2) + "\n")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL)
    except subprocess.TimeoutExpired:
        return False
    return True


def _problem(name: str, code: int, result: RunResult | None, log: Path) -> str:
    """Why a run did not end as it should, in one line."""
    if code < 0:
        try:
            what = signal.Signals(-code).name
        except ValueError:
            what = f"signal {-code}"
        memory = ", perhaps as the memory was full" * (what == "SIGKILL")
        return f"{name} was ended by {what}{memory}; {log} has what it said."
    if result and result.status == "refused":
        return f"{name}: {result.message}"
    return f"{name} ended with exit code {code}{' and no result' * (result is None)}; {log} says why."


def next_folder(root: Path, kind: str) -> Path:
    """`root/kind_N`, made now, with the first N that is free."""
    for number in itertools.count():
        folder = root / f"{kind}_{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"cannot write runs into {root}: {error.strerror}. Choose another folder with "
                "--trainer.logger.init_args.save_dir."
            ) from None
    raise AssertionError


def runs_on_cpu(settings: Mapping[str, Any]) -> bool:
    """Whether a run with these settings computes on the CPU: it is asked to, or there is nothing else."""
    import torch

    other = torch.cuda.is_available() or torch.backends.mps.is_available()
    return settings["trainer"]["accelerator"] == "cpu" or not other


def _write_line(text: str) -> None:
    """Writes a line to standard error at once, as several threads do; `print` writes its end apart."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
