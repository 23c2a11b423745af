"""Arguments before any parser has them: flags that decide which parser there is, and configuration files.

python -m lit_bert fit --config subset.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lit_bert import UserError


class Parser(argparse.ArgumentParser):
    """Of a verb that is not LightningCLI's. Its errors are one line, shown by `__main__`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` lists what is accepted.")


def strip_flag(arguments: list[str], flag: str, expected: str) -> tuple[list[str], str | None]:
    """The arguments without `flag`, and its value."""
    taker = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    taker.add_argument(flag, dest="value")
    try:
        known, rest = taker.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise UserError(f"{flag} has no value; expected {expected}.") from None
    return rest, known.value


def configs() -> Path:
    """The folder of the packaged configurations; in a checkout it stands beside the package."""
    package = Path(__file__).parent.parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def checked_configs(arguments: list[str]) -> list[str]:
    """The arguments with every `--config FILE` checked; configs/NAME.yaml may be a packaged one."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        flag, joined, value = argument.partition("=")
        if flag not in ("--config", "-c") or not (joined or index + 1 < len(found)):
            continue
        value = value if joined else found[index + 1]
        if "\n" not in value and value.endswith((".yaml", ".yml")):
            file = _config_file(Path(value))
            found[index if joined else index + 1] = f"{flag}={file}" if joined else str(file)
    return found


def _config_file(path: Path) -> Path:
    """The configuration meant by a path: here, else among the packaged ones; holding settings at all."""
    if not path.is_file() and path.parent.name in ("", "configs") and (configs() / path.name).is_file():
        path = configs() / path.name
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in configs().glob("*.yaml")))
        raise UserError(f"no configuration {path}; packaged are {there}. Check the path.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"the configuration {path} is not UTF-8 ({error.reason}). Save it as UTF-8."
        ) from None
    except yaml.YAMLError:
        return path  # the parser says best what is wrong with it
    if not isinstance(settings, dict):
        kind = "is empty" if settings is None else f"holds a {type(settings).__name__}"
        raise UserError(f"the configuration {path} {kind}; expected sections such as `data:` and `trainer:`.")
    return path


def given_settings(arguments: list[str]) -> dict[str, bool]:
    """Settings that the arguments name; true where a flag does it, false where a configuration does.

    Args:
        arguments: of a verb, after `checked_configs`.
    """
    found: dict[str, bool] = {}
    for index, argument in enumerate(arguments):
        flag, joined, value = argument.partition("=")
        if flag == "-c":
            flag = "--config"
        if not flag.startswith("--"):
            continue
        value = value if joined else "".join(arguments[index + 1 : index + 2])
        name = flag[2:].rstrip("+")
        mapping = _mapping(value)
        if name == "config":
            found = {**dict.fromkeys(_flat(mapping), False), **found}
        elif mapping:  # a section as a file or as JSON
            found |= dict.fromkeys((f"{name}.{key}" for key in _flat(mapping)), True)
        else:
            found[name] = True
    return found


def _mapping(value: str) -> dict[str, Any]:
    """The keys of a configuration that is given as a file or in place; {} where it is none."""
    try:
        if "\n" not in value and len(value) < 4096 and Path(value).is_file():
            if Path(value).suffix not in (".yaml", ".yml", ".json"):
                return {}
            value = Path(value).read_text(encoding="utf-8")
        found = yaml.safe_load(value)
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the parser has said what is wrong with it
    return found if isinstance(found, dict) else {}


def _flat(mapping: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
