"""Several fits of one command: one process each, as many at a time as there are cores.

On a CPU a step does not fill its threads, so that two fits of one thread side by side do half as much again
as one after the other with two.

    python -m lit_bert fit --seeds 5
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from lit_bert import UserError, cores

PROGRESS = ("epoch ", "took ")  # starts of the lines that are passed on from all fits
REFUSAL = "lit_bert fit: "  # start of the line that says why nothing was done
LOG = "fit.log"


def fit_each(
    arguments: list[str], each: dict[str, list[str]], folder: Path, on_cpu: bool, quiet: bool = False
) -> list[Path]:
    """Runs `fit` once for each entry and waits for all.

    What they print goes into the log of each; the screen gets all of the first one's and the progress of
    the others.

    Args:
        arguments: of `fit`, shared.
        each: further arguments by the name of the run.
        folder: where the runs go, each in a folder of its name.
        on_cpu: whether they may run side by side and share the cores. On a GPU they take turns.
        quiet: whether the screen gets no more than the progress of the first one as well.

    Returns:
        The folders of the runs, in order.

    Raises:
        UserError: one of them failed; the others were stopped.
    """
    jobs = min(len(each), cores()) if on_cpu else 1
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
    failed = Event()
    processes: list[subprocess.Popen[str]] = []
    first, width = next(iter(each)), max(map(len, each))

    def stop() -> None:
        failed.set()
        for process in processes:
            process.terminate()

    def run(name: str) -> str | None:
        """What went wrong."""
        if failed.is_set():
            return None
        (folder / name).mkdir(parents=True, exist_ok=True)
        place = [f"save_dir={folder}", "name=", f"version={name}"]
        logger = [f"--trainer.logger.init_args.{setting}" for setting in place]
        command = [sys.executable, "-m", "lit_bert", "fit", *arguments, *each[name], *logger]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        processes.append(process)
        last = ""
        with process, (folder / name / LOG).open("w", encoding="utf-8") as log:
            try:
                if failed.is_set():  # while this one was started
                    process.terminate()
                for line in process.stdout:
                    log.write(line)
                    if not line.strip():
                        continue
                    last = line.strip()
                    said_below = line.startswith(REFUSAL)
                    if line.startswith(PROGRESS) or (name == first and not quiet and not said_below):
                        print(f"{name:{width}}  {line}", end="", file=sys.stderr, flush=True)
            except BaseException:
                process.terminate()
                raise
        if not process.returncode or failed.is_set():
            return None
        stop()
        if process.returncode == 2:  # a line for the user
            return f"{name}: {last.removeprefix(REFUSAL)}"
        return f"{name} ended with exit code {process.returncode}; {folder / name / LOG} says why."

    with ThreadPoolExecutor(jobs) as pool:
        try:
            problems = [problem for problem in pool.map(run, each) if problem]
        except BaseException:
            stop()
            raise
    if problems:
        raise UserError(problems[0])
    return [folder / name for name in each]


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


def has_accelerator() -> bool:
    """Whether there is a GPU."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
