"""The verbs `validate` and `test`: score a checkpoint on a split.

python -m lit_bert test --ckpt_path best
"""

from __future__ import annotations

from functools import partial

from lit_bert.cli.lightning import NO_FILES, VerbParser, command_with_checkpoint, unparsed
from lit_bert.cli.start import prepare_process
from lit_bert.evaluate.announce import announce, checkpoint_sources
from lit_bert.evaluate.prediction_collector import PredictionCollector
from lit_bert.evaluate.predictions import TRAINED, read_hashes
from lit_bert.evaluate.record import fit_usage, record_scores
from lit_bert.train.processes import SameCheckpoint, shared_checkpoint

DESCRIPTION = "Score a checkpoint on the {} split; without --ckpt_path the best of the newest fit."
USAGE = "[--config FILE ...] [OPTIONS]"
VALIDATE = VerbParser("validate", USAGE, DESCRIPTION.format("validation"), trainer_defaults=NO_FILES)
TEST = VerbParser("test", USAGE, DESCRIPTION.format("test"), trainer_defaults=NO_FILES)


def validate(arguments: list[str]) -> int:
    """The exit code of `validate`."""
    return _score(VALIDATE, arguments)


def test(arguments: list[str]) -> int:
    """The exit code of `test`."""
    return _score(TEST, arguments)


def _score(verb: VerbParser, arguments: list[str]) -> int:
    """Prints the scores, what they rest on, and keeps them as JSON beside the checkpoint."""
    prepare_process()
    command, checkpoint = command_with_checkpoint(verb, arguments)
    outputs = PredictionCollector()
    command.build([outputs, SameCheckpoint(checkpoint), *command.progress_bar()])
    trainer, data = command.trainer, command.datamodule
    command.model.configure_model()  # what is wrong with weights or rows shows first
    data.setup(verb.name)
    trained = read_hashes(checkpoint.run / TRAINED)
    announce(trainer, [])
    # The weights came with `weights.checkpoint`: nothing is left to load.
    with shared_checkpoint(checkpoint):
        getattr(trainer, verb.name)(command.model, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        print(f"checkpoint {checkpoint.path}\nsha256     {checkpoint.sha256}")
        if checkpoint.facts.val_score is not None:
            fit = fit_usage(checkpoint)
            rows = f", on {fit['rows']:,} rows" if fit else ""
            title, score = checkpoint.task.main_title, checkpoint.facts.val_score
            print(f"validation {title} when it was saved: {score:.4f}{rows}")
        split = data.splits.val_name if verb is VALIDATE else data.hparams.test_split
        sources = [*checkpoint_sources(checkpoint), ("scored on", data.source)]
        record_scores(checkpoint, verb.name, split, outputs.predictions, sources, trained)
    return 0


PARSERS = {"validate": partial(unparsed, VALIDATE), "test": partial(unparsed, TEST)}
