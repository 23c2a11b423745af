"""Old names of settings: arguments and configurations that use them mean the new ones; a line says so.

A name that changes goes into `RENAMED` for one release and into nothing else: whatever reads arguments after
`with_new_names` knows the new names alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_bert import UserError
from lit_bert.cli.parser import read_value
from lit_bert.io.escape import line

log = logging.getLogger(__name__)

# Settings by their dotted names, old to new: "data.train_rows": "data.subset.train_rows". A section that was
# moved is one entry: what stands below it moves along.
RENAMED: dict[str, str] = {}

MOST_BYTES = 2**24  # of a configuration
SUFFIXES = (".yaml", ".yml", ".json")


def with_new_names(arguments: list[str], renamed: Mapping[str, str] | None = None) -> list[str]:
    """The arguments with the new name of each setting, in flags, sections and configurations.

    Args:
        arguments: of a verb, after `checked_configs`.
        renamed: old names to new ones; None is `RENAMED`.

    Raises:
        UserError: a configuration has a setting by both of its names.
    """
    renamed = RENAMED if renamed is None else renamed
    if not renamed:
        return arguments
    found: list[str] = []
    used: dict[str, str] = {}
    for given in _split(arguments):
        name = "config" if given.flag == "-c" else given.flag[2:].removesuffix("+")
        new = _new_name(name, renamed)
        if new != name:
            used[name] = new
            found += given.with_flag(f"--{new}{'+' * given.flag.endswith('+')}")
            continue
        mapping, folder = _mapping(given.value) if given.value is not None else ({}, Path())
        whole = mapping if name == "config" else _nested(name, mapping)
        moved = _rename(whole, renamed, folder, used) if mapping else None
        if moved is None:
            found += given.with_flag(given.flag)
        elif name == "config":
            found.append(f"--config={json.dumps(moved, default=str)}")
        else:
            found += [f"--{section}={json.dumps(values, default=str)}" for section, values in moved.items()]
    for name, new in used.items():
        log.info(f"{line(name, 100)} is called {new} now; the old name works until the next release")
    return found


class _Given(NamedTuple):
    """A flag with its value, as one argument or as two; a word that belongs to no flag is one, too."""

    flag: str
    value: str | None
    joined: bool

    def with_flag(self, flag: str) -> list[str]:
        if self.value is None:
            return [flag]
        return [f"{flag}={self.value}"] if self.joined else [flag, self.value]


def _split(arguments: list[str]) -> Iterator[_Given]:
    rest = iter([*arguments, "--"])
    argument = next(rest)
    for after in rest:
        flag, joined, value = argument.partition("=")
        if not argument.startswith(("--", "-c")) or (not joined and after.startswith(("--", "-c"))):
            yield _Given(argument, None, False)
        elif joined:
            yield _Given(flag, value, True)
        else:
            yield _Given(flag, after, False)
            after = next(rest, "--")
        argument = after


def _new_name(name: str, renamed: Mapping[str, str]) -> str:
    """What a setting is called now, itself or by the section that it stands in."""
    for old in sorted(renamed, key=len, reverse=True):
        if name == old or name.startswith(f"{old}."):
            return renamed[old] + name[len(old) :]
    return name


def _mapping(value: str) -> tuple[dict[str, Any], Path]:
    """The settings in a file or in place, {} where it is something else, and the folder of the file."""
    folder = Path()
    try:
        if "\n" not in value and value.endswith(SUFFIXES) and Path(value).is_file():
            if Path(value).stat().st_size > MOST_BYTES:
                return {}, folder
            folder = Path(value).parent
            value = Path(value).read_text(encoding="utf-8")
        found = read_value(value)
    except (OSError, ValueError, yaml.YAMLError):
        return {}, folder  # the parser says what is wrong with it
    return (found, folder) if isinstance(found, dict) else ({}, folder)


def _nested(name: str, values: Any) -> dict[str, Any]:
    """The values below the dotted name of their section."""
    for part in reversed(name.split(".")):
        values = {part: values}
    return values


def _rename(
    whole: dict[str, Any], renamed: Mapping[str, str], folder: Path, used: dict[str, str]
) -> dict[str, Any] | None:
    """The settings by their new names; None where no old one is among them.

    Args:
        folder: that of the file, against which names of further files in it are taken.
        used: gets the old names that are there, with the new ones.
    """
    for section, value in list(whole.items()):  # a section in a file of its own
        if isinstance(value, str) and value.endswith(SUFFIXES) and (folder / value).is_file():
            inner = _mapping(str(folder / value))[0]
            if _rename({section: inner}, renamed, folder, {}):
                whole[section] = inner
    moved = json.loads(json.dumps(whole, default=str))
    here = {}
    for old, new in renamed.items():
        *above, last = old.split(".")
        place = _below(moved, above)
        if place is None or last not in place:
            continue
        here[old] = new
        value = place.pop(last)
        *above, last = new.split(".")
        target = moved
        for part in above:
            target = target.setdefault(part, {})
        if isinstance(value, dict) and isinstance(target.get(last), dict) and not value.keys() & target[last]:
            value = {**target[last], **value}  # a section that moved, beside what is there
        elif last in target:
            raise UserError(f"a configuration has {new} and {old}, its old name; leave the old one out.")
        target[last] = value
    used.update(here)
    return moved if here else None


def _below(values: dict[str, Any], parts: list[str]) -> dict[str, Any] | None:
    for part in parts:
        found = values.get(part)
        if not isinstance(found, dict):
            return None
        values = found
    return values
