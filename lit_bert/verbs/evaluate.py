"""The verbs `validate` and `test`: score a checkpoint on a split."""

from __future__ import annotations

from collections.abc import Callable

from lit_bert.cli.arguments import checked_configs, only_prints, strip_flag
from lit_bert.cli.evaluate import Test, Validate
from lit_bert.cli.lightning import Verb
from lit_bert.cli.start import prepare_process
from lit_bert.sources.checkpoint import Checkpoint, find


def validate(arguments: list[str]) -> int:
    return from_checkpoint(Validate, arguments)


def test(arguments: list[str]) -> int:
    return from_checkpoint(Test, arguments)


def from_checkpoint(kind: Callable[..., Verb], arguments: list[str]) -> int:
    prepare_process()
    arguments, which = strip_flag(checked_configs(arguments), "--ckpt_path", "best, last or a file")
    cli = kind(arguments, None if only_prints(arguments) else Checkpoint.open(find(which)))
    return 1 if getattr(cli, "bad_rows", 0) else 0
