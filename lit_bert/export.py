"""Checkpoint to a folder that any other tool loads, with the proof that it is the same model.

Step 6 of the journey: weights and configuration for transformers, ONNX in 32 and in 8 bits, tokenizer, model
card. Each ONNX file is scored on the validation rows that stand beside the checkpoint; one that is not the
model any more is not kept.

    python -m lit_bert export --to my-classifier
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError, __version__, escape, need, scores, untrusted
from lit_bert.arguments import Parser
from lit_bert.checkpoints import Checkpoint, find
from lit_bert.predictions import VALIDATED, Predictions
from lit_bert.predictor import CARD, EXACT, FACTS, QUICK, Predictor
from lit_bert.pretrained import checked_tokenizer_files
from lit_bert.scores import Evidence, Score, Scores
from lit_bert.sources import MINILM, Source, Weights

EXPORTED = "exported"  # folder in that of the run
SMOOTHED_ON = 256  # texts that show how large activations get
BASELINE_BATCH = 32  # texts
INT8_LOSS = 1.5  # points of macro F1; two rows of 300 that change sides already have an interval of ±1
SAME = 1e-3  # most that a probability of the 32-bit file may differ by
LICENCES = {MINILM: "apache-2.0", "google-bert/bert-base-uncased": "apache-2.0"}  # of the weights


@dataclass(frozen=True)
class Variant:
    """What an ONNX file makes of the validation rows.

    Attributes:
        scores: with 95 % bootstrap intervals, 0 to 1.
        agreement: share of the rows with the checkpoint's label.
        difference: largest difference of a probability from the checkpoint's.
        texts_per_s: on the machine that exported it.
        bytes: size of the file.
        f1_change: its macro F1 less the checkpoint's on the same rows, with the paired interval.
    """

    scores: Scores[Score]
    agreement: float
    difference: float
    texts_per_s: float
    bytes: int
    f1_change: Score


def export(arguments: list[str]) -> int:
    """The verb."""
    parser = Parser(
        "python -m lit_bert export",
        description="Turn a checkpoint into a folder that stands alone: for transformers, for ONNX, for "
        "`lit_bert serve` and for the Hub. Each ONNX file is first scored on the validation rows.",
        allow_abbrev=False,
    )
    parser.add_argument("--ckpt_path", help="best, last or a file (default: best of the newest fit)")
    parser.add_argument("--to", type=Path, help=f"the folder (default: {EXPORTED} in that of the run)")
    parser.add_argument(
        "--int8_loss",
        type=float,
        default=INT8_LOSS,
        metavar="POINTS",
        help=f"hundredths of macro F1 that {QUICK} may lose; it is left out unless the validation rows show, "
        f"with the whole 95 %% interval of the loss, that it does not lose more (default {INT8_LOSS:g})",
    )
    parser.add_argument("--license", help="of the model, as the Hub names it, such as apache-2.0")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="then upload the folder to this model on the Hub"
    )
    parser.add_argument("--private", action="store_true", help="with --push: make it a private one")
    args = parser.parse_args(arguments)
    if not args.int8_loss >= 0:
        parser.error(f"--int8_loss is {args.int8_loss}; expected points of macro F1, at least 0")
    if args.private and not args.push:
        parser.error("--private is for --push")
    if args.push:
        check_name(args.push)
    for module in ("onnx", "onnxscript", "onnxruntime"):
        need(module, "export")
    checkpoint = Checkpoint.open(find(args.ckpt_path))
    rows = validation_rows(checkpoint)
    target = (args.to or checkpoint.run / EXPORTED).resolve()  # `.` and links cannot be renamed
    check_target(target)
    with _beside(target) as partial:
        kept, problem = write(checkpoint, rows, partial, args.int8_loss, shown(arguments), args.license)
        if problem:
            print(f"lit_bert export: {problem}", file=sys.stderr)
            return 1
        _replace(partial, target)
    print(f"\n{target}" + ("" if QUICK in kept else f", without {QUICK}"))
    if args.push:
        print(push(target, args.push, args.private))
    return 0


def shown(arguments: Sequence[str]) -> str:
    """The command line, with the names alone of what absolute paths lead to."""
    parts = (argument.rpartition("=") for argument in arguments)
    names = (
        flag + equals + (Path(value).name if Path(value).is_absolute() else value)
        for flag, equals, value in parts
    )
    return shlex.join(["python", "-m", "lit_bert", "export", *names])


def validation_rows(checkpoint: Checkpoint) -> Predictions:
    """The rows that fit or `validate` scored with this very checkpoint."""
    command = f"python -m lit_bert validate --ckpt_path {checkpoint.path}"
    path = checkpoint.run / VALIDATED
    if not path.is_file():
        raise UserError(f"{checkpoint.run} has no {VALIDATED}, which the proof needs; `{command}` writes it.")
    rows = Predictions.read(path)
    if rows.facts.get("sha256") != checkpoint.sha256:
        raise UserError(
            f"{path} is of another checkpoint than {checkpoint.path.name}; run `{command}` first."
        )
    if rows.class_names != checkpoint.model["label_names"]:  # or the head would be drawn anew
        raise UserError(f"{path} has other classes than {checkpoint.path.name}; run `{command}` first.")
    return rows


def check_target(target: Path) -> None:
    """Raises a UserError where something else than an earlier export would be overwritten."""
    if target.is_dir() and any(target.iterdir()) and not (target / FACTS).is_file():
        raise UserError(f"{target} holds something else than an export; name another folder with --to.")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; name a folder with --to.")


@contextlib.contextmanager
def _beside(target: Path) -> Any:
    """A folder on the same disk, removed at the end if it was not renamed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        partial.chmod(0o755)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}. Name another folder with --to.") from None
    try:
        yield partial
    except Exception as error:
        if not (found := re.search(r"\(os error (\d+)\)", str(error))):
            raise
        # What is written in Rust has errors of its own for a full disk.
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(target)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, target: Path) -> None:
    """Renames, with an earlier export out of the way first."""
    if target.is_dir():
        earlier = partial.with_name(f"{partial.name}.earlier")
        target.rename(earlier)
        partial.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        partial.rename(target)


