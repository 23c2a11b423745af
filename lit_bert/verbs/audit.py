"""The verb `audit`: what is wrong with labelled text."""

from __future__ import annotations

from lit_bert.cli.arguments import checked_configs, configs
from lit_bert.cli.audit import Audit
from lit_bert.cli.start import prepare_process


def audit(arguments: list[str]) -> int:
    prepare_process()
    Audit(checked_configs(arguments), configs() / "base.yaml")
    return 0
