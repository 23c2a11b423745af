"""The verb `completion`: a script by which a shell completes verbs, flags and values, from the real parsers.

python -m lit_bert completion bash >> ~/.bashrc
"""

from __future__ import annotations

import argparse
import types
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin

import shtab

from lit_bert.cli.arguments import Parser
from lit_bert.verbs.table import VERBS

PROGRAM = "lit_bert"  # the command that is completed
SHELLS = ("bash", "zsh", "fish")
PATHS = ("config", "input", "output", "ckpt_path", "to", "result", "data.dataset", "weights.pretrained")


def completion(arguments: list[str]) -> int:
    """The exit code of `completion`."""
    print(script(_parser().parse_args(arguments).shell))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert completion",
        description=f"Print a script by which a shell completes the command `{PROGRAM}`. bash: append it to "
        "~/.bashrc; zsh: keep it as _lit_bert in a folder of $fpath; fish: keep it as "
        "~/.config/fish/completions/lit_bert.fish.",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


PARSERS = {"completion": _parser}


def script(shell: str) -> str:
    """The script for a shell, of the parsers of all verbs."""
    whole = argparse.ArgumentParser(PROGRAM, description="BERT text classification")
    whole.add_argument("--version", action="store_true", help="show the version")
    verbs = whole.add_subparsers()
    for name, verb in VERBS.items():
        parser = import_module(f"lit_bert.verbs.{verb.module}").PARSERS[name]()
        verbs.add_parser(name, help=verb.help, description=parser.description)
        verbs.choices[name] = parser
        parser.prog = f"{PROGRAM} {name}"
        for action in parser._actions:
            _prepare(action)
    return shtab.complete(whole, shell)


def _prepare(action: Any) -> None:
    """Says what an argument may have: values of its type, or the name of a file."""
    choices = _values(getattr(action, "_typehint", None))  # as jsonargparse keeps a type
    if choices and not action.choices:
        action.choices = choices
    elif action.dest in PATHS or _is_path(action.type):
        action.complete = shtab.FILE


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__ == "pathlib"


def _values(hint: Any) -> list[str]:
    """All values of a type that has few; else none."""
    if hint is bool:
        return ["true", "false"]
    if hint is type(None):
        return ["null"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_values(each) for each in get_args(hint)]
        return [value for part in parts for value in part] if all(parts) else []
    return []
