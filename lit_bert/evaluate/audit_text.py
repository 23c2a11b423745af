"""What an audit found, as text and as a file."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import TokenizedRows, cache_key, cache_root, cached_json
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.audit import (
    RARE_ROWS,
    RARE_SHARE,
    Findings,
    Shared,
    SplitFindings,
    find_dataset_issues,
)
from lit_bert.evaluate.evidence import counted
from lit_bert.evaluate.predictions import Predictions, label_text, output_columns
from lit_bert.io import escape
from lit_bert.io.texts import Text, shown, text_cells
from lit_bert.task.base import Task

FINDINGS_FORMAT = 2  # of what is stored beside the cache; another one is computed anew
LISTED_SUSPECTS = 20
EXCERPT = 100  # characters of a text


# --- the summary, for a fit ---


def dataset_summary(splits: dict[str, TokenizedRows], task: Task, deduplicated: bool) -> list[str]:
    """What is notable of the training and the validation rows, a line each; [] where nothing is.

    Computed once: the findings are stored beside the token cache of the same rows.

    Args:
        splits: training rows, validation rows.
        task: what the labels are.
        deduplicated: whether texts of the validation split were left out of training.
    """
    key = cache_key(
        (
            FINDINGS_FORMAT,
            task.kind,
            task.class_names,
            *((name, rows.fingerprint) for name, rows in splits.items()),
        )
    )
    stored = cache_root() / "audits" / f"{key}.json"
    findings: dict[str, Any] = {}

    def compute() -> dict[str, Any]:
        flaws = find_dataset_issues(splits, task)
        findings["splits"] = {name: asdict(each) for name, each in flaws.splits.items()}
        findings["shared"] = [asdict(each) for each in flaws.shared]
        return findings

    with contextlib.suppress(UserError):  # a cache that may only be read
        findings = cached_json(stored, compute)
    return _summary_lines(
        Findings(
            task,
            {name: SplitFindings(**each) for name, each in findings["splits"].items()},
            [Shared(**each) for each in findings["shared"]],
        ),
        deduplicated,
    )


def _summary_lines(findings: Findings, deduplicated: bool) -> list[str]:
    lines = []
    for name, split in findings.splits.items():
        if split.repeated:
            lines.append(
                f"{counted(split.repeated, 'text')} of {name} "
                f"occur{'s' * (split.repeated == 1)} more than once"
                + _conflict_note(split.repeated, split.conflicting)
            )
    for pair in findings.shared:
        if pair.texts:
            remedy = "" if deduplicated else "; --data.deduplicate true leaves such rows out of training"
            lines.append(
                f"{counted(pair.texts, 'text')} of {pair.second} also occur{'s' * (pair.texts == 1)} "
                f"in {pair.first}" + _conflict_note(pair.texts, pair.conflicting) + remedy
            )
    lines += [
        f"{counted(split.blank, 'text')} of {name} {'is' if split.blank == 1 else 'are'} empty"
        for name, split in findings.splits.items()
        if split.blank
    ]
    lines += [
        f"{counted(split.unlabelled, 'text')} of {name} {'has' if split.unlabelled == 1 else 'have'} no label"
        for name, split in findings.splits.items()
        if split.unlabelled
    ]
    name, train = next(iter(findings.splits.items()))
    if train.rare:
        names = escape.names(findings.task.class_names)
        few = [f"{names[index]} ({train.classes[index]:,})" for index in train.rare]
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        lines.append(f"few rows to learn from in {name}: {', '.join(few[:5])}{more}")
    if lines:
        lines.append("`python -m lit_bert audit` with the same flags shows which")
    return lines


def _conflict_note(texts: int, conflicting: int) -> str:
    if not conflicting:
        return ""
    return ", with different labels" if texts == 1 else f", {conflicting:,} of them with different labels"


# --- all of it, for the verb ---


def findings_text(findings: Findings) -> str:
    """Tables and examples. Rows are counted from 1, as a person would compute for them in the file."""
    lines = [
        *_split_table(findings),
        "",
        *(
            f"in {pair.first} and {pair.second}: {counted(pair.texts, 'text')}"
            + _conflict_note(pair.texts, pair.conflicting)
            for pair in findings.shared
        ),
        "",
        *(_class_table(findings) if findings.task.class_scores else []),
    ]
    for kind, title in {
        "conflicting": "one text, several labels in a split",
        "consistent": "one text, several times the same label in a split",
        "across_splits": "one text, several splits",
    }.items():
        examples, total = getattr(findings, kind), findings.totals[kind]
        if total:
            first = f", the first {len(examples):,} (--examples)" if len(examples) < total else ""
            lines += ["", f"{title}: {counted(total, 'text')}{first}"]
        for repeat in examples:
            rows_text = [
                f"{each.split} row {each.row + 1} {label_text(findings.task, np.asarray(each.label))}"
                for each in repeat.occurrences
            ]
            more = repeat.counts.total() - len(repeat.occurrences)
            where = ", ".join(rows_text) + (f", and {more:,} more" if more else "")
            lines.append(f"  {where} | {_excerpt(repeat.text)}")
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
            f"{each.conflicting:,}",
            f"{each.extra_rows:,}",
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
        for index, class_name in enumerate(escape.names(findings.task.class_names))
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


def _excerpt(text: Text) -> str:
    return escape.line(shown(text), EXCERPT)


def suspects_text(predictions: Predictions, suspects: np.ndarray) -> str:
    """How many labels are suspected to be wrong, by class, and those with the least probable label.

    Args:
        suspects: indices (S,), the least probable label first.
    """
    share = 100 * len(suspects) / len(predictions.labels)
    found = (
        f"about {len(suspects):,} of {len(predictions.labels):,} labels ({share:.1f} %) are probably wrong"
    )
    if predictions.task.label_form != "class":
        return "\n".join([found, "", *_suspect_lines(predictions, suspects)])
    label_probs = predictions.outputs[np.arange(len(predictions.labels)), predictions.labels]
    names, labels, preds = escape.names(predictions.class_names), predictions.labels, predictions.preds
    rows = []
    for index, name in enumerate(names):
        of_label = suspects[labels[suspects] == index]
        count, others = int((labels == index).sum()), Counter(preds[of_label].tolist()).most_common(1)
        mostly = f"{names[others[0][0]]} {others[0][1]:,}" if others else ""
        rows.append([name, f"{count:,}", f"{len(of_label):,} {_share(len(of_label), count)}", mostly])
    lines = [
        f"{found}, judged by models that were trained on the other rows",
        "(confident learning; texts that are only hard are among them)",
        "",
        *_table(["label", "rows", "suspected", "mostly predicted as"], rows),
    ]
    shown = suspects[:LISTED_SUSPECTS].tolist()
    if shown:
        lines += ["", f"the {len(shown)} least probable of {len(suspects):,} suspected labels:"]
    for index in shown:
        lines.append(
            f"  row {predictions.rows[index] + 1} is {names[labels[index]]} "
            f"({label_probs[index]:.3f}), rather {names[preds[index]]} "
            f"({predictions.outputs[index].max():.3f}) | {_excerpt(predictions.texts[index])}"
        )
    return "\n".join(lines)


def _suspect_lines(predictions: Predictions, suspects: np.ndarray) -> list[str]:
    """The worst of the suspects, a line each: what they are labelled, and what was predicted."""
    shown, task = suspects[:LISTED_SUSPECTS].tolist(), predictions.task
    lines = [f"the {len(shown)} worst of {len(suspects):,} suspected labels:"] if shown else []
    for index in shown:
        label, pred = (label_text(task, each[index]) for each in (predictions.labels, predictions.preds))
        lines.append(
            f"  row {predictions.rows[index] + 1} is {label}, rather {pred} | "
            f"{_excerpt(predictions.texts[index])}"
        )
    return lines


def write_suspects(predictions: Predictions, suspects: np.ndarray, writer: RowWriter) -> None:
    """Writes a row for each suspect, the worst first; nothing where there is none."""
    task, outputs = predictions.task, predictions.outputs.tolist()
    labels, preds = (task.stored_labels(each) for each in (predictions.labels, predictions.preds))
    columns = output_columns(task)

    def row(index: int) -> dict[str, Any]:
        of_label = {"score": outputs[index][predictions.labels[index]]} if task.label_form == "class" else {}
        return {
            "row": int(predictions.rows[index]) + 1,
            **text_cells(predictions.texts[index]),
            "label": labels[index],
            "suggested_label": preds[index],
            **of_label,
            **dict(zip(columns, outputs[index], strict=True)),
        }

    writer.write(row(index) for index in suspects.tolist())
