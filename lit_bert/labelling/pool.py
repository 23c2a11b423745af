"""The pool: a file of texts, of which some may have a label, to be labelled by people.

python -m lit_bert label reviews.csv --data.label_names refund,delivery,praise
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import BadRow, CellError, label_of, missing_column, text_of, text_problem
from lit_bert.data.columns import LABEL, LABEL_NAMES, find_text
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.rows import column_names, read_rows
from lit_bert.io.escape import line
from lit_bert.io.texts import SINGLE

KEYS = "123456789abcdefghijklmnopqrstuvwxyz"  # one for each class


class Pool(NamedTuple):
    """The texts of a file, each once, with the labels that stand there.

    Attributes:
        rows: number of each text's first row in the file, from 1.
        labels: of each text; None where the file has none.
        sha256: of the file.
        left_out: rows without a text, and those whose text came before.
        column: of the texts.
    """

    path: Path
    texts: list[str]
    rows: list[int]
    labels: list[str | None]
    sha256: str
    left_out: int
    column: str = "text"


def texts_sha256(texts: Sequence[str]) -> str:
    """Of all texts in their order, which other columns and ways to read a file change."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def read_pool(path: Path, options: ReadOptions, text: str | None, label: str | None) -> Pool:
    """Reads a pool.

    Args:
        text, label: the columns; None takes those of a usual name, and a pool needs no column of labels.

    Raises:
        UserError: it is no file of texts with one class each.
    """
    if not os.path.isfile(path):
        raise UserError(f"no file {line(path)}; a pool is a file of this machine, with a text a row.")
    digest = _sha256(path)
    names = column_names(path, options)
    text, label = _text_column(path, options, names, text), _label_column(path, names, label)
    pool = Pool(path, [], [], [], digest, 0, text)
    seen: dict[str, int] = {}
    left_out = 0
    for numbered in read_rows(path, options):
        where, row = f"{numbered.place} of {line(path)}", numbered.row
        if isinstance(row, BadRow):
            raise UserError(f"{where}: {row.problem}. Mend it or take it out.")
        try:
            found, name = text_of(row.get(text)), label_of(row.get(label)) if label else None
        except CellError as error:
            raise UserError(
                f"{where} has {error} for a text or a label; expected a text and one class. `label` is for "
                "one class a text, not for several labels."
            ) from None
        if found is not None and (problem := text_problem(found)):
            raise UserError(f"{where}: {problem}. Save the file as UTF-8.")
        if found is None or found in seen:
            left_out += 1
            if found is not None and name is not None:
                known = pool.labels[seen[found]]
                if known not in (None, name):
                    raise UserError(
                        f"{where} has the text of row {pool.rows[seen[found]]} and another label; leave one."
                    )
                pool.labels[seen[found]] = name
            continue
        seen[found] = len(pool.texts)
        pool.texts.append(found)
        pool.rows.append(numbered.number)
        pool.labels.append(name)
    if len(pool.texts) < 2:
        raise UserError(
            f"{line(path)} has {len(pool.texts) or 'no'} text{'' if len(pool.texts) == 1 else 's'}; expected "
            "two or more to label."
        )
    if _sha256(path) != digest:
        raise UserError(f"{line(path)} changed while it was read; run again when it is whole.")
    return pool._replace(left_out=left_out)


def classes_of(pool: Pool, given: Sequence[str] | None) -> list[str]:
    """The classes: those that are given, else those in the pool, in the order of their names.

    Raises:
        UserError: there are too few, too many, or the pool has another one.
    """
    found = sorted({name for name in pool.labels if name is not None})
    if given is None and found and all(map(_is_fraction, found)):
        raise UserError(
            f"the labels of {line(pool.path)} are numbers; `label` is for classes. Name them with "
            "--data.label_names, or label numbers elsewhere."
        )
    names = [name.strip() for name in given] if given is not None else found
    if odd := [name for name in found if name not in names]:
        raise UserError(f"the pool has the label {line(odd[0], 60)}, which --data.label_names does not name.")
    if not names:
        raise UserError(
            f"{line(pool.path)} has no labels to take the classes from; name them with --data.label_names "
            "a,b,c."
        )
    if repeated := [name for place, name in enumerate(names) if name in names[:place] or not name]:
        what = f"names {line(repeated[0], 60)} twice" if repeated[0] else "has a class without a name"
        raise UserError(f"--data.label_names {what}; expected each class once.")
    if not 2 <= len(names) <= len(KEYS):
        raise UserError(
            f"the number of classes is {len(names)}; expected 2 to {len(KEYS)}, one key each. Name them with "
            "--data.label_names a,b,c."
        )
    return names


def _is_fraction(name: str) -> bool:
    try:
        return not float(name).is_integer() or len(name) > 4
    except (ValueError, OverflowError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text_column(path: Path, options: ReadOptions, names: list[str], given: str | None) -> str:
    if given is not None:
        if given not in names:
            raise UserError(missing_column(given, names, "text_column", line(path)))
        return given
    found = find_text(names, read_rows(path, options), SINGLE)
    if found is None:
        shown = ", ".join(line(name, 40) for name in names[:12])
        raise UserError(
            f"which column of {line(path)} is the text? It has {shown}. Say it with --data.text_column."
        )
    return found[0]


def _label_column(path: Path, names: list[str], given: str | None) -> str | None:
    if given is not None:
        if given not in names:
            raise UserError(missing_column(given, names, "label_column", line(path)))
        return given
    usual = [LABEL] if LABEL in names else [each for each in names if each.strip().casefold() in LABEL_NAMES]
    if len(usual) > 1:
        raise UserError(
            f"which column of {line(path)} is the label: {', '.join(line(each, 40) for each in usual)}? Say "
            "it with --data.label_column."
        )
    return usual[0] if usual else None
