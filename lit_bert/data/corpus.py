"""Labelled text, found split by split: a file, a folder, the packaged sample, a data set on the Hub.

python -m lit_bert fit --data.dataset reviews.csv
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import Numbered
from lit_bert.data.delimited import quoting_of
from lit_bert.data.rows import class_names, read_rows
from lit_bert.io import escape
from lit_bert.sources.hub import HubAddress, Source, ask_hub, failed_download, is_commit

SAMPLE = "sample"  # the corpus packaged in lit_bert
SPLIT_NAMES = {  # by the part of a run, what the split for it is called, in any case
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # kinds of files that can hold a split


# --- corpora ---


@dataclass(frozen=True)
class Corpus:
    """Labelled text, split by split, not read yet.

    Attributes:
        source: where it came from.
        fingerprint: from a split's name to a text that changes whenever one of its texts or labels may have;
            looks at no other split.
        splits: from a split's name to a function that streams its rows. What serves as `train`, `validation`
            or `test` is called so here, whatever it is called in the data.
        class_names: from a column and a split to the class names in order, where the data names them.
        notes: from a split to what has to be said of how its files are read, a line each.
        own_names: from what splits are called in the data to their name here.
        candidates: names that several splits claim, and those splits; none of them was chosen.
    """

    source: Source
    fingerprint: Callable[[str], str]
    splits: dict[str, Callable[[], Iterator[Numbered]]] = field(default_factory=dict)
    class_names: Callable[[str, str], list[str] | None] = lambda column, split: None
    notes: Callable[[str], list[str]] = lambda split: []
    own_names: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)

    def has_lists(self, column: str, split: str) -> bool:
        """Whether the first cell of a column that is not empty is a list."""
        for numbered in self.splits[split]():
            value = numbered.row.get(column) if isinstance(numbered.row, dict) else None
            if value is not None:
                return isinstance(value, list)
        return False


class _Names(NamedTuple):
    """The splits of a data set under the names they have here; see Corpus."""

    keys: dict[str, str]
    own_names: dict[str, str]
    candidates: dict[str, list[str]]

    @classmethod
    def of(cls, splits: dict[str, str]) -> _Names:
        """Finds the split for each part of a run.

        Args:
            splits: from a unique name of each split (`dev.csv`, `dev/`) to its own one (`dev`).
        """
        roles = {name: role for role, names in SPLIT_NAMES.items() for name in names}
        claims: dict[str, list[str]] = {}
        for exact, name in splits.items():
            claims.setdefault(roles.get(name.lower(), name), []).append(exact)
        candidates = {role: exact for role, exact in claims.items() if len(exact) > 1}
        keys = {
            exact: exact if role in candidates else role for role, found in claims.items() for exact in found
        }
        own_names = {
            name: keys[exact]
            for exact, called in splits.items()
            for name in (called, exact)
            if keys[exact] != exact
        }
        for exact, called in splits.items():  # of several candidates, those that differ in name
            role = roles.get(called.lower(), called)
            if role in candidates and called != role and list(splits.values()).count(called) == 1:
                own_names[called] = exact
        return cls(keys, own_names, candidates)


def find_corpus(
    dataset: str,
    stand_in: str | None = None,
    have: Callable[[str], bool] = lambda fingerprint: False,
    quoting: str = "auto",
) -> Corpus:
    """Finds labelled text.

    Args:
        dataset: local file, local folder (of files, of folders of files, or as `datasets` saves it),
            `sample`, or `owner/name:configuration@revision` on the Hub, the last two parts as needed.
        stand_in: `sample`, or None to make it an error when the Hub cannot be asked.
        have: whether rows with that fingerprint are in the token cache already, so that a pinned data set
            need not be asked for again; such a corpus comes back without splits.
        quoting: how `"` in CSV and TSV files is taken: `auto`, `csv` or `none`; see `delimited.quoting_of`.

    Raises:
        UserError: it is not there or cannot be had; the message says which.
    """
    if dataset == SAMPLE:
        return _sample(Source("packaged", SAMPLE))
    path = Path(dataset).expanduser()
    if path.is_file():
        return _from_files(Source("file", str(path.resolve())), {"train": ("train", [path])}, quoting)
    if path.is_dir():
        source = Source("folder", str(path.resolve()))
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved_dataset(source, path)
        return _from_files(source, _split_files(path), quoting)
    name, config_name, revision = HubAddress.parse(dataset, "a file or folder with labelled text")
    if is_commit(revision):
        pinned = Source("hub", name, config_name, revision)
        if have(f"hub:{pinned.address}"):
            return Corpus(pinned, lambda split: f"hub:{pinned.address}")
    commit, problem = ask_hub(name, revision, "dataset")
    splits = _load_dataset(name, config_name, commit or revision, online=commit is not None)
    if splits is not None:
        known = commit or (revision if is_commit(revision) else None)
        return _from_datasets(Source("hub", name, config_name, known), splits)
    if stand_in is None:
        raise UserError(
            f"{dataset} cannot be had: {problem}, and it is not cached. Give a local file or folder with "
            f"--data.dataset, or --data.stand_in {SAMPLE}."
        )
    if stand_in != SAMPLE:
        raise UserError(f"data.stand_in is {stand_in}; expected {SAMPLE} or null.")
    return _sample(Source("packaged", SAMPLE, stand_in_for=name, reason=problem))


def _sample(source: Source) -> Corpus:
    return _from_files(source, _split_files(Path(__file__).parent / "sample"))


def _split_files(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    """The splits of a folder: a unique name (with its ending), the name of the split, its files in order.

    `train.csv`, `val.jsonl`, `test-00000-of-00002.parquet`, …, or a folder a split, such as `train` with
    `part-0.csv`, `part-1.csv`, ….
    """
    splits: dict[str, tuple[str, list[Path]]] = {}
    for file in _in_order(folder):
        if file.is_dir():
            shards = [each for each in _in_order(file) if each.suffix.lower() in TABLES and each.is_file()]
            kinds = {each.suffix.lower() for each in shards}
            if len(kinds) > 1:
                if not any(file.name.lower() in names for names in SPLIT_NAMES.values()):
                    continue
                raise UserError(
                    f"{file} has files of several kinds ({', '.join(sorted(kinds))}); expected parts of one "
                    "split, all of one kind. Move the others away."
                )
            if shards:
                splits[f"{file.name}/"] = (file.name, shards)
        elif file.suffix.lower() in TABLES:
            name = re.sub(r"-\d+-of-\d+$", "", file.stem)
            exact = f"{name}{'-*' * (name != file.stem)}{file.suffix}"
            splits.setdefault(exact, (name, []))[1].append(file)
    if not splits:
        raise UserError(
            f"{folder} has no labelled text; expected files such as train.csv and test.csv in it, or a "
            "folder of files for each split."
        )
    return splits


def _in_order(folder: Path) -> list[Path]:
    """What is in a folder, but hidden things; `part-2` before `part-10`."""

    def by_number(path: Path) -> list[tuple[int, str]]:
        return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path.name)]

    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=by_number)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}. Check its rights.") from None


def _from_files(source: Source, found: dict[str, tuple[str, list[Path]]], quoting: str = "auto") -> Corpus:
    names = _Names.of({exact: name for exact, (name, _) in found.items()})
    splits = {names.keys[exact]: files for exact, (_, files) in found.items()}

    @cache
    def fingerprint(split: str) -> str:
        digest = hashlib.sha256()
        for file in splits[split]:
            with file.open("rb") as stream:
                digest.update(file.suffix.encode() + hashlib.file_digest(stream, "sha256").digest())
        return f"files:{digest.hexdigest()}" + ("" if quoting == "auto" else f":{quoting}")

    def reader(files: list[Path]) -> Callable[[], Iterator[Numbered]]:
        def rows() -> Iterator[Numbered]:
            for file in files:
                name = f"{file.parent.name}/{file.name}" if len(files) > 1 else ""
                for numbered in read_rows(file, quoting):
                    yield numbered._replace(file=name) if name else numbered

        return rows

    @cache
    def classes(column: str, split: str) -> list[str] | None:
        each = [class_names(file, column) for file in splits[split]]
        for file, other in zip(splits[split], each, strict=True):
            if other != each[0]:
                raise UserError(
                    f"{file} names the classes of column '{column}' {other}, but {splits[split][0]} names "
                    f"them {each[0]}: one code would mean two classes. Write them again with one ClassLabel."
                )
        return each[0]

    return Corpus(
        source,
        fingerprint,
        {name: reader(files) for name, files in splits.items()},
        classes,
        lambda split: [note for file in splits[split] if (note := quoting_of(file, quoting).note)],
        names.own_names,
        names.candidates,
    )


def _saved_dataset(source: Source, folder: Path) -> Corpus:
    """What `save_to_disk` of `datasets` wrote: a DatasetDict, or a Dataset, which is the split `train`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the loader lets through errors of several libraries
        raise UserError(
            f"{folder} looks like a data set that `datasets` saved, but cannot be read "
            f"({type(error).__name__}: {escape.first_line(error)}). Save it again."
        ) from None
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}

    @cache
    def fingerprint(split: str) -> str:  # not their own one, which anybody may have written into the folder
        digest = hashlib.sha256()
        place = folder / split if splits is found else folder
        for file in sorted(each for each in place.iterdir() if each.suffix in (".arrow", ".json")):
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
        return f"saved:{digest.hexdigest()}"

    return _from_datasets(source, splits, fingerprint)


