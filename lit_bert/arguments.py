"""Arguments before any parser has them: flags that decide which parser there is, and configuration files.

python -m lit_bert fit --config subset.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

import yaml

from lit_bert import UserError


class Parser(argparse.ArgumentParser):
    """Of a verb that is not LightningCLI's. Its errors are one line, shown by the front door."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` lists what is accepted.")


def take(arguments: list[str], flag: str, expected: str) -> tuple[list[str], str | None]:
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
    package = Path(__file__).parent
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


def asks(arguments: list[str]) -> bool:
    """Whether a verb prints something about itself, and ends."""
    return not {"--help", "-h", "--print_config"}.isdisjoint(each.split("=")[0] for each in arguments)
