"""The verbs that LightningCLI parses, as the table of verbs leads to them."""

from __future__ import annotations

from importlib import import_module

from lit_bert.__main__ import VERBS
from lit_bert.cli.lightning import VerbParser

PARSERS: dict[str, VerbParser] = {
    each.name: each
    for verb in VERBS.values()
    for each in vars(import_module(f"lit_bert.verbs.{verb.module}")).values()
    if isinstance(each, VerbParser)
}
RESUMING = [name for name, each in PARSERS.items() if each.checkpoint_help and each.keeps_config]
USING = [name for name, each in PARSERS.items() if each.checkpoint_help and not each.keeps_config]


def arguments_of(verb: str) -> list[str]:
    """What the verb needs beside a checkpoint."""
    return ["happy"] if verb == "predict" else []
