"""The verb `fit`: train, once or with several seeds.

python -m lit_bert fit --config configs/base.yaml --trainer.max_epochs 1
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import yaml

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs, configs, only_prints, strip_flag
from lit_bert.cli.fit import Fit, no_seeds_in
from lit_bert.cli.start import prepare_process
from lit_bert.evaluate.report import SEEDS, seeds_table
from lit_bert.sources.checkpoint import Checkpoint, find
from lit_bert.train.runs import fit_each, has_accelerator, next_folder


def fit(arguments: list[str]) -> int:
    prepare_process()
    arguments, which = strip_flag(checked_configs(arguments), "--ckpt_path", "best, last or a file")
    arguments, seeds = strip_flag(arguments, "--seeds", "a number of seeds")
    if seeds is not None and not only_prints(arguments):
        _fit_seeds(arguments, seeds, which)
        return 0
    checkpoint = Checkpoint.open(find(which)) if which else None
    Fit(arguments, checkpoint, configs() / "base.yaml")
    return 0


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
