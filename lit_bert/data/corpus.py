"""Labelled text, found split by split: a file, a folder, the packaged sample, a data set on the Hub.

python -m lit_bert fit --data.dataset reviews.csv
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import lit_bert.data.readers.sql as sql
from lit_bert import UserError
from lit_bert.data.cache import cache_root
from lit_bert.data.cells import Numbered
from lit_bert.data.layout import ROLES, SplitFiles, listed_files, listed_parts, read_texts, split_files
from lit_bert.data.readers.options import DEFAULT, ReadOptions
from lit_bert.data.readers.remote import fetched, is_address
from lit_bert.data.readers.text import is_compressed, refuse_changed, stamp
from lit_bert.data.rows import class_names, read_rows, reading_notes
from lit_bert.io import escape
from lit_bert.sources.hub import HubAddress, Source, ask_hub, failed_download, is_commit

SAMPLE = "sample"  # the corpus packaged in lit_bert
NAMES = "names"  # no rows: the names of the classes, each as a text of its class


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


def corpus_of_names(names: list[str] | None) -> Corpus:
    """No labelled text, only the names of classes, each as a text of its class.

    Raises:
        UserError: there are none.
    """
    if not names:
        raise UserError(f"data.dataset is {NAMES}, those of the classes; give them with --data.label_names.")
    rows = [Numbered(number, 0, {"text": name, "label": name}) for number, name in enumerate(names, 1)]
    key = hashlib.sha256(repr(names).encode()).hexdigest()
    return Corpus(Source("classes", NAMES), lambda split: key, {"train": lambda: iter(rows)})


def sample_texts() -> list[str]:
    """Some hundred texts, of the packaged sample."""
    rows = (numbered.row for numbered in _sample(Source("packaged", SAMPLE)).splits["test"]())
    return [str(row["text"]) for row in rows if isinstance(row, dict)]


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
        claims: dict[str, list[str]] = {}
        for exact, name in splits.items():
            claims.setdefault(ROLES.get(name.lower(), name), []).append(exact)
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
            role = ROLES.get(called.lower(), called)
            if role in candidates and called != role and list(splits.values()).count(called) == 1:
                own_names[called] = exact
        return cls(keys, own_names, candidates)


def find_corpus(
    dataset: str,
    stand_in: str | None = None,
    have: Callable[[str], bool] = lambda fingerprint: False,
    options: ReadOptions = DEFAULT,
) -> Corpus:
    """Finds labelled text.

    Args:
        dataset: local file, several (a pattern, or a list with commas), local folder (see `layout`, or as
            `datasets` saves it), an address of a file or of a database, `sample`, or
            `owner/name:configuration@revision` on the Hub, the last two parts as needed.
        stand_in: `sample`, or None to make it an error when the Hub cannot be asked.
        have: whether rows with that fingerprint are in the token cache already, so that a pinned data set
            need not be asked for again; such a corpus comes back without splits.
        options: how files are to be read.

    Raises:
        UserError: it is not there or cannot be had; the message says which.
    """
    if dataset == SAMPLE:
        options.refuse_unused("a packaged data set", SAMPLE)
        return _sample(Source("packaged", SAMPLE))
    if sql.is_database(dataset):
        options.refuse_unused("sql", "a database")
        return _from_database(dataset, options)
    if is_address(dataset):
        files = fetched(dataset, cache_root() / "downloads")
        return _from_files(Source("address", dataset), {"train": SplitFiles("train", files)}, options)
    path = Path(dataset).expanduser()
    if os.path.isfile(path):
        return _from_files(
            Source("file", str(path.resolve())), {"train": SplitFiles("train", [path])}, options
        )
    if os.path.isdir(path):
        source = Source("folder", str(path.resolve()))
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            options.refuse_unused("a data set that `datasets` saved", path)
            return _saved_dataset(source, path)
        return _from_files(source, split_files(path), options)
    if listed := listed_files(dataset):
        return _from_files(
            Source("file", _absolute(dataset)), {"train": SplitFiles("train", listed)}, options
        )
    options.refuse_unused("a data set on the Hub", dataset)
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


def _absolute(dataset: str) -> str:
    """A pattern or list of files that means the same in another working directory."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(
        os.path.abspath(os.path.expanduser(part)) for part in listed_parts(dataset)
    )
    return stream.getvalue()


