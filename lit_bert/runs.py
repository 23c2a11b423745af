"""Several fits of one command: one process each, as many at a time as there are cores.

On a CPU a step does not fill its threads, so that two fits of one thread side by side do half as much again
as one after the other with two.

    python -m lit_bert fit --seeds 5
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from lit_bert import UserError

PROGRESS = ("epoch ", "took ")  # starts of the lines that are passed on from all fits
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(len(each), cores) if on_cpu else 1
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    failed = Event()
    first, width = next(iter(each)), max(map(len, each))

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
        line = ""
        with process, (folder / name / LOG).open("w", encoding="utf-8") as log:
            try:
                for line in process.stdout:
                    log.write(line)
                    if line.startswith(PROGRESS) or (line.strip() and name == first and not quiet):
                        print(f"{name:{width}}  {line}", end="", file=sys.stderr, flush=True)
                    if failed.is_set():
                        process.terminate()
            except BaseException:
                process.terminate()
                raise
        if process.returncode and not failed.is_set():
            failed.set()
            return f"{name}: {line.strip().removeprefix('lit_bert fit: ')}"
        return None

    with ThreadPoolExecutor(jobs) as pool:
        problems = [problem for problem in pool.map(run, each) if problem]
    if problems:
        raise UserError(problems[0])
    return [folder / name for name in each]