def write(
    checkpoint: Checkpoint,
    rows: Predictions,
    folder: Path,
    int8_loss: float,
    command: str,
    licence: str | None,
) -> tuple[dict[str, Variant], str | None]:
    """Fills the folder and proves it.

    Returns:
        The ONNX files that were kept, and why the folder must not be used, if so.
    """
    from transformers.utils import logging

    from lit_bert.graph import smoothed, write_int8, write_onnx

    weights = Weights(checkpoint=str(checkpoint.path))
    logging.disable_progress_bar()
    network = weights.load(rows.class_names).eval()
    max_length = int(checkpoint.data["hyper_parameters"]["max_length"])
    network.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer = weights.tokenizer(max_length)
    tokenizer.save(str(folder / "tokenizer.json"))
    files = checked_tokenizer_files(checkpoint.data["tokenizer"], str(checkpoint.path))
    settings = json.loads(files["tokenizer_config.json"])
    settings["model_max_length"] = max_length
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    print(f"export     {checkpoint.path}", file=sys.stderr)
    write_onnx(network, folder / EXACT)
    ids = [each.ids for each in untrusted.encode(tokenizer, rows.texts[:SMOOTHED_ON])]
    even = folder / "smoothed.onnx"
    write_onnx(smoothed(network, ids), even)
    write_int8(even, folder / QUICK, ids)
    even.unlink()

    print(f"proof      {len(rows.texts):,} rows of split {rows.facts.get('split')}", file=sys.stderr)
    wanted = checkpoint_probs(network, tokenizer, rows.texts)
    own = scores.with_intervals(wanted, rows.labels)
    evidence = Evidence.of(wanted, rows.labels, rows.evidence.used_for)
    found = {name: measure(folder, name, rows, wanted) for name in (EXACT, QUICK)}
    print(proof_table(own, found))
    print("".join(f"{note}\n" for note in evidence.notes(own)), end="")
    exact, quick = found[EXACT], found[QUICK]
    if exact.agreement < 1 or exact.difference > SAME:
        apart = round((1 - exact.agreement) * len(rows.texts))
        return {}, (
            f"{EXACT} is not the checkpoint: {apart} of {len(rows.texts):,} rows have another label, and a "
            f"probability differs by {exact.difference:.2g}. Nothing was kept."
        )
    lost = lost_points(quick.f1_change)
    if lost.high <= int8_loss:
        print(f"\n{QUICK} loses {shown_points(lost)}; {int8_loss:g} are allowed.")
    else:
        print(
            f"\n{QUICK} loses {shown_points(lost)}: the rows do not rule out that it is more than "
            f"{int8_loss:g}, so it is left out. More validation rows would tell; --int8_loss allows more."
        )
        (folder / QUICK).unlink()
        del found[QUICK]
    describe(folder, checkpoint, rows, own, evidence, found, command, licence)
    return found, None


