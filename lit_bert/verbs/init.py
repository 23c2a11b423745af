"""The verb `init`: looks at labelled text and writes a configuration for it, with its reasons as comments.

python -m lit_bert init reviews.csv
python -m lit_bert fit --config fit.yaml
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_bert import UserError
from lit_bert.cli.arguments import Parser
from lit_bert.io import escape, files

FLAGS = {  # settings of fit that say how the data is read, with what stands there where none is given
    "text_column": "found by its name or what is in it",
    "text_form": "two columns are a pair, more are joined",
    "label_column": "found by its name or what is in it",
    "label_names": "those in the data",
    "label_separator": "a cell has one label or a list",
    "task": "found in the labels",
    "weight_column": "1 each",
    "group_column": "each row for itself",
    **dict.fromkeys(("format", "delimiter", "encoding", "header", "quoting"), "found in the file"),
    "sheet": "the only one of a workbook",
    "query": "none; of a database it is needed",
    "train_split": "train",
    "val_split": "validation",
}
FEW_STEPS, MAX_EPOCHS = 600, 20  # fewer optimizer steps than that teach little; more epochs cost more
LONGEST = 512  # tokens that the default weights have positions for
SHARE = 0.99  # of the texts that are not to be cut
SHOWN_CLASSES = 8


def init(arguments: list[str]) -> int:
    """The exit code of `init`."""
    args = _parser().parse_args(arguments)
    if args.output.exists():
        raise UserError(f"{args.output} exists already; name another file with --output, or move it away.")
    from lit_bert.cli.start import prepare_process

    prepare_process()
    given: dict[str, Any] = {
        name: value for name in FLAGS if (value := getattr(args, f"data.{name}")) is not None
    }
    if "header" in given:
        known = {"true": True, "false": False}
        if given["header"].lower() not in known:
            raise UserError(f"--data.header is {escape.line(given['header'], 60)}; expected true or false.")
        given["header"] = known[given["header"].lower()]
    text = configuration(args.data, given)
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
    for name, default in FLAGS.items():
        parser.add_argument(f"--data.{name}", metavar="VALUE", help=f"as for fit; default: {default}")
    return parser


PARSERS = {"init": _parser}


def configuration(dataset: str, given: dict[str, Any]) -> str:
    """The configuration of a fit of this data, as YAML with comments.

    Args:
        dataset: as `data.dataset`.
        given: settings by the names of `FLAGS`, which stand in it as they are.

    Raises:
        UserError: the data cannot be read, or what is in it cannot be told.
    """
    from lit_bert.data.cache import temporary_cache
    from lit_bert.data.module import EmotionDataModule

    with temporary_cache():
        data = EmotionDataModule(dataset, stand_in=None, max_length=LONGEST, **given)
        data.setup("fit")
        lines = [
            "# Written by `python -m lit_bert init` from what it saw; the rest is as in configs/base.yaml.",
            "# `python -m lit_bert fit --config` takes it; flags after it win.",
            "#",
            *(f"# {escape.line(each)}" for each in _facts(data)),
            "",
            "data:",
            _setting("dataset", dataset),
            _setting("stand_in", None, "no other data where this cannot be had"),
            *_data_settings(data, given),
            "",
            *_training_settings(len(data.train_rows)),
        ]
    return "\n".join(lines)


def _facts(data: Any) -> list[str]:
    """What is in the rows."""
    from lit_bert.evaluate.audit_text import dataset_summary
    from lit_bert.task.kinds import task_of

    train, names = data.train_rows, data.label_names
    task = task_of(data.task, names, data.task_parameters)
    if counts := task.label_counts(train.labels):
        order = sorted(range(len(names)), key=lambda each: -counts[each])
        classes = [f"{escape.line(names[each], 40)} ({counts[each]:,})" for each in order[:SHOWN_CLASSES]]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        labels = f"classes: {len(names)}: {', '.join(classes)}{more}"
    else:
        values = train.labels.astype(np.float64)
        labels = (
            f"numbers: {values.min():.6g} to {values.max():.6g}, on average {values.mean():.6g}, "
            f"standard deviation {values.std():.6g}"
        )
    return [
        f"rows to train on: {len(train):,}; splits: {', '.join(escape.names(sorted(data.corpus.splits)))}",
        labels,
        *dataset_summary({"train": train, data.splits.val_name: data.val_rows}, task, False),
    ]


def _data_settings(data: Any, given: dict[str, Any]) -> list[str]:
    """The settings of the data: columns and task as they were found, the others that were given."""
    from lit_bert.data.columns import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES, stored_form
    from lit_bert.sources.text_settings import names_as_setting
    from lit_bert.task.kinds import kind_of

    columns, found = data.tokenized.columns, data.tokenized.labels
    pair = tuple(name.strip().casefold() for name in columns.text)
    usual = pair in PAIR_NAMES if len(pair) == 2 else pair[0] in TEXT_NAMES
    text = "found by its name" if usual else "the only one of long strings"
    if len(columns.label) > 1:
        label = "the columns of 0 and 1"
    elif columns.label[0].strip().casefold() in LABEL_NAMES:
        label = "found by its name"
    else:
        label = "the only one of few values that recur"
    form = {"single": "one text", "pair": "two segments", "joined": "one text of a line for each column"}
    seen: dict[str, tuple[Any, str]] = {
        "text_column": (names_as_setting(columns.text), text),
        "text_form": (stored_form(columns), form[columns.form]),
        "label_column": (names_as_setting(columns.label), label),
        "task": (found.kind, found.note or "one label a text"),
    }
    lines = []
    for name in FLAGS:
        if name in given:
            lines.append(_setting(name, given[name], "as given"))
        elif name in seen:
            lines.append(_setting(name, *seen[name]))
    train, val = data.train_rows, data.val_rows
    if data.splits.splits_off_validation:
        split = escape.line(data.hparams.train_split, 60)
        way = {"class": "class by class", "classes": "label by label", "number": "tenth by tenth"}
        how = "group by group" if data.hparams.group_column else way[kind_of(found.kind).label_form]
        why = f"{len(val):,} rows, split off the {len(train) + len(val):,} of {split} {how}"
        lines.append(_setting("val_fraction", data.hparams.val_fraction, why))
    else:
        lines.append(f"  # validated on {len(val):,} rows of their own split")
    lengths = np.concatenate([train.lengths, val.lengths])
    fits, longest = int(np.quantile(lengths, SHARE, method="higher")), int(lengths.max())
    max_length = min(LONGEST, max(16, math.ceil(fits / 16) * 16))
    cut = int((lengths > max_length).sum())
    why = f"tokens; {SHARE:.0%} of the texts have up to {fits}, the longest {longest}"
    return [
        *lines,
        _setting("max_length", max_length, f"{why}{' or more' * (longest == LONGEST)}; {cut:,} are cut"),
        _setting("deduplicate", False, "true leaves out of training what also stands in validation or test"),
    ]


def _training_settings(rows: int) -> list[str]:
    """The settings of a fit of so many rows."""
    steps = math.ceil(rows / 32)
    epochs = min(MAX_EPOCHS, max(3, math.ceil(FEW_STEPS / steps)))
    reason = "the usual three" if epochs == 3 else f"{steps:,} steps an epoch are few; the best epoch is kept"
    return [
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


def _setting(name: str, value: Any, reason: str = "") -> str:
    """A line of YAML; the reason is a comment and cannot end before the line does."""
    from lit_bert.cli.parser import QuotedTextDumper

    # In quotes on one line, whatever a name holds.
    shown = yaml.dump({name: value}, Dumper=QuotedTextDumper, width=float("inf"), allow_unicode=False).strip()
    return f"  {shown:34}{f'  # {escape.line(reason)}' if reason else ''}".rstrip()
