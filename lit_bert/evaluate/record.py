"""The scores of a split: printed with their evidence, and kept beside the checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.cache import text_hash
from lit_bert.evaluate import scores
from lit_bert.evaluate.evidence import ENDING, TRAINING, Evidence
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape, files
from lit_bert.io.texts import Text
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source
from lit_bert.task.guarantee import kept_promises, promise_lines

log = logging.getLogger(__name__)


def record_scores(
    checkpoint: Checkpoint,
    verb: str,
    split: str,
    predictions: Predictions,
    sources: list[tuple[str, Source]],
    trained: np.ndarray | None,
    notes: Sequence[str] = (),
) -> Scores[Score]:
    """Prints the scores of a split with their evidence; writes both and the rows beside the checkpoint.

    Args:
        trained: hashes of the texts that the run trained on, uint64; None where they are not known.

    Returns:
        The scores with their intervals.
    """
    fit = fit_usage(checkpoint)
    if "used_for" in predictions.facts:  # those of a fit, which has just ended
        usage: list[str] | None = predictions.facts["used_for"]
        fit = {
            "checkpoint_sha256": checkpoint.sha256,
            "rows_sha256": predictions.rows_sha256,
            "rows": len(predictions.labels),
            "used_for": usage,
        }
    else:
        usage = rows_used_for(predictions, checkpoint, fit)
    used_for = None
    if usage is not None and trained is not None:
        used_for = [*trained_on(predictions.texts, trained), *usage]
    predictions = predictions.with_facts(used_for=used_for)
    evidence, found = predictions.evidence, predictions.intervals
    title = f"split {escape.line(split)}, {len(predictions.labels):,} rows"
    kept = kept_promises(predictions.task, predictions.outputs, predictions.labels)
    print(score_table(title, found, evidence, sources, [*notes, *promise_lines(predictions.task), *kept]))
    facts = {
        **predictions.facts,
        "checkpoint": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "split": split,
        "seed": checkpoint.settings.seed_everything if checkpoint.settings else None,
        **{role: str(source) for role, source in sources},
        "fit": fit,
    }
    names = predictions.class_names
    record = {
        **facts,
        **evidence.as_dict(names),
        "task": predictions.task.kind,
        "promises": kept,
        "scores": found.as_dict(lambda score: score.value),
        "intervals": found.as_dict(lambda score: [score.low, score.high]),
    }
    try:
        predictions.with_facts(**facts).write(checkpoint.run / f"{verb}.parquet")
        files.write_text(checkpoint.run / f"{verb}.json", json.dumps(record, indent=2) + "\n")
    except OSError as error:
        log.info(f"the scores are not kept beside the checkpoint: {error.strerror}")
    return found


def trained_on(texts: list[Text], trained: np.ndarray) -> list[str]:
    """A note that some of the texts were trained on, and how many; [] if none was.

    Args:
        texts: of the rows that are scored.
        trained: the hashes of those that the run trains on, uint64.
    """
    hashes = np.array([text_hash(text) for text in texts], dtype=np.uint64)
    count = int(np.isin(hashes, trained).sum())
    some = f" ({count:,} of the {len(texts):,} texts)" if count < len(texts) else ""
    return [f"{TRAINING}{some}"] * (count > 0)


def fit_usage(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What `record_scores` wrote of the fit: its best checkpoint, its validation rows, what they decided.

    It stays with the validation predictions beside the checkpoint, whatever is validated after the fit; None
    where they are gone or of an earlier version.
    """
    file = checkpoint.run / VALIDATED
    try:
        found = Predictions.read(file).facts.get("fit") if file.is_file() else None
    except UserError:  # another file of that name
        return None
    kinds = {"rows": int, "rows_sha256": str, "checkpoint_sha256": str, "used_for": list}
    known = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if known else None


def rows_used_for(
    predictions: Predictions, checkpoint: Checkpoint, fit: dict[str, Any] | None
) -> list[str] | None:
    """What the rows were used for in the fit of a checkpoint; None where the fit left no record of it.

    The epoch and the temperature are those of the best checkpoint; for another one of the run, such as the
    last, the rows decided at most when training stopped.
    """
    if fit is None:
        return None
    if predictions.rows_sha256 != fit["rows_sha256"]:
        return []
    is_best = checkpoint.sha256 == fit["checkpoint_sha256"]
    return [each for each in fit["used_for"] if is_best or each == ENDING]


def score_table(
    title: str,
    found: Scores[Score],
    evidence: Evidence,
    sources: list[tuple[str, Source]],
    notes: Sequence[str] = (),
) -> str:
    """Scores with their intervals as text: those over all classes, each class, notes and sources."""
    main = found.titled(brief=False)
    names = [f"  {name}" for name in escape.names(found.task.class_names)] if found.by_class else []
    width = escape.width_of([*main, *names]) + 2
    macro = {"macro F1": evidence.macro_note}
    lines = [
        "",
        f"{title}; in brackets 95 % bootstrap intervals",
        *(scores.score_line(shown, score, width, macro.get(shown, "")) for shown, score in main.items()),
        *(["  F1 by class"] * bool(names)),
        *(
            scores.score_line(name, score, width, evidence.class_note(index))
            for index, (name, score) in enumerate(zip(names, found.by_class, strict=True))
        ),
        "",
        *evidence.notes(found),
        *notes,
        *(f"{role:10} {escape.line(source)}" for role, source in sources),
    ]
    return "\n".join(lines)
