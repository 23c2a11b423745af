"""What an audit found, as text and as a file."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TokenizedRows, cache_key, cache_root, remembered
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.audit import RARE_ROWS, RARE_SHARE, Findings, Shared, SplitFindings, find_flaws
from lit_bert.evaluate.predictions import PROBABILITY, Predictions
from lit_bert.io import escape

SHOWN_SUSPECTS = 20
SHOWN_LETTERS = 100  # of a text


# --- the summary, for a fit ---


def dataset_summary(
    splits: dict[str, TokenizedRows], class_names: list[str], deduplicated: bool
) -> list[str]:
    """What is notable of the training and the validation rows, a line each; [] where nothing is.

    Looked for once: the findings are kept beside the cache of the same rows.

    Args:
        splits: training rows, validation rows.
        class_names: in the order of their indices.
        deduplicated: whether texts of the validation split were left out of training.
    """
    key = cache_key((class_names, *((name, rows.fingerprint) for name, rows in splits.items())))
    note = cache_root() / "audits" / f"{key}.json"
    found: dict[str, Any] = {}

    def look() -> dict[str, Any]:
        flaws = find_flaws(splits, class_names)
        found["splits"] = {name: asdict(each) for name, each in flaws.splits.items()}
        found["shared"] = [asdict(each) for each in flaws.shared]
        return found

    with contextlib.suppress(UserError):  # a cache that may only be read
        found = remembered(note, look)
    return _summary_lines(
        Findings(
            class_names,
            {name: SplitFindings(**each) for name, each in found["splits"].items()},
            [Shared(**each) for each in found["shared"]],
        ),
        deduplicated,
    )


def _summary_lines(findings: Findings, deduplicated: bool) -> list[str]:
    lines = []
    for name, split in findings.splits.items():
        if split.repeated:
            lines.append(
                f"{_texts(split.repeated)} of {name} stand{'s' * (split.repeated == 1)} there more than once"
                + _differing(split.repeated, split.differing)
            )
    for pair in findings.shared:
        if pair.texts:
            remedy = "" if deduplicated else "; --data.deduplicate true leaves such rows out of training"
            lines.append(
                f"{_texts(pair.texts)} of {pair.second} also stand{'s' * (pair.texts == 1)} in {pair.first}"
                + _differing(pair.texts, pair.differing)
                + remedy
            )
    lines += [
        f"{_texts(split.blank)} of {name} {'is' if split.blank == 1 else 'are'} empty"
        for name, split in findings.splits.items()
        if split.blank
    ]
    lines += [
        f"{_texts(split.unlabelled)} of {name} {'has' if split.unlabelled == 1 else 'have'} no label"
        for name, split in findings.splits.items()
        if split.unlabelled
    ]
    name, train = next(iter(findings.splits.items()))
    if train.rare:
        names = escape.names(findings.class_names)
        few = [f"{names[index]} ({train.classes[index]:,})" for index in train.rare]
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        lines.append(f"few rows to learn from in {name}: {', '.join(few[:5])}{more}")
    if lines:
        lines.append("`python -m lit_bert audit` with the same flags shows which")
    return lines


def _texts(count: int) -> str:
    return f"{count:,} text{'s' * (count != 1)}"


def _differing(texts: int, differing: int) -> str:
    if not differing:
        return ""
    return ", with different labels" if texts == 1 else f", {differing:,} of them with different labels"


# --- all of it, for the verb ---


def findings_text(findings: Findings) -> str:
    """Tables and examples. Rows are counted from 1, as a person would look for them in the file."""
    lines = [
        *_split_table(findings),
        "",
        *(
            f"in {pair.first} and {pair.second}: {_texts(pair.texts)}{_differing(pair.texts, pair.differing)}"
            for pair in findings.shared
        ),
        "",
        *_class_table(findings),
    ]
    names = escape.names(findings.class_names)
    for kind, title in {
        "differing": "one text, several labels in a split",
        "agreeing": "one text, several times the same label in a split",
        "crossing": "one text, several splits",
    }.items():
        examples, total = getattr(findings, kind), findings.totals[kind]
        if total:
            first = f", the first {len(examples):,} (--examples)" if len(examples) < total else ""
            lines += ["", f"{title}: {_texts(total)}{first}"]
        for repeat in examples:
            places = [f"{each.split} row {each.row + 1} {names[each.label]}" for each in repeat.places]
            more = repeat.counts.total() - len(repeat.places)
            where = ", ".join(places) + (f", and {more:,} more" if more else "")
            lines.append(f"  {where} | {_short(repeat.text)}")
    for name, split in findings.splits.items():
        for what, count, rows in (
            ("empty", split.blank, findings.blanks.get(name)),
            ("without a label", split.unlabelled, findings.unlabelled.get(name)),
        ):
            if rows:
                lines += ["", f"{what} in {name}: row {', '.join(rows)}" + ", …" * (count > len(rows))]
    return "\n".join(lines)


def _split_table(findings: Findings) -> list[str]:
    heads = ["rows", "cut", "empty", "repeated texts", "with several labels", "rows beyond the first"]
    rows = [
        [
            name,
            f"{each.rows:,}",
            f"{each.truncated:,} {_share(each.truncated, each.rows)}",
            f"{each.blank:,}",
            f"{each.repeated:,}",
            f"{each.differing:,}",
            f"{each.surplus:,}",
        ]
        for name, each in findings.splits.items()
    ]
    return _table(["split", *heads], rows)


def _class_table(findings: Findings) -> list[str]:
    rare = {name: set(split.rare) for name, split in findings.splits.items()}
    rows = [
        [
            class_name,
            *(
                f"{split.classes[index]:,} {_share(split.classes[index], split.rows)}"
                + (" *" if index in rare[name] else "  ")
                for name, split in findings.splits.items()
            ),
        ]
        for index, class_name in enumerate(escape.names(findings.class_names))
    ]
    lines = _table(["class", *(f"{name}  " for name in findings.splits)], rows)
    if any(rare.values()):
        lines.append(
            f"* few: fewer than {RARE_ROWS}, or less than {RARE_SHARE:.0%} of an equal share".replace(
                "%", " %"
            )
        )
    return lines


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table whose cells are right-aligned, but for those of the first column."""
    first, *widths = (escape.width_of(column) for column in zip(heads, *rows, strict=True))
    return [
        escape.pad(name, first)
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, *cells in [heads, *rows]
    ]


