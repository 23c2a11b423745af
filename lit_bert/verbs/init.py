"""The verb `init`: looks at labelled text and writes a configuration for it, with its reasons as comments.

python -m lit_bert init reviews.csv
python -m lit_bert fit --config fit.yaml
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from lit_bert import UserError
from lit_bert.cli.arguments import Parser
from lit_bert.io import escape, files

LOOKED_AT = 1000  # rows, to tell the columns apart
TEXT_NAMES, LABEL_NAMES = ("text", "sentence", "review", "content"), ("label", "class", "category", "target")
MAX_CLASSES = 200  # of a column without a usual name
FEW_STEPS, MAX_EPOCHS = 600, 20  # fewer optimizer steps than that teach little; more epochs cost more
LONGEST = 512  # tokens that the default weights have positions for
SHARE = 0.99  # of the texts that are not to be cut
SHOWN_CLASSES = 8


class Columns(NamedTuple):
    """The columns of text and label, and why these."""

    text: str
    label: str
    why: str


def init(arguments: list[str]) -> int:
    """The exit code of `init`."""
    args = _parser().parse_args(arguments)
    if args.output.exists():
        raise UserError(f"{args.output} exists already; name another file with --output, or move it away.")
    from lit_bert.cli.start import prepare_process

    prepare_process()
    text = configuration(args.data, args.text_column, args.label_column)
    try:
        files.write_text(args.output, text)
    except OSError as error:
        raise UserError(f"cannot write {args.output}: {error.strerror}. Name another --output.") from None
    print(f"wrote {args.output}; look at it, then: python -m lit_bert fit --config {args.output}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert init",
        description="Look at labelled text and write a configuration that `fit --config` takes, with the "
        "reason for each setting beside it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "data", help="as for fit --data.dataset: a file, a folder, or a data set on the Hub by its name"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("fit.yaml"), help="file to write, a new one (%(default)s)"
    )
    parser.add_argument("--text_column", help="column with the text; else by its name or what is in it")
    parser.add_argument("--label_column", help="column with the label; else by its name or what is in it")
    return parser


PARSERS = {"init": _parser}


# --- what is found ---


def configuration(dataset: str, text_column: str | None, label_column: str | None) -> str:
    """The configuration of a fit of this data, as YAML with comments.

    Raises:
        UserError: the data cannot be read, or its columns cannot be told apart.
    """
    from lit_bert.data.cache import temporary_cache
    from lit_bert.data.corpus import find_corpus
    from lit_bert.data.module import EmotionDataModule

    corpus = find_corpus(dataset)
    if "train" not in corpus.splits:
        there = ", ".join(escape.names(list(corpus.splits)))
        raise UserError(f"{dataset} has no split to train on; it has {there}. Name one of them train.")
    rows = itertools.islice(corpus.splits["train"](), LOOKED_AT)
    columns = find_columns([each.row for each in rows], text_column, label_column)
    settings: dict[str, Any] = {
        "dataset": dataset,
        "stand_in": None,
        "text_column": columns.text,
        "label_column": columns.label,
    }
    with temporary_cache():
        data = EmotionDataModule(**settings, max_length=LONGEST)
        data.setup("fit")
        return _written(data, columns, settings)


def find_columns(rows: Iterable[Any], text: str | None, label: str | None) -> Columns:
    """The columns of text and label: those that are named, else by a usual name, else by what is in them.

    Args:
        rows: the first ones.
        text, label: as the user named them; None is to be found.

    Raises:
        UserError: one is not there, or several could be meant.
    """
    from lit_bert.data.cells import BadRow, CellError, label_of

    cells: dict[str, list[Any]] = {}
    for row in rows:
        if not isinstance(row, BadRow):
            for name, value in row.items():
                cells.setdefault(name, []).append(value)
    if not cells:
        raise UserError("the data has no rows; expected some with a text and a label.")
    for flag, name in (("--text_column", text), ("--label_column", label)):
        if name is not None and name not in cells:
            raise UserError(f"{flag} is {escape.line(name, 60)}; expected one of {_listed(list(cells))}.")

    def lengths(name: str) -> list[int]:
        return [len(value) for value in cells[name] if isinstance(value, str)]

    def values(name: str) -> list[str]:
        try:
            return [found for value in cells[name] if (found := label_of(value)) is not None]
        except CellError:
            return []

    why = []
    if text is None:
        usual = [name for name in cells if name.strip().casefold() in TEXT_NAMES and name != label]
        long = [name for name in cells if name != label and " " in "".join(map(str, cells[name][:50]))]
        text = _only(usual or long, "--text_column", cells)
        why.append("by its name" if usual else "the one with several words")
    average = np.mean(lengths(text) or [0])
    if label is None:
        usual = [name for name in cells if name.strip().casefold() in LABEL_NAMES and name != text]
        few = [
            name
            for name in cells
            if name != text and 1 < len(set(values(name))) <= min(MAX_CLASSES, len(values(name)) // 2)
        ]
        label = _only(usual or few, "--label_column", cells)
        why.append("by its name" if usual else "the one whose values recur")
    said = " and ".join(dict.fromkeys(why)) or "as named"
    return Columns(text, label, f"found {said}; texts have {average:.0f} characters on average")


def _only(candidates: list[str], flag: str, cells: dict[str, list[Any]]) -> str:
    if len(candidates) == 1:
        return candidates[0]
    found = f"could be {_listed(candidates)}" if candidates else "is none that can be told"
    raise UserError(f"the column {found}, of {_listed(list(cells))}; name it with {flag}.")


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{each}'" for each in escape.names(names[:12])) + (", …" if len(names) > 12 else "")


# --- what is written ---


def _written(data: Any, columns: Columns, settings: dict[str, Any]) -> str:
    """The text of the file, of a data module that has read the data."""
    from lit_bert.evaluate.audit_text import dataset_summary

    train, val = data.train_rows, data.val_rows
    names, counts = data.label_names, np.bincount(train.labels, minlength=len(data.label_names))
    order = np.argsort(-counts, kind="stable")
    classes = [f"{escape.line(names[each], 40)} ({counts[each]:,})" for each in order[:SHOWN_CLASSES]]
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    lengths = np.concatenate([train.lengths, val.lengths])
    fits, longest = int(np.quantile(lengths, SHARE, method="higher")), int(lengths.max())
    max_length = min(LONGEST, max(16, math.ceil(fits / 16) * 16))
    cut = int((lengths > max_length).sum())
    steps = math.ceil(len(train) / 32)
    epochs = min(MAX_EPOCHS, max(3, math.ceil(FEW_STEPS / steps)))
    splits = sorted(data.corpus.splits)
    findings = dataset_summary({"train": train, data.splits.val_name: val}, names, False)
    reason = "the usual three" if epochs == 3 else f"{steps:,} steps an epoch are few; the best epoch is kept"
    validation = (
        f"{len(val):,} rows, split off the {len(train) + len(val):,} of train class by class"
        if data.splits.splits_off_validation
        else f"{len(val):,} rows of their own split"
    )
    lines = [
        "# Written by `python -m lit_bert init` from what it saw; the rest is as in configs/base.yaml.",
        "# `python -m lit_bert fit --config` takes it; flags after it win.",
        "#",
        f"# rows to train on: {len(train):,}; splits: {', '.join(escape.names(splits))}",
        f"# classes: {len(names)}: {', '.join(classes)}{more}",
        *(f"# {escape.line(each)}" for each in findings),
        "",
        "data:",
        _setting("dataset", settings["dataset"]),
        _setting("stand_in", None, "no other data where this cannot be had"),
        _setting("text_column", columns.text, columns.why),
        _setting("label_column", columns.label),
    ]
    if data.splits.splits_off_validation:
        lines.append(_setting("val_fraction", data.hparams.val_fraction, validation))
    else:
        lines.append(f"  # validated on {validation}")
    lines += [
        _setting(
            "max_length",
            max_length,
            f"tokens; {SHARE:.0%} of the texts have up to {fits}, the longest {longest}"
            f"{' or more' * (longest == LONGEST)}; {cut:,} are cut",
        ),
        _setting("deduplicate", False, "true leaves out of training what also stands in validation or test"),
        "",
        "trainer:",
        _setting("max_epochs", epochs, reason),
        "",
        "early_stopping:",
        _setting("patience", 2 if epochs == 3 else 5, "validations without a better score"),
        "",
        "# weights:                           # another encoder than the one of configs/base.yaml",
        "#   pretrained: answerdotai/ModernBERT-base",
        "# model:",
        "#   lora: {rank: 8}                  # train 1 % of the weights",
        "",
    ]
    return "\n".join(lines)


def _setting(name: str, value: Any, reason: str = "") -> str:
    """A line of YAML; the reason is a comment and cannot end before the line does."""
    from lit_bert.cli.parser import QuotedTextDumper

    # In quotes on one line, whatever a name holds.
    shown = yaml.dump({name: value}, Dumper=QuotedTextDumper, width=float("inf"), allow_unicode=False).strip()
    return f"  {shown:34}{f'  # {escape.line(reason)}' if reason else ''}".rstrip()
