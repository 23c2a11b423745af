"""A classifier of class names alone: each class is where its name, or what describes it, lies.

    python -m lit_bert fit --method zero_shot --data.label_names "refund,delivery,praise"

Good encoders of sentences put a text near the name of what it is about. It is the least that labels have to
beat, and so stands beside every run with few rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from lit_bert import UserError
from lit_bert.io.escape import line
from lit_bert.model.head import Head
from lit_bert.train.features import features_of_texts
from lit_bert.train.run import FitRun

SCALE = 8.0  # of cosines, as logits: those of sentences differ by a tenth or two
PRIOR = 4.0  # likewise, of the head that a fitted one is drawn to
MAX_BYTES = 1 << 20  # of a file of descriptions
COLUMNS = ["label", "text"]


def read_descriptions(path: Path, class_names: Sequence[str] | None = None) -> dict[str, list[str]]:
    """The texts of each class in a CSV file with the columns label and text.

    Args:
        class_names: that have to be there; None takes those of the file.

    Raises:
        UserError: it cannot be read, has other columns, an empty cell, or not the classes.
    """
    expected = "expected a CSV file with the columns label and text, a row for each class or several"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"--descriptions {line(path)} has more than {MAX_BYTES:,} bytes; {expected}.")
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = list(csv.reader(stream, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--descriptions {line(path)}: {line(why)}; {expected}.") from None
    if sorted(header) != COLUMNS or not all(len(row) == 2 and all(map(str.strip, row)) for row in rows):
        raise UserError(f"--descriptions {line(path)} has other columns, or an empty cell; {expected}.")
    found: dict[str, list[str]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        found.setdefault(cells["label"].strip(), []).append(cells["text"])
    if class_names is not None and set(found) != set(class_names):
        odd = sorted(set(found) ^ set(class_names))[0]
        raise UserError(
            f"--descriptions {line(path)} and the classes of the data differ: {line(odd)} is in one alone."
        )
    return found


def has_named_classes(run: FitRun) -> bool:
    """Whether there are single texts and classes, in no order, which words name."""
    task = run.model.task
    if task.label_form != "class" or task.is_ordered or run.data.tokenized.columns.form != "single":
        return False
    return all(any(map(str.isalpha, each)) for each in task.class_names)


def class_head(run: FitRun, descriptions: Mapping[str, Sequence[str]] | None = None) -> Head:
    """The head that gives each text the class whose texts are nearest, by the cosine.

    Args:
        descriptions: texts of each class; None takes its name.
    """
    names = run.model.task.class_names
    texts = {name: list(descriptions[name]) if descriptions else [name.replace("_", " ")] for name in names}
    features = features_of_texts(run, [text for name in names for text in texts[name]])
    parts = features.split([len(texts[name]) for name in names])
    centres = torch.stack([normalize(each, dim=1).mean(0) for each in parts])
    # Features of texts have nearly the same length, by which the cosine would divide.
    weight = SCALE / features.norm(dim=1).mean() * normalize(centres - centres.mean(0), dim=1)
    return Head(weight, torch.zeros(len(names)))


def name_prior(names: Head, features: Tensor, labels: Tensor) -> Head | None:
    """The head of the names of the classes, weakened, to which one that is fitted to few rows is drawn.

    A name is one more thing that is known of a class: with some rows of each, answers are right more often
    where names are among them (Lin et al., 2023, https://arxiv.org/abs/2301.06267).

    Args:
        names: `class_head`.
        features: of the rows, float32 (N, F).
        labels: int64 (N,).

    Returns:
        None where the names say less of the rows than chance does.
    """
    weaker = Head(names.weight * (PRIOR / SCALE), names.bias)
    loss = cross_entropy(weaker.logits(features), labels).item()
    return weaker if loss < math.log(len(names.bias)) else None