def checkpoint_probs(network: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Probabilities, float32 (N, C), by the network of transformers in 32 bits."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    encodings = untrusted.encode(tokenizer, list(texts))
    order = np.argsort([-len(each.ids) for each in encodings], kind="stable")
    probs = np.empty((len(texts), network.config.num_labels), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BASELINE_BATCH):
            rows = order[start : start + BASELINE_BATCH]
            ids = [torch.tensor(encodings[row].ids) for row in rows]
            input_ids = pad_sequence(ids, batch_first=True)
            mask = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
            probs[rows] = network(input_ids=input_ids, attention_mask=mask).logits.softmax(-1).numpy()
    return probs


def measure(folder: Path, name: str, rows: Predictions, wanted: np.ndarray) -> Variant:
    """What an ONNX file of the folder makes of the rows, through what people will use."""
    predictor = Predictor(folder, file=name)
    predictor.probs(rows.texts[:32])
    start = time.perf_counter()
    probs = predictor.probs(rows.texts)
    seconds = time.perf_counter() - start
    return Variant(
        scores.with_intervals(probs, rows.labels),
        float((probs.argmax(1) == wanted.argmax(1)).mean()),
        float(np.abs(probs - wanted).max()),
        len(rows.texts) / seconds,
        (folder / name).stat().st_size,
        scores.macro_f1_change(wanted, probs, rows.labels),
    )


def lost_points(f1_change: Score) -> Score:
    """Hundredths of macro F1 that a file loses against the checkpoint; below 0 it gains."""
    value, low, high = f1_change
    return Score(-100 * value, -100 * high, -100 * low)


def shown_points(lost: Score) -> str:
    """With the 95 % interval."""
    value, low, high = (each + 0.0 for each in lost)  # no negative zero
    return f"{value:.2f} points of macro F1 [{low:.2f}, {high:.2f}]"


def proof_table(own: Scores[Score], found: dict[str, Variant]) -> str:
    """One line a file."""
    lines = [f"{'':18}macro F1  same label  largest difference   texts/s       MB"]
    lines.append(f"{'checkpoint':18}{own.macro_f1.value:8.4f}")
    for name, each in found.items():
        lines.append(
            f"{name:18}{each.scores.macro_f1.value:8.4f}  {each.agreement:10.4f}  {each.difference:18.2g}"
            f"  {each.texts_per_s:8,.0f}  {each.bytes / 1e6:7.1f}"
        )
    return "\n".join(lines)


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
        tags=["lit_bert", "bert", "onnx"],
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
        f"A BERT text classifier for {len(labels)} classes: {', '.join(names)}. "
        f"Made with lit_bert {facts['lit_bert']} on {facts['created'][:10]}.",
        "",
        "```python",
        "from transformers import pipeline",
        'pipeline("text-classification", model="FOLDER")("what a day", truncation=True)',
        "",
        "from lit_bert import Predictor  # the same, several times as fast; needs no torch",
        'Predictor("FOLDER")(["what a day"])',
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
    lines += [
        "",
        "| file | macro F1 | rows with the checkpoint's label | largest difference of a probability | "
        "texts/s where it was exported | MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
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


# --- the Hub ---


def check_name(repo_id: str) -> None:
    """Raises a UserError where no model on the Hub can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push {repo_id}: {error}") from None
    if "/" not in repo_id:
        raise UserError(f"--push {repo_id} names no owner; expected OWNER/NAME.")


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the folder as one commit. Returns its address.

    Raises:
        UserError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    again = f"The folder {folder} is whole; push it again with `hf upload {repo_id} {folder}`."
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Exported by lit_bert")
        )
    except LocalTokenNotFoundError:
        raise UserError(f"the Hub wants to know who you are; run `hf auth login`. {again}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        hint = " Run `hf auth login` with a token that may write." if status in (401, 403) else ""
        raise UserError(f"the Hub refuses {repo_id} with status {status}.{hint} {again}") from None
    except ValueError as error:  # of the card, such as a licence that the Hub does not know
        raise UserError(f"the Hub refuses {repo_id}: {str(error)[:200]} {again}") from None
    except Exception as error:  # of the HTTP library that the client happens to use
        raise UserError(f"the Hub cannot be reached ({type(error).__name__}). {again}") from None