def _load_dataset(name: str, config_name: str | None, revision: str | None, online: bool) -> Any:
    """A DatasetDict from the Hub or, offline, from the cache of `datasets`; None when that has none."""
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not online
    try:
        return datasets.load_dataset(name, config_name, revision=revision)
    except Exception as error:  # the loader lets through errors of several libraries
        if not online:
            return None
        there = re.search(r"(?:Available|available configs): \[(.+?)\]", str(error))
        if isinstance(error, ValueError) and there:
            configs = there[1].replace("'", "")
            asked = f"has no configuration {config_name}" if config_name else "has several configurations"
            raise UserError(
                f"{name} {asked}; expected one of {configs}. "
                f"Name it, as in --data.dataset {name}:{configs.split(', ')[0]}."
            ) from None
        raise failed_download(name, error) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _from_datasets(source: Source, found: Any, fingerprint: Callable[[str], str] | None = None) -> Corpus:
    names = _Names.of({f"{name}/": name for name in found})
    splits = {key: found[exact.removesuffix("/")] for exact, key in names.keys.items()}
    called = {key: exact.removesuffix("/") for exact, key in names.keys.items()}

    def reader(split: Any) -> Callable[[], Iterator[Numbered]]:
        return lambda: (Numbered(number, 0, row) for number, row in enumerate(split, 1))

    def classes(column: str, split: str) -> list[str] | None:
        feature = splits[split].features.get(column)
        return getattr(getattr(feature, "feature", feature), "names", None)

    def by_content(split: str) -> str:
        if fingerprint:
            return fingerprint(called[split])
        return f"hub:{source.address}" if source.revision else f"datasets:{splits[split]._fingerprint}"

    return Corpus(
        source,
        by_content,
        {name: reader(split) for name, split in splits.items()},
        classes,
        own_names=names.own_names,
        candidates=names.candidates,
    )
