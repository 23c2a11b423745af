"""Which files are the splits of a data set: of a folder, of a pattern, of a list.

A folder has a file for each split (`train.csv`, `val.jsonl`, `test-00000-of-00002.parquet`), a folder of
files for each split (`train/part-0.csv`), a folder for each class with a file a text (`joy/1.txt`), or such
folders below one for each split (`train/joy/1.txt`).
"""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered, text_problem
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.readers.text import DAMAGED, inner_suffix, is_compressed, open_text
from lit_bert.data.rows import FORM_OF
from lit_bert.io import escape

SPLIT_NAMES = {  # by the part of a run, what the split for it is called, in any case
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
ROLES = {name: role for role, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, in order.

    Attributes:
        name: what the split is called.
        files: tables, or texts.
        labels: of texts, the class of each file; None for tables.
    """

    name: str
    files: list[Path]
    labels: list[str] | None = None


def split_files(folder: Path) -> dict[str, SplitFiles]:
    """The splits of a folder, by a unique name of each (with its ending).

    Raises:
        UserError: there are none, or files of several kinds for one.
    """
    splits: dict[str, SplitFiles] = {}
    classes: dict[str, list[Path]] = {}  # folders with texts alone
    for file in _in_order(folder):
        if file.is_dir():
            inside = _in_order(file)
            shards = [each for each in inside if is_table(each) and each.is_file()]
            kinds = {inner_suffix(each) for each in shards}
            if len(kinds) > 1:
                if file.name.lower() not in ROLES:
                    continue
                raise UserError(
                    f"{file} has files of several kinds ({', '.join(sorted(kinds))}); expected parts of one "
                    "split, all of one kind. Move the others away."
                )
            texts = [each for each in inside if inner_suffix(each) == ".txt" and each.is_file()]
            if shards:
                splits[f"{file.name}/"] = SplitFiles(file.name, shards)
            elif texts:
                classes[file.name] = texts
            elif found := _class_folders(file):
                splits[f"{file.name}/"] = _texts(file.name, found)
        elif is_table(file) or (inner_suffix(file) == ".txt" and _stem(file).lower() in ROLES):
            stem = _stem(file)
            name = re.sub(r"-\d+-of-\d+$", "", stem)
            exact = f"{name}{'-*' * (name != stem)}{file.name[len(stem) :]}"
            splits.setdefault(exact, SplitFiles(name, [])).files.append(file)
    if len(classes) > 1 and not splits:
        if like_splits := [name for name in classes if name.lower() in ROLES]:
            raise UserError(
                f"the folder {like_splits[0]} of {folder} is called like a split, but has texts in it as a "
                "class has; expected a folder for each class in it. Rename it if it is a class."
            )
        splits["train/"] = _texts("train", classes)
    if not splits:
        raise UserError(
            f"{folder} has no labelled text; expected files such as train.csv and test.csv in it, a folder "
            "of files for each split, or a folder of .txt files for each class."
        )
    return splits


def is_table(file: Path) -> bool:
    """Whether a file can hold a split by its name."""
    return FORM_OF.get(inner_suffix(file), "lines") != "lines"


def _stem(file: Path) -> str:
    """The name without what it ends in, compression too."""
    return Path(file.stem).stem if is_compressed(file) else file.stem


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """By their names, the folders in a folder that hold texts."""
    found = {}
    for each in _in_order(folder):
        if each.is_dir():
            texts = [file for file in _in_order(each) if inner_suffix(file) == ".txt" and file.is_file()]
            if texts:
                found[each.name] = texts
    return found


def _texts(name: str, classes: dict[str, list[Path]]) -> SplitFiles:
    files = [file for texts in classes.values() for file in texts]
    return SplitFiles(name, files, [label for label, texts in classes.items() for _ in texts])


def _in_order(folder: Path) -> list[Path]:
    """What is in a folder, but hidden things; `part-2` before `part-10`."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_by_number)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}. Check its rights.") from None


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", str(path))]


def listed_parts(dataset: str) -> list[str]:
    """The parts of a list with commas, as in a line of CSV; brackets around it, as in YAML, are dropped."""
    inner = dataset.strip()
    if inner.startswith("[") and inner.endswith("]") and "," in inner:
        inner = inner[1:-1]
    return [part.strip() for part in next(csv.reader([inner], skipinitialspace=True), [])]


def listed_files(dataset: str) -> list[Path] | None:
    """The files that a pattern (`part-*.csv`) or a list (`a.csv,b.csv`) names; None where it is neither.

    Raises:
        UserError: nothing fits a pattern, or the files belong to several splits.
    """
    parts = listed_parts(dataset)
    if len(parts) < 2 and not glob.has_magic(dataset):
        return None
    found: list[Path] = []
    for part in parts:
        place = os.path.expanduser(part)
        if os.path.isfile(place):
            found.append(Path(place))
        elif glob.has_magic(place):
            fitting = sorted(
                filter(os.path.isfile, glob.glob(place, recursive=True)),
                key=lambda each: _by_number(Path(each)),
            )
            if not fitting:
                raise UserError(f"no file fits {escape.line(part, 200)}. Check the pattern.")
            found += map(Path, fitting)
        else:
            if len(parts) > 1 and FORM_OF.get(inner_suffix(Path(place))):
                raise UserError(
                    f"no file {escape.line(part, 200)}, which --data.dataset lists. Check the path."
                )
            return None
    roles = {role for file in found if (role := ROLES.get(re.split(r"[-_.]", _stem(file).lower())[0]))}
    if len(roles) > 1:
        raise UserError(
            f"{escape.line(dataset, 200)} names files of several splits ({', '.join(sorted(roles))}), and "
            "would train on all. Give the folder they are in, or files of one split."
        )
    if repeated := [file for file in found if found.count(file) > 1]:
        raise UserError(f"{escape.line(dataset, 200)} names {repeated[0]} twice. Name it once.")
    return found


def read_texts(split: SplitFiles, options: ReadOptions) -> Iterator[Numbered]:
    """A row with a text and a label for each file of a folder for each class.

    Raises:
        UserError: a file cannot be read.
    """
    encoding = options.encoding or "utf-8"
    for number, (file, label) in enumerate(zip(split.files, split.labels or (), strict=True), 1):
        try:
            with open_text(file, encoding) as stream:
                text = stream.read().strip()
        except (OSError, UnicodeDecodeError, *DAMAGED) as error:
            raise UserError(
                f"cannot read {file}: {escape.first_line(error)}. Check it, or --data.encoding."
            ) from None
        problem = text_problem(text, encoding=encoding)
        row = BadRow(problem) if problem else {"text": text, "label": label}
        yield Numbered(number, 0, row, f"{file.parent.name}/{file.name}")
