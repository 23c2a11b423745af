"""What an exported folder says of itself: facts for programs, a model card for people."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_bert import __version__
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape
from lit_bert.product.folder import CARD, FACTS, QUICK
from lit_bert.product.proof import Variant, lost_points, shown_points
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source
from lit_bert.sources.weights import MINILM

_PREDICTOR = (  # where there is an ONNX file
    "",
    "from lit_bert import Predictor  # the same, several times as fast; needs no torch",
    'Predictor("FOLDER")(["what a day"])',
)
LICENCES = {MINILM: "apache-2.0", "google-bert/bert-base-uncased": "apache-2.0"}  # of the weights


# --- what the folder says of itself ---


def describe(
    folder: Path,
    checkpoint: Checkpoint,
    rows: Predictions,
    own: Scores[Score],
    evidence: Evidence,
    found: dict[str, Variant],
    command: str,
    licence: str | None,
) -> None:
    """Writes the facts for programs, then the card for people, with the hash of every other file."""
    weights, data = (public(Source(**each["source"])) for each in (checkpoint.weights, checkpoint.data))
    settings = checkpoint.content.get("config", {})
    trainer, read = settings.get("trainer", {}), checkpoint.data["hyper_parameters"]
    recipe = {
        "seed": settings.get("seed_everything"),
        "batch_size": read["batch_size"],
        **{name: trainer.get(name) for name in ("max_epochs", "max_steps", "precision")},
        **{name: value for name, value in checkpoint.model.items() if name != "label_names"},
        "learning_rate": checkpoint.content.get("learning_rate", checkpoint.model["learning_rate"]),
    }
    facts = {
        "lit_bert": __version__,
        "labels": rows.class_names,
        "architecture": checkpoint.weights["architecture"]["model_type"],
        "max_length": read["max_length"],
        "split": rows.facts.get("split"),
        "rows": len(rows.labels),
        "scores": {rows.facts.get("split"): {**evidence.as_dict(rows.class_names), **plain(own, rows)}},
        "calibration": rows.facts.get("calibration"),
        "averaging": rows.facts.get("averaging"),
        "files": {name: _variant(each, rows) for name, each in found.items()},
        "weights": weights.as_dict(),
        "data": data.as_dict(),
        "recipe": {name: value for name, value in recipe.items() if value not in (None, -1)},  # what is set
        "checkpoint_sha256": checkpoint.sha256,
        "command": command,
        "licence": licence,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    (folder / FACTS).write_text(
        json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    files = file_list(folder)
    try:
        text = card(facts, own, evidence)
    except Exception as error:  # the proof is done and stands in the facts: the folder is whole without it
        problem = f"{type(error).__name__}: {escape.line(error, 200)}"
        print(
            f"the model card cannot be written as a whole ({problem}); {FACTS} has the scores",
            file=sys.stderr,
        )
        text = f"# A text classifier\n\nThe model card could not be written. Scores and sources: `{FACTS}`.\n"
    (folder / CARD).write_text(f"{text}\n{files}", encoding="utf-8")


def public(source: Source) -> Source:
    """A source without the path to it, which is nobody else's business."""
    local = source.kind in ("folder", "file", "checkpoint")
    return replace(source, name=Path(source.name).name) if local else source


def plain(found: Scores[Score], rows: Predictions) -> dict[str, Any]:
    """Scores with the ends of their intervals, for JSON."""
    return found.as_dict(rows.class_names, Score._asdict)


def _variant(found: Variant, rows: Predictions) -> dict[str, Any]:
    """What is known of an ONNX file, for JSON."""
    return {
        "scores": plain(found.scores, rows),
        "agreement": found.agreement,
        "difference": found.difference,
        "texts_per_s": found.texts_per_s,
        "bytes": found.bytes,
        "f1_change": list(found.f1_change),
    }


