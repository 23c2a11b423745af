"""The verb `fit`: train, once or with several seeds.

python -m lit_bert fit --config configs/base.yaml --trainer.max_epochs 1
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs, strip_flag
from lit_bert.cli.lightning import CommandLine, VerbParser, unparsed
from lit_bert.cli.run_arguments import add_run_arguments, root_of_runs, settings_of_run
from lit_bert.cli.start import prepare_process
from lit_bert.data.cache import temporary_cache
from lit_bert.data.corpus import NAMES
from lit_bert.data.windows import LongTexts
from lit_bert.evaluate.report import SEEDS, seeds_table
from lit_bert.io import files
from lit_bert.sources.checkpoint import BEST, Checkpoint
from lit_bert.sources.settings import composition
from lit_bert.sources.weights import Weights
from lit_bert.train.budget import Budget
from lit_bert.train.decide import apply_decisions
from lit_bert.train.dry_run import dry_run
from lit_bert.train.fit import run_fit
from lit_bert.train.plan import trains_in_parts
from lit_bert.train.processes import SameCheckpoint, find_checkpoint, shared_checkpoint
from lit_bert.train.progress import ProgressEvents
from lit_bert.train.published import Asked
from lit_bert.train.recipe import FEW_ROWS
from lit_bert.train.result import EventFile, RunResult, fit_with_result
from lit_bert.train.resume import apply_resumed_settings
from lit_bert.train.run import FitRun, RunCallbacks
from lit_bert.train.runs import fit_each, next_folder, runs_on_cpu
from lit_bert.train.trackers import apply_tracker
from lit_bert.train.zero_shot import read_descriptions

DRY_RUN, FROM = "--dry_run", "--from"


def fit(arguments: list[str]) -> int:
    """The exit code of `fit`."""
    prepare_process()
    arguments, which = strip_flag(checked_configs(arguments), "--ckpt_path", "best, last or a file")
    arguments, seeds = strip_flag(arguments, "--seeds", "a number of seeds")
    arguments, result = strip_flag(arguments, "--result", "a folder")
    if DRY_RUN in arguments:
        for flag, value in (("--seeds", seeds), ("--result", result), ("--ckpt_path", which)):
            if value is not None:
                raise UserError(f"got {DRY_RUN} and {flag}; expected one of them.")
        _dry_run([argument for argument in arguments if argument != DRY_RUN])
    elif seeds is not None:
        _fit_seeds(arguments, seeds, which, result)
    elif result is not None:
        fit_with_result(Path(result), partial(_fit, arguments, which))
    else:
        _fit(arguments, which)
    return 0


# --- arguments ---


def _add_arguments(parser: LightningArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=int | None,
        default=None,
        help="train that many times, with seeds counting up from seed_everything, and show mean and "
        "spread; on the command line only",
    )
    parser.add_argument(
        "--result",
        type=str | None,
        default=None,
        help="folder for result.json (how the run ended: status, message, checkpoint, scores) and "
        "events.jsonl (messages and validations as they come), for programs that start runs; on the command "
        "line only",
    )
    parser.add_argument(
        FROM,
        type=str | None,
        default=None,
        help="model to start from: a checkpoint, the folder of a run, or one that `export` wrote; classes "
        "that stay keep their rows of the last layer, and both models are compared at the end; on the "
        "command line only",
    )
    parser.add_argument(
        DRY_RUN,
        action="store_true",
        help="read the data, take a few steps and print what the run would use, how long it would take and "
        "how much memory; nothing is written; on the command line only",
    )
    add_run_arguments(parser)


FIT = VerbParser(
    "fit",
    "[--config FILE ...] [OPTIONS]",
    "Train; keep the best epoch (best.ckpt) and the last (last.ckpt).",
    checkpoint_help="checkpoint to resume from: last (that of the newest fit) or its last.ckpt; "
    "without it, a new run",
    add_arguments=_add_arguments,
    starts_from_base=True,
    keeps_config=True,
)


def parsed(arguments: list[str]) -> CommandLine:
    """The settings of a fit.

    Raises:
        UserError: the parser refuses them, or a configuration has what only a command line can say.
    """
    command = CommandLine(FIT, arguments)
    for name, example in (("seeds", " 5"), ("result", " results"), ("dry_run", ""), ("from", " FILE")):
        if command.config[name] not in (None, False) and not command.given.get(name):
            raise UserError(
                f"{name} stands in a configuration; give it on the command line, as --{name}{example}."
            )
    return command


# --- one run ---


def _fit(arguments: list[str], which: str | None, events: EventFile | None = None) -> RunResult | None:
    run = prepared(parsed(arguments), which, [ProgressEvents(events)] if events else [])
    with shared_checkpoint(run.resumed.checkpoint if run.resumed else None):
        return run_fit(run)


def _dry_run(arguments: list[str]) -> None:
    with temporary_cache():
        dry_run(prepared(parsed(arguments), None, []))


def prepared(command: CommandLine, which: str | None, callbacks: list[Callback]) -> FitRun:
    """The run of a parsed command, built.

    Args:
        which: the checkpoint that it goes on from; None takes that of its configuration, if there is one.
        callbacks: further ones.
    """
    which, resumed, config = which or command.config["ckpt_path"], None, command.config
    apply_tracker(config)
    old = _old_model(command, which)
    has_rows = not _takes_names_alone(command)
    if which is not None:
        command.checkpoint = Checkpoint.open(find_checkpoint(which))
        composed = composition(command.settings)
        resumed = apply_resumed_settings(config, command.given, composed, command.checkpoint)
        callbacks = [*callbacks, SameCheckpoint(command.checkpoint)]
    apply_decisions(config, resumed is not None)
    own = RunCallbacks(config, command.progress_bar(), callbacks)
    command.build(own.all)
    if old is not None:
        command.model.weights.keeps_classes = True
    settings = command.settings
    in_parts = trains_in_parts(settings, resumed is not None, command.trainer.world_size)
    if in_parts:
        command.datamodule.splits.fewest_to_split = FEW_ROWS
    run = FitRun(
        *(command.trainer, command.model, command.datamodule, settings, own, resumed, _card, command.config),
        old=old,
        has_rows=has_rows,
    )
    if settings["minutes"] is not None and (resumed or run.trainer.world_size > 1):
        what = "a run that goes on" if resumed else "more than one device"
        raise UserError(f"--minutes is not for {what}. Leave it out, or end the run with --trainer.max_time.")
    run.trains_in_parts = in_parts
    run.budget = Budget(settings["minutes"])
    if settings["descriptions"] is not None:
        if settings["method"] != "zero_shot":
            raise UserError("--descriptions is for --method zero_shot. Leave it out, or choose that method.")
        names = command.model.task.class_names
        run.descriptions = read_descriptions(Path(settings["descriptions"]), names)
    return run


def _takes_names_alone(command: CommandLine) -> bool:
    """Whether the method zero_shot is given names or descriptions of the classes and no rows.

    Raises:
        UserError: something is asked for that only rows can give.
    """
    config, given = command.config, command.given
    named = config["descriptions"], given.get("data.label_names")
    if config["method"] != "zero_shot" or given.get("data.dataset") or not any(named):
        return False
    for name in ("guarantee", "want", "costs", "from"):
        if config[name] is not None:
            raise UserError(
                f"--{name} needs rows, and there are the names of classes alone; add --data.dataset."
            )
    config["data.dataset"] = NAMES if config["descriptions"] is None else config["descriptions"]
    return True


def _old_model(command: CommandLine, which: str | None) -> Checkpoint | None:
    """The model that `--from` names, whose weights the run then starts from; None without the flag.

    Raises:
        UserError: there is none, or another flag says where the weights are.
    """
    place = command.config["from"]
    if place is None:
        return None
    for name in ("weights.pretrained", "weights.checkpoint"):
        if command.given.get(name):
            raise UserError(f"got {FROM} and --{name}; expected one of them.")
    if which is not None:
        raise UserError(f"got {FROM} and --ckpt_path; a run that goes on has its weights already.")
    best = Path(place) / BEST  # of the folder of a run
    found = Checkpoint.open(find_checkpoint(str(best) if best.is_file() else place, Asked()))
    command.config["weights.checkpoint"] = str(found.path)
    return found


def _card(best: Path, folder: Path) -> Path:
    """Writes the model card of a checkpoint, as `export` does but without other files."""
    from lit_bert.product.card import describe
    from lit_bert.product.export import validation_rows
    from lit_bert.product.folder import CARD

    checkpoint = Checkpoint.open(best)
    rows = validation_rows(checkpoint)
    settings = checkpoint.data.settings
    tokenizer = Weights(checkpoint=str(best)).tokenizer(settings.max_length)
    long_texts = LongTexts.of_settings(tokenizer, settings)
    describe(folder, checkpoint, long_texts, rows, {}, "python -m lit_bert fit", None)
    return folder / CARD


# --- several seeds ---


def _fit_seeds(arguments: list[str], seeds: str, which: str | None, result: str | None) -> None:
    """Fits that differ in their seed alone, in a folder of their own, and what they come to."""
    command = parsed(arguments)
    if which is not None or command.config["ckpt_path"] is not None:
        raise UserError("got --seeds and --ckpt_path; a run that goes on has its seed already.")
    if result is not None:
        raise UserError("got --seeds and --result; each of several runs has a result.json in its folder.")
    if not seeds.isdecimal() or int(seeds) < 1:
        raise UserError(f"--seeds is {seeds}; expected how many, at least 1.")
    if command.config["from"] is not None:
        raise UserError(f"got --seeds and {FROM}; start from the same weights with --weights.checkpoint.")
    first = command.seed_asked_for
    if type(first) is not int:
        raise UserError(f"--seed_everything is {first}; with --seeds, expected the number of the first one.")
    settings = command.settings
    folder = next_folder(root_of_runs(settings, "--seeds"), "seeds")
    each = {
        f"seed_{seed}": settings_of_run(settings, seed_everything=seed)
        for seed in range(first, first + int(seeds))
    }
    fit_each(each, folder, runs_on_cpu(settings))
    files.write_text(folder / SEEDS, json.dumps(list(each)) + "\n")
    print(seeds_table(folder))


PARSERS = {"fit": partial(unparsed, FIT)}
