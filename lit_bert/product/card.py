"""What an exported folder says of itself: facts for programs, a model card for people, checksums for both.

python -m lit_bert export --to my-classifier
"""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_bert import __version__
from lit_bert.data.windows import LongTexts, as_sentence
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.predictions import Predictions
from lit_bert.evaluate.scores import Score, Scores
from lit_bert.io import escape
from lit_bert.io.templates import markdown_template
from lit_bert.io.texts import CONFIG_KEY, TextForm
from lit_bert.product.folder import CARD, CHECKSUMS, FACTS, write_checksums
from lit_bert.product.formats import FORMATS
from lit_bert.product.proof import Variant, lost_points
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.hub import Source
from lit_bert.sources.schema import TrainerSettings
from lit_bert.sources.weights import MINILM
from lit_bert.task.base import Task
from lit_bert.task.decisions import decision_note, described

PLATT = "a scale and a shift of the logits of each class"
EVALUATED = (  # for the Hub: the name of a metric, its type there, its key
    ("Accuracy", "accuracy", "accuracy"),
    ("Macro F1", "f1", "macro_f1"),
    ("Mean absolute error", "mae", "mae"),
    ("Pearson correlation", "pearsonr", "pearson"),
    ("Spearman correlation", "spearmanr", "spearman"),
)
TEMPLATE = Path(__file__).with_name("card.jinja")
NAME_CHARACTERS = 80  # of the names of weights and data in the title
LICENCES = {MINILM: "apache-2.0", "google-bert/bert-base-uncased": "apache-2.0"}  # of the weights


# --- facts ---


