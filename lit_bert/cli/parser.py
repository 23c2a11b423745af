"""How flags and configurations are read, and how a parsed configuration is written."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert import UserError

NULLS = ("", "null", "Null", "NULL", "~")  # what a flag may have for null


def read_value(text: str) -> Any:
    """What a flag's value or a configuration says: JSON where it is JSON, else YAML.

    YAML alone reads JSON wrongly: the two halves of an escaped emoji stay halves, and U+0085 in a text is
    read as a blank. A flag's value is not taken for a comment (`#1.csv` would be null, and the flag ignored)
    or for the one entry of a list (`- a,b`).

    Raises:
        yaml.YAMLError: it is neither, so that it is a text.
    """
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    found = get_loader("yaml")(text)
    if "\n" not in text and (
        (found is None and text.strip() not in NULLS) or (isinstance(found, list) and start != "[")
    ):
        raise yaml.YAMLError("a text")
    return found


PARSER_MODE = "lit_bert"  # of jsonargparse: how it reads values
set_loader(PARSER_MODE, read_value, (yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """Its errors are one line, shown by the front door."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        verb = sys.argv[1]
        text = re.sub(r"\s+", " ", message).strip().rstrip(".")
        text = re.sub(r'Parser key "([^"]+)":', r"--\1:", re.sub(r"<class '(\w+)'>", r"\1", text))
        near = ""
        unknown = re.search(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)", text)
        if unknown:
            parser = getattr(ex, "subcommand_parser", None) or self
            flags = [option[2:] for action in parser._actions for option in action.option_strings]
            for action in parser._actions:  # the flags of the verb, where this is the parser above it
                for below in action.choices.values() if isinstance(action.choices, dict) else ():
                    flags += [option[2:] for each in below._actions for option in each.option_strings]
            close = difflib.get_close_matches(unknown[1], flags, 1)
            near = f" Did you mean --{close[0]}?" if close else ""
        elif verb == "predict" and text.startswith("unrecognized"):
            near = " Texts stand right after the verb."
        raise UserError(f"{text[:600]}.{near} `python -m lit_bert {verb} --help` lists what is accepted.")


class Quoting(yaml.SafeDumper):
    """YAML in which every text that could be read as something else stands in quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*( [\w./-]+)*", text) and yaml.safe_load(text) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


Quoting.add_representer(str, _represent_text)


def plain_settings(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed configuration as plain values."""
    # JSON, as its texts are always in quotes: YAML's `1e3` may come back as a number.
    return json.loads(parser.dump(config, skip_none=False, format="json"))
