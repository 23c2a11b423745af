"""What the front door calls: one function a verb, from its arguments to an exit code.

python -m lit_bert fit --config configs/base.yaml --trainer.max_epochs 1
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lit_bert import UserError
from lit_bert.arguments import checked_configs, configs, only_prints, strip_flag
from lit_bert.checkpoints import Checkpoint, find
from lit_bert.report import SEEDS, seeds_table
from lit_bert.runs import fit_each, has_accelerator, next_folder
from lit_bert.verbs import Audit, Fit, Predict, Test, Validate, Verb, no_seeds_in

log = logging.getLogger("lit_bert")


def fit(arguments: list[str]) -> int:
    _prepare()
    arguments, which = strip_flag(checked_configs(arguments), "--ckpt_path", "best, last or a file")
    arguments, seeds = strip_flag(arguments, "--seeds", "a number of seeds")
    if seeds is not None and not only_prints(arguments):
        _fit_seeds(arguments, seeds, which)
        return 0
    checkpoint = Checkpoint.open(find(which)) if which else None
    Fit(arguments, checkpoint, configs() / "base.yaml")
    return 0


def audit(arguments: list[str]) -> int:
    _prepare()
    Audit(checked_configs(arguments), configs() / "base.yaml")
    return 0


def validate(arguments: list[str]) -> int:
    return _from_checkpoint(Validate, arguments)


def test(arguments: list[str]) -> int:
    return _from_checkpoint(Test, arguments)


def predict(arguments: list[str]) -> int:
    texts = []
    while arguments and not arguments[0].startswith("--") and arguments[0] not in ("-h", "-c"):
        texts.append(arguments[0])
        arguments = arguments[1:]
    return _from_checkpoint(partial(Predict, texts=texts), arguments)


def _from_checkpoint(kind: Callable[..., Verb], arguments: list[str]) -> int:
    _prepare()
    arguments, which = strip_flag(checked_configs(arguments), "--ckpt_path", "best, last or a file")
    cli = kind(arguments, None if only_prints(arguments) else Checkpoint.open(find(which)))
    return 1 if getattr(cli, "bad_rows", 0) else 0


def _fit_seeds(arguments: list[str], seeds: str, which: str | None) -> None:
    """Fits that differ in their seed alone, in a folder of their own, and what they come to."""
    if which is not None:
        raise UserError("got --seeds and --ckpt_path; a run that goes on has its seed already.")
    if not seeds.isdecimal() or int(seeds) < 1:
        raise UserError(f"--seeds is {seeds}; expected how many, at least 1.")
    settings = _settings(arguments)
    no_seeds_in(settings)
    first, logger = settings["seed_everything"], settings["trainer"]["logger"]
    if type(first) is not int:
        raise UserError(f"--seed_everything is {first}; with --seeds, expected the number of the first one.")
    if not isinstance(logger, dict) or not (root := logger["init_args"].get("save_dir")):
        raise UserError("trainer.logger keeps no folder for each run; with --seeds, leave it as it is.")
    folder = next_folder(Path(root), "seeds")
    each = {f"seed_{seed}": [f"--seed_everything={seed}"] for seed in range(first, first + int(seeds))}
    on_cpu = settings["trainer"]["accelerator"] == "cpu" or not has_accelerator()
    fit_each(arguments, each, folder, on_cpu)
    (folder / SEEDS).write_text(json.dumps(list(each)) + "\n", encoding="utf-8")
    print(seeds_table(folder))


def _settings(arguments: list[str]) -> dict[str, Any]:
    """What `fit` would run with. Refuses what its parser refuses."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        Fit([*arguments, "--print_config"], None, configs() / "base.yaml")
    return yaml.safe_load(out.getvalue())


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keeps quiet of a full disk: TensorBoard's thread hands the error on, and the front door says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _prepare() -> None:
    """Keeps off the screen what a user can do nothing about, and says the rest on standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.warnoptions:
        warnings.filterwarnings(
            "ignore",
            module=r"(lightning|torch|torchmetrics|transformers|datasets|jsonargparse|multiprocess)\b",
        )
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    threading.excepthook = _thread_failed
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
    log.setLevel(logging.INFO if first else logging.ERROR)
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
