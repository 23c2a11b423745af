"""The kind of task and the classes of a corpus: given by the user, or found in its training split."""

from __future__ import annotations

from collections import Counter

from lit_bert import UserError
from lit_bert.data.corpus import Corpus
from lit_bert.data.label_kind import Labels, LabelScan
from lit_bert.data.labels import RowSettings, SplitReader, class_names_of, listed
from lit_bert.io import escape
from lit_bert.task.kinds import kind_of
from lit_bert.task.multi_label import MultiLabel


def checked_names(given: list[str] | None) -> list[str] | None:
    """The class names that the user gave, in the order of their indices; None where there are none.

    Raises:
        UserError: one is empty, or there twice, or there is but one.
    """
    if not given:
        return None
    if not all(name.strip() for name in given):
        raise UserError(f"data.label_names is {listed(given)}, with an empty name; expected names.")
    double = [name for name, count in Counter(given).items() if count > 1]
    if double:
        raise UserError(
            f"data.label_names has '{escape.line(double[0], 100)}' twice; expected different names."
        )
    if len(given) < 2:
        raise UserError(f"data.label_names is {listed(given)}; expected at least two names.")
    return given


def with_names(found: Labels, given: list[str]) -> Labels:
    """What was found, with the class names that the user gave.

    Raises:
        UserError: the labels are numbers.
    """
    if kind_of(found.kind).label_form == "number":
        raise UserError(
            f"data.label_names is {listed(given)}, and the labels are numbers ({found.kind}); names are for "
            "classes. Leave them out, or set --data.task."
        )
    return found._replace(names=given)


def check_separator(found: Labels, separator: str | None, columns: tuple[str, ...]) -> None:
    """Raises a UserError where a separator would be ignored."""
    if separator is None or (kind_of(found.kind).label_form == "classes" and len(columns) == 1):
        return
    why = f"the task is {found.kind}" if len(columns) == 1 else f"each of {listed(columns)} is one label"
    raise UserError(
        f"data.label_separator is '{escape.line(separator, 60)}', and {why}: nothing is separated. "
        f"Leave it out, or set --data.task {MultiLabel.kind} and one --data.label_column."
    )


def scan_labels(corpus: Corpus, split: str, settings: RowSettings, wanted: str | None) -> Labels:
    """What one pass over the labels of a split finds.

    Args:
        settings: with the form `raw`.
        wanted: the kind that the user named; None is to be found.

    Raises:
        UserError: a few words stand among numbers or a few lists among labels, or a row cannot be read.
    """
    columns = settings.label_columns
    codes = class_names_of(corpus, split, columns[0]) if len(columns) == 1 else []
    if wanted is None and codes and corpus.has_lists(columns[0], split):
        wanted = MultiLabel.kind
    scan = LabelScan(wanted, columns, settings.label_separator, codes)
    if codes and wanted is not None and kind_of(wanted).label_form != "number":
        return scan.result()
    for (_, numbered), _, _ in SplitReader(corpus, split, settings):
        scan.add(numbered, f"{numbered.place} of split {split}")
    return scan.result()


def check_enough(found: Labels, corpus: Corpus, split: str, settings: RowSettings) -> None:
    """Raises a UserError where a split has fewer classes than its kind of task needs, or no number.

    Args:
        settings: as of `scan_labels`.
    """
    kind, where = kind_of(found.kind), f"split {split} of {corpus.source.name}"
    if len(found.names) >= kind.fewest_classes:
        return
    if kind.label_form == "number":
        raise UserError(
            f"{where} has no numbers in column '{escape.line(settings.label_columns[0], 100)}'. Name another "
            "column with --data.label_column, or another kind of task with --data.task."
        )
    for _ in SplitReader(corpus, split, settings.of_kind(kind)):
        pass  # a cell that is no label is refused by its row
    only = f"only the class '{escape.line(found.names[0], 100)}'" if found.names else "no rows"
    raise UserError(
        f"{where} has {only}; expected at least two classes. Add rows, or name another column with "
        "--data.label_column."
    )
