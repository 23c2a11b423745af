"""How flags and configurations are read, and how a parsed configuration is written."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
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
    """Its errors are one line, shown by `__main__`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        verb = self.prog.rpartition(" ")[2]
        text = re.sub(r"\s+", " ", message).strip().rstrip(".")
        text = re.sub(r'Parser key "([^"]+)":', r"--\1:", re.sub(r"<class '(\w+)'>", r"\1", text))
        text = re.sub(r"Group '([\w.]+)' does not accept option '", r"there is no setting '\1.", text)
        text = re.sub(r"Option ('[\w.]+') is not accepted", r"there is no setting \1", text)
        text = re.sub(r" `\S+\.py --help` lists what is accepted\.", "", text)  # of a parser within this one
        near = ""
        unknown = re.search(r"(?:unrecognized arguments: --|there is no setting ')([\w.]+)", text)
        if unknown:
            flags = list(self.get_defaults(skip_validation=True).keys())
            close = difflib.get_close_matches(unknown[1], flags, 1)
            near = f" Did you mean --{close[0]}?" if close else ""
        elif verb == "predict" and text.startswith("unrecognized"):
            near = " Texts stand right after the verb."
        raise UserError(f"{text[:600]}.{near} `{self.prog} --help` lists what is accepted.")


class QuotedTextDumper(yaml.SafeDumper):
    """YAML in which every text that could be read as something else stands in quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*( [\w./-]+)*", text) and yaml.safe_load(text) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


QuotedTextDumper.add_representer(str, _represent_text)


def plain_settings(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed configuration as plain values."""
    # JSON, as its texts are always in quotes: YAML's `1e3` may come back as a number.
    return json.loads(parser.dump(config, skip_none=False, format="json"))