def describe(
    folder: Path,
    checkpoint: Checkpoint,
    long_texts: LongTexts,
    rows: Predictions | None,
    variants: dict[str, Variant],
    command: str,
    licence: str | None,
) -> None:
    """Writes the facts for programs, the card for people, and the SHA-256 of every file but the card.

    Args:
        long_texts: what is read of them.
        rows: the validation rows, with what the checkpoint says of them; None where there are none.
        variants: the ONNX files of the folder.
        command: that made it.
        licence: of the model, as the Hub names it; None is not stated.
    """
    weights, data = (public(each.source.as_source()) for each in (checkpoint.weights, checkpoint.data))
    settings, data_settings = checkpoint.settings, checkpoint.data.settings
    trainer = settings.trainer if settings else TrainerSettings()
    model = checkpoint.model.model_dump(exclude={"label_names", "task", "task_parameters"})
    lora = model.pop("lora")
    if lora["rank"]:
        model |= {f"lora_{name}": value for name, value in lora.items()}
    recipe = {
        "seed": settings.seed_everything if settings else None,
        "batch_size": data_settings.batch_size,
        **trainer.model_dump(include={"max_epochs", "max_steps", "precision"}),
        **model,
        "learning_rate": checkpoint.facts.learning_rate or checkpoint.model.learning_rate,
    }
    if checkpoint.facts.is_published:
        recipe = {}  # that of somebody else
    task, known = checkpoint.task, rows.facts if rows else {}
    facts = {
        "lit_bert": __version__,
        "labels": list(task.class_names),
        "task": task.kind,
        "task_parameters": {name: list(values) for name, values in task.parameters.items()},
        "text": data_settings.texts.as_config(),
        "architecture": checkpoint.weights.architecture["model_type"],
        "max_length": data_settings.max_length,
        "long_texts": as_sentence(long_texts),
        "split": known.get("split"),
        "rows": len(rows.labels) if rows else 0,
        "scores": {known.get("split"): _scored(rows)} if rows else {},
        **{name: known.get(name) for name in ("calibration", "averaging", "choice", "decision")},
        "files": {name: variant_as_json(each) for name, each in variants.items()},
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
    try:
        text = card(facts, task, rows.intervals if rows else None, rows.evidence if rows else None)
    except Exception as error:  # the proof is done, and the facts have it: the folder is whole without a card
        problem = f"{type(error).__name__}: {escape.line(error, 200)}"
        print(
            f"the model card cannot be written as a whole ({problem}); {FACTS} has the scores",
            file=sys.stderr,
        )
        text = f"# A text classifier\n\nThe model card could not be written. Scores and sources: `{FACTS}`.\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    write_checksums(folder)


def _scored(rows: Predictions) -> dict[str, Any]:
    """The scores of rows, and what these are."""
    return {**rows.evidence.as_dict(rows.class_names), **scores_as_json(rows.intervals)}


def public(source: Source) -> Source:
    """A source without the path to it, which is nobody else's business."""
    local = source.kind in ("folder", "file", "address", "database", "checkpoint")
    return replace(source, name=Path(source.name).name) if local else source


def scores_as_json(scores: Scores[Score]) -> dict[str, Any]:
    """Scores with the ends of their intervals."""
    return scores.as_dict(Score._asdict)


def variant_as_json(variant: Variant) -> dict[str, Any]:
    """What is known of an ONNX file."""
    measured = {
        "agreement": variant.agreement,
        "difference": variant.difference,
        "texts_per_s": variant.texts_per_s,
        "bytes": variant.bytes,
        "promises": list(variant.promises),
    }
    if variant.scores is None or variant.main_change is None:
        return measured
    scored = {"scores": scores_as_json(variant.scores), "main_change": list(variant.main_change)}
    return {**scored, **measured}


# --- the card ---


def card(
    facts: dict[str, Any],
    task: Task,
    scores: Scores[Score] | None,
    evidence: Evidence | None,
) -> str:
    """The model card in the Hub's format: YAML between two lines of `---`, then Markdown.

    Args:
        facts: as `describe` writes them.
        scores: of the checkpoint, and `evidence`, what they rest on; None where nothing was scored.
    """
    weights, data = Source(**facts["weights"]), Source(**facts["data"])
    base, dataset = (escape.line(Path(source.name).name, NAME_CHARACTERS) for source in (weights, data))
    form = TextForm.from_config({CONFIG_KEY: facts.get("text")})
    exact = {each.file for each in FORMATS if each.is_exact}
    losses = {
        file: Score(*(each + 0.0 for each in lost_points(Score(*found["main_change"]))))  # no negative zero
        for file, found in facts["files"].items()
        if file not in exact
    }
    title = base if data.kind == "unknown" else f"{base} on {dataset}"
    notes = evidence.notes(scores) if evidence else []
    return markdown_template(TEMPLATE).render(
        head=Markup(yaml_head(facts, scores, title, dataset)),
        title=title,
        facts=facts,
        form=form,
        columns=[escape.line(name, NAME_CHARACTERS) for name in form.columns],
        examples={name: Markup(code) for name, code in examples(form).items()},
        names=escape.names(facts["labels"]),
        limits=task.limits(),
        main=task.main,
        main_title=task.main_title,
        titles={each.key: each.long_title or each.title for each in task.scores},
        has_classes=bool(task.class_scores),
        choice=task.choice_note(facts["choice"]) if facts["choice"] else "",
        decision=described(task.parameters, task.class_names),
        decided=decision_note(facts["decision"]) if facts.get("decision") else "",
        promises={name: each["promises"] for name, each in facts["files"].items() if each.get("promises")},
        scores=scores,
        evidence=evidence,
        notes=[f"{note[:1].upper()}{note[1:]}." for note in notes],
        losses=losses,
        calibration=calibration_text(facts["calibration"], task),
        averaging=averaging_text(facts["averaging"]),
        weights=weights,
        data=data,
        recipe=", ".join(f"{name} {value}" for name, value in facts["recipe"].items()),
        stand_ins=[source for source in (weights, data) if source.stand_in_for],
        weights_licence=LICENCES.get(weights.name),
        checksums_file=CHECKSUMS,
    )


def examples(form: TextForm) -> dict[str, str]:
    """A text in Python, by what it is given to: `transformers` or `predictor`.

    Names of columns are ASCII between quotes, and so stay within the line of a block of code.
    """
    text, second = '"what a day"', '"how nice"'
    if form.kind == "single":
        return {"transformers": text, "predictor": text}
    if form.kind == "pair":
        whole = f'{{"text": {text}, "text_pair": {second}}}'
        return {"transformers": whole, "predictor": f"({text}, {second})"}
    lines = ", ".join(json.dumps(f"{label}: what a day") for label in form.labels)
    cells = ", ".join(f"{json.dumps(name)}: {text}" for name in form.columns)
    return {"transformers": f"classify.tokenizer.sep_token.join([{lines}])", "predictor": f"{{{cells}}}"}


def yaml_head(facts: dict[str, Any], scores: Scores[Score] | None, title: str, dataset: str) -> str:
    """What the Hub reads of the card: licence, origin and scores.

    Each text is on one line, so that none can hold the line `---` that ends the head.
    """
    from huggingface_hub import EvalResult, ModelCardData

    weights, data = Source(**facts["weights"]), Source(**facts["data"])
    return ModelCardData(
        license=escape.line(facts["licence"] or "other"),
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["lit_bert", facts["architecture"], *(["onnx"] if facts["files"] else [])],
        base_model=escape.line(weights.name) if weights.kind == "hub" else None,
        datasets=[escape.line(data.name)] if data.kind == "hub" else None,
        model_name=title,
        eval_results=[
            EvalResult(
                "text-classification",
                escape.line(data.config_name or data.kind),
                dataset,
                kind,
                score.value,
                dataset_split=facts["split"] and escape.line(facts["split"]),
                metric_name=metric,
            )
            for metric, kind, key in EVALUATED
            if scores and (score := scores.values.get(key))
        ],
    ).to_yaml()


def calibration_text(calibration: dict[str, Any] | None, task: Task) -> str:
    """Whether a calibration is folded into the classifier, and what says so, for the card."""
    if task.label_form == "number":
        return "The answer is a number, which is not calibrated afterwards."
    if not calibration:
        return "Nothing was fitted; the probabilities are those of the training."
    errors = f"{calibration['before']:.4f} before and {calibration['after']:.4f} after"
    is_temperature = "temperature" in calibration
    if calibration.get("kept", True):  # older ones were always kept
        what = f"a temperature of {calibration['temperature']:.3f}" if is_temperature else PLATT
        return (
            f"The probabilities are calibrated: {what} is folded into the classifier. Expected calibration "
            f"error {errors}, on rows that it was not fitted on."
        )
    what = "a temperature" if is_temperature else PLATT
    return (
        f"The probabilities are those of the training: {what} was fitted and not kept, as rows that it "
        f"was not fitted on did not show that it helps (expected calibration error {errors})."
    )


def averaging_text(averaging: dict[str, Any] | None) -> str:
    """Which of the two sets of weights of a fit were kept, for the card; empty where that is not known."""
    if not averaging:
        return ""
    kept = "the moving average" if averaging["kept"] else "those that were trained, not their moving average"
    return f"The weights are {kept}, as the validation rows decided."