def _share(count: int, of: int) -> str:
    return f"{100 * count / max(of, 1):5.1f} %"


def _short(text: str) -> str:
    return escape.line(" ".join(text.split()), SHOWN_LETTERS)


def suspects_text(predictions: Predictions, suspects: np.ndarray) -> str:
    """How many labels are wrong, about, by class; and the least believed.

    Args:
        suspects: indices (S,), the least believed first.
    """
    believed = predictions.probs[np.arange(len(predictions.labels)), predictions.labels]
    names, labels, preds = escape.names(predictions.class_names), predictions.labels, predictions.preds
    rows = []
    for index, name in enumerate(names):
        mine = suspects[labels[suspects] == index]
        count, others = int((labels == index).sum()), Counter(preds[mine].tolist()).most_common(1)
        mostly = f"{names[others[0][0]]} {others[0][1]:,}" if others else ""
        rows.append([name, f"{count:,}", f"{len(mine):,} {_share(len(mine), count)}", mostly])
    share = 100 * len(suspects) / len(labels)
    lines = [
        f"about {len(suspects):,} of {len(labels):,} labels ({share:.1f} %) look wrong to models that "
        "were trained on the other rows",
        "(confident learning; texts that are only hard are among them)",
        "",
        *_table(["label", "rows", "suspected", "mostly taken for"], rows),
    ]
    shown = suspects[:SHOWN_SUSPECTS].tolist()
    if shown:
        lines += ["", f"the {len(shown)} least believed of {len(suspects):,} suspects:"]
    for index in shown:
        lines.append(
            f"  row {predictions.rows[index] + 1} is {names[labels[index]]} "
            f"({believed[index]:.3f}), rather {names[preds[index]]} "
            f"({predictions.probs[index].max():.3f}) | {_short(predictions.texts[index])}"
        )
    return "\n".join(lines)


def write_suspects(predictions: Predictions, suspects: np.ndarray, writer: RowWriter) -> None:
    """A row each, the least believed first; nothing where there is none."""
    names, probs = predictions.class_names, predictions.probs.tolist()
    writer.write(
        {
            "row": int(predictions.rows[index]) + 1,
            "text": predictions.texts[index],
            "label": names[predictions.labels[index]],
            "suggested_label": names[predictions.preds[index]],
            "score": probs[index][predictions.labels[index]],
            **{PROBABILITY + name: value for name, value in zip(names, probs[index], strict=True)},
        }
        for index in suspects.tolist()
    )