def _sample(source: Source) -> Corpus:
    return _from_files(source, split_files(Path(__file__).parent / "sample"))


def _from_files(source: Source, found: dict[str, SplitFiles], options: ReadOptions = DEFAULT) -> Corpus:
    names = _Names.of({exact: split.name for exact, split in found.items()})
    splits = {names.keys[exact]: split for exact, split in found.items()}
    stamps: dict[str, list[tuple[Any, ...]]] = {}  # of the files of a split, when they were first read

    @cache
    def fingerprint(split: str) -> str:
        stamps[split] = stamps_of(split)
        digest = hashlib.sha256()
        for file, label in zip(
            splits[split].files, splits[split].labels or itertools.repeat(""), strict=False
        ):
            with _readable(file), file.open("rb") as stream:
                digest.update("".join(file.suffixes[-2:] if is_compressed(file) else file.suffix).encode())
                digest.update(
                    hashlib.file_digest(stream, "sha256").digest() + label.encode(errors="surrogatepass")
                )
        return f"files:{digest.hexdigest()}" + (f":{options.key}" if options.key else "")

    def stamps_of(split: str) -> list[tuple[Any, ...]]:
        found = []
        for file in splits[split].files:
            with _readable(file):
                found.append(stamp(file))
        return found

    def unchanged(split: str) -> None:
        if split not in stamps:
            stamps[split] = stamps_of(split)
        before = stamps[split]
        for file, then in zip(splits[split].files, before, strict=True):
            refuse_changed(file, then)

    def reader(split: str) -> Callable[[], Iterator[Numbered]]:
        def rows() -> Iterator[Numbered]:
            files = splits[split].files
            unchanged(split)
            if splits[split].labels is not None:
                yield from read_texts(splits[split], options)
            else:
                for file in files:
                    name = f"{file.parent.name}/{file.name}" if len(files) > 1 else ""
                    for numbered in read_rows(file, options):
                        yield numbered._replace(file=name) if name else numbered
            unchanged(split)

        return rows

    @cache
    def classes(column: str, split: str) -> list[str] | None:
        if splits[split].labels is not None:
            return None
        files = splits[split].files
        each = [class_names(file, column, options) for file in files]
        for file, other in zip(files, each, strict=True):
            if other != each[0]:
                raise UserError(
                    f"{file} names the classes of column '{column}' {other}, but {files[0]} names "
                    f"them {each[0]}: one code would mean two classes. Write them again with one ClassLabel."
                )
        return each[0]

    def notes(split: str) -> list[str]:
        if labels := splits[split].labels:
            return [
                f"split {split}: a text a file, of the class that its folder is called ({len(set(labels))} "
                "of them)"
            ]
        return [note for file in splits[split].files for note in reading_notes(file, options)]

    return Corpus(
        source,
        fingerprint,
        {name: reader(name) for name in splits},
        classes,
        notes,
        names.own_names,
        names.candidates,
    )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror or error}. Check its rights and its disk, or copy it again."
        ) from None


def _from_database(address: str, options: ReadOptions) -> Corpus:
    """The rows of a query, which are the split `train`."""
    url = sql.url_of(address)
    name = (
        str(Path(url.database.removeprefix("file:")).name) if url.get_backend_name() == "sqlite" else address
    )

    @cache
    def fingerprint(split: str) -> str:
        return sql.query_fingerprint(address, options)

    def rows() -> Iterator[Numbered]:
        expected, digest = fingerprint("train"), hashlib.sha256()
        for numbered in sql.read_query(address, options):
            digest.update(sql.row_bytes(numbered))
            yield numbered
        if f"sql:{digest.hexdigest()}" != expected:
            raise UserError(
                f"the rows of {name} changed, or came in another order, while they were read. Give the query "
                "an ORDER BY, wait until nothing is written there, and run again."
            )

    return Corpus(Source("database", sql.stored_address(address)), fingerprint, {"train": rows})


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