def card(facts: dict[str, Any], found: Scores[Score], evidence: Evidence) -> str:
    """The model card in the Hub's format, but for the list of files.

    Args:
        facts: as `describe` writes them.
        found: of the checkpoint; `evidence` is what they rest on.
    """
    from huggingface_hub import EvalResult, ModelCardData

    weights, data = Source(**facts["weights"]), Source(**facts["data"])
    split, labels = facts["split"], facts["labels"]
    base, dataset = (escape.line(Path(source.name).name, 80) for source in (weights, data))
    about = ModelCardData(
        license=facts["licence"] or "other",
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["lit_bert", facts["architecture"], *(["onnx"] if facts["files"] else [])],
        base_model=weights.name if weights.kind == "hub" else None,
        datasets=[data.name] if data.kind == "hub" else None,
        model_name=f"{base} on {dataset}",
        eval_results=[
            EvalResult(
                "text-classification",
                data.config_name or data.kind,
                dataset,
                kind,
                score.value,
                dataset_split=split,
                metric_name=title,
            )
            for title, score, kind in (
                ("Accuracy", found.accuracy, "accuracy"),
                ("Macro F1", found.macro_f1, "f1"),
            )
        ],
    )
    heading = escape.markdown(f"{base} on {dataset}")
    names = [escape.markdown(name) for name in escape.names(labels)]
    lines = ["---", about.to_yaml(), "---", "", f"# {heading}", ""]
    lines += [
        f"A text classifier ({facts['architecture']}) for {len(labels)} classes: {', '.join(names)}. "
        f"Made with lit_bert {facts['lit_bert']} on {facts['created'][:10]}.",
        "",
        "```python",
        "from transformers import pipeline",
        'pipeline("text-classification", model="FOLDER")("what a day", truncation=True)',
        *(_PREDICTOR if facts["files"] else ()),
        "```",
        "",
        "## Scores",
        "",
        f"On {evidence.rows:,} rows of the split {escape.markdown_code(split)}. In brackets 95 % bootstrap "
        "intervals.",
        *(f"{note[:1].upper()}{note[1:]}." for note in evidence.notes(found)),
        "",
        "| score | value |",
        "| --- | --- |",
    ]
    macro = f", {evidence.macro_note}" if evidence.macro_note else ""
    lines.append(f"| macro F1 | {_cell(found.macro_f1)}{macro} |")
    others = {"accuracy": found.accuracy, **found.main}
    del others["macro F1"]
    lines += [f"| {title} | {_cell(score)} |" for title, score in others.items()]
    for index, (name, score) in enumerate(zip(names, found.by_class, strict=True)):
        lines.append(f"| F1 {name} | {_cell(score) if score else evidence.class_note(index)} |")
    lines += (
        []
        if not facts["files"]
        else [
            "",
            "| file | macro F1 | rows with the checkpoint's label | largest difference of a probability | "
            "texts/s where it was exported | MB |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    )
    for name, each in facts["files"].items():
        cells = [name, f"{each['scores']['macro_f1']['value']:.4f}", f"{each['agreement']:.2%}"]
        cells += [f"{each['difference']:.2g}", f"{each['texts_per_s']:,.0f}", f"{each['bytes'] / 1e6:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    if QUICK in facts["files"]:
        lost = lost_points(Score(*facts["files"][QUICK]["f1_change"]))
        lines += ["", f"On those rows `{QUICK}` loses {shown_points(lost)} against the checkpoint."]
    recipe = ", ".join(f"{name} {value}" for name, value in facts["recipe"].items())
    lines += ["", "## Calibration", "", calibration_text(facts["calibration"])]
    lines += [
        "",
        "## Data and recipe",
        "",
        f"- Weights: {escape.markdown(weights)}",
        f"- Trained on: {escape.markdown(data)}",
        f"- Texts are read up to {facts['max_length']} tokens; what is longer is cut.",
        f"- Recipe: {escape.markdown(recipe)}.",
        *averaging_lines(facts["averaging"]),
        f"- Made by {escape.markdown_code(facts['command'])} from a checkpoint with SHA-256 "
        f"{facts['checkpoint_sha256']}.",
        "",
        "## Limits",
        "",
        f"It knows the {len(labels)} classes above and gives one of them to any text, in whatever language "
        "and about whatever it is. Its scores hold for texts like those it was trained on. Labels in that "
        "data are partly wrong, and what is biased there is biased here.",
        *(f"A stand-in was used: {escape.markdown(each)}." for each in (weights, data) if each.stand_in_for),
        "",
        "## Licence",
        "",
        (
            f"{escape.markdown(facts['licence'])}."
            if facts["licence"]
            else "Not stated by whoever exported it."
        )
        + (
            f" The weights it started from are under {LICENCES[weights.name]}."
            if weights.name in LICENCES
            else ""
        ),
        "",
    ]
    return "\n".join(lines)


def file_list(folder: Path) -> str:
    """The part of the card that names the folder's files with their SHA-256, as `sha256sum` reads it."""
    lines = ["## Files", "", f"`sha256sum --check --ignore-missing {CARD}` checks them.", "", "```"]
    for path in sorted(folder.iterdir()):
        if path.name != CARD:
            with path.open("rb") as stream:
                lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path.name}")
    return "\n".join([*lines, "```"]) + "\n"


def calibration_text(calibration: dict[str, Any] | None) -> str:
    """Whether a temperature is folded into the classifier, and what says so, for the card."""
    if not calibration:
        return "No temperature was fitted; the probabilities are those of the training."
    errors = f"{calibration['before']:.4f} before and {calibration['after']:.4f} after"
    if calibration.get("kept", True):  # older ones were always kept
        return (
            "The probabilities can be taken at their word: a temperature of "
            f"{calibration['temperature']:.3f} is folded into the classifier. Expected calibration error "
            f"{errors}, on rows that the temperature was not fitted on."
        )
    return (
        "The probabilities are those of the training: a temperature was fitted and not kept, as rows that it "
        f"was not fitted on did not show that it helps (expected calibration error {errors})."
    )


def averaging_lines(averaging: dict[str, Any] | None) -> list[str]:
    """Which of the two sets of weights of a fit were kept, for the card; [] where that is not known."""
    if not averaging:
        return []
    kept = "the moving average" if averaging["kept"] else "those that were trained, not their moving average"
    return [f"- The weights are {kept}, as the validation rows decided."]


def _cell(score: Score) -> str:
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"
