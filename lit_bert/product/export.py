"""Checkpoint to a folder that any other tool loads, with the proof that it is the same model.

Weights and configuration for transformers, ONNX in 32 and in 8 bits, tokenizer, model
card. Each ONNX file is scored on the validation rows that stand beside the checkpoint; one that is not the
model any more is not kept.

    python -m lit_bert export --to my-classifier
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert import UserError
from lit_bert.data.corpus import sample_texts
from lit_bert.data.windows import LongTexts, as_config
from lit_bert.evaluate.drift import REFERENCE, Reference
from lit_bert.evaluate.drift_files import CHECKPOINT, read_reference, write_references
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.io import files
from lit_bert.io.texts import CONFIG_KEY as TEXT_KEY
from lit_bert.model.pretrained import load_network, scale_logits
from lit_bert.product.card import describe
from lit_bert.product.folder import FACTS
from lit_bert.product.formats import FORMATS, CannotExport, Exportable, Format
from lit_bert.product.proof import (
    MAX_DIFFERENCE,
    ProofError,
    ProofRows,
    Variant,
    checkpoint_outputs,
    format_points,
    lost_points,
    measure,
    proof_table,
)
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.tokenizer_files import checked_tokenizer_files
from lit_bert.sources.weights import Weights
from lit_bert.task.base import Task
from lit_bert.task.guarantee import Labelled, promise_lines
from lit_bert.task.kinds import CONFIG_KEY, FILES_KEY, LONG_TEXTS_KEY, PARAMETERS_KEY
from lit_bert.train.decide import GUARANTEED, guaranteed
from lit_bert.train.reference import text_reader

CALIBRATION_TEXTS = 256  # texts, or windows of texts, that show how large activations get
MAX_F1_LOSS = (
    1.5  # points of macro F1; with 300 rows, two changed predictions already give an interval of ±1 point
)


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
    if rows.task != checkpoint.task:  # or the head would be re-initialised
        raise UserError(
            f"{path} has another task or other classes than {checkpoint.path.name}; run `{command}` first."
        )
    return rows


def proof_rows(checkpoint: Checkpoint) -> ProofRows:
    """Rows to prove an export on: validated ones, or of a classifier of others texts of the packaged sample.

    Raises:
        UserError: the validation rows are of another checkpoint, or those of one of our own are not there.
    """
    if not checkpoint.facts.is_published or (checkpoint.run / VALIDATED).exists():
        rows = validation_rows(checkpoint)
        return ProofRows(rows.texts, f"{len(rows.texts):,} rows of split {rows.facts.get('split')}", rows)
    form, texts = checkpoint.data.settings.texts, sample_texts()
    cells = (texts[start : start + len(form.columns)] for start in range(len(texts)))
    made = [form.text_of(each) for each in cells if len(each) == len(form.columns)]
    print(
        "note       no labelled rows: nothing is scored, and there is no file that may lose something; "
        f"`python -m lit_bert validate --ckpt_path {checkpoint.path} --data.dataset FILE --data.val_split "
        "train` scores it on the rows of a file",
        file=sys.stderr,
    )
    return ProofRows([text for text in made if text], f"{len(made):,} texts of the packaged sample")


def check_target(target: Path) -> None:
    """Raises a UserError where something else than an earlier export would be overwritten."""
    if target.is_dir() and any(target.iterdir()) and not (target / FACTS).is_file():
        raise UserError(f"{target} holds something else than an export; name another folder with --to.")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; name a folder with --to.")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` when the block ends without an error.

    Raises:
        UserError: nothing can be written there.
        OSError: the disk is full, also where a library in Rust says so with an error of its own.
    """
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(files.whole_folder(target))
        except OSError as error:
            raise UserError(
                f"cannot write {target}: {error.strerror}. Name another folder with --to."
            ) from None
        try:
            yield partial
        except Exception as error:
            if not (found := re.search(r"\(os error (\d+)\)", str(error))):
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(target)) from None


def write(
    checkpoint: Checkpoint,
    rows: ProofRows,
    folder: Path,
    max_f1_loss: float,
    command: str,
    licence: str | None,
    base_at: str | None = None,
) -> dict[str, Variant]:
    """Writes the folder and checks it against the checkpoint.

    Args:
        base_at: where the weights are that were frozen; None: where they were.

    Returns:
        The files that were kept, by name.

    Raises:
        ProofError: the folder must not be used.
    """
    from transformers.utils import logging

    kept_apart = guarantee_rows(checkpoint) if checkpoint.task.promises else None
    weights = Weights(checkpoint=str(checkpoint.path))
    weights.base_at = base_at
    logging.disable_progress_bar()
    task, scale, shift = checkpoint.task.exported()
    network = load_network(weights, list(task.class_names), task.problem_type).eval()
    scale_logits(network, scale, shift)
    settings = checkpoint.data.settings
    tokenizer = weights.tokenizer(settings.max_length)
    text_form, long_texts = settings.texts, LongTexts.of_settings(tokenizer, settings)
    print(f"export     {checkpoint.path}", file=sys.stderr)
    write_for_transformers(checkpoint, task, network, tokenizer, long_texts, folder)
    tokenizer.no_truncation()
    has_types = text_form.token_types(tokenizer, weights.type_vocab_size)
    ids: list[list[int]] = []
    types: list[list[int]] = []  # of pairs, which are not in windows
    for each in text_form.encode(tokenizer, rows.texts[:CALIBRATION_TEXTS], long_texts.max_length):
        ids += [part.tolist() for part in long_texts.parts(np.array(each.ids))]
        types.append(each.type_ids)
    every = -(-len(ids) // CALIBRATION_TEXTS)
    forms = [form for form in FORMATS if form.is_exact or rows.labelled]
    written = write_formats(Exportable(network, ids[::every], types if has_types else None), forms, folder)

    print(f"proof      {rows.what}", file=sys.stderr)
    task = checkpoint.task  # for the units of numbers: outputs are the same
    exported = task.exported()[0]
    wanted = checkpoint_outputs(network, tokenizer, long_texts, exported, rows.texts, text_form)
    scored = None if rows.labelled is None else rows.labelled.with_outputs(wanted)
    found = {form: measure(folder, form, task, rows, wanted) for form in written}
    print(
        proof_table(
            None if scored is None else scored.intervals, {form.file: each for form, each in found.items()}
        )
    )
    for note in scored.evidence.notes(scored.intervals) if scored else ():
        print(note)
    kept = {form: each for form, each in found.items() if is_kept(form, each, rows, max_f1_loss)}
    if kept_apart is not None:
        kept = with_guarantees(checkpoint, kept_apart, rows, kept, folder)
    for form in written:
        if form not in kept:
            (folder / form.file).unlink()
    write_own_references(checkpoint, rows, kept, folder)
    variants = {form.file: each for form, each in kept.items()}
    describe(folder, checkpoint, long_texts, scored, variants, command, licence)
    return variants


def with_guarantees(
    checkpoint: Checkpoint,
    kept_apart: Predictions,
    rows: ProofRows,
    found: dict[Format, Variant],
    folder: Path,
) -> dict[Format, Variant]:
    """The files that give what the checkpoint guarantees, by their answers to the rows kept apart for that.

    A file has a threshold of its own, which stands in config.json; one without is left out, as whoever runs
    it would be promised nothing.

    Raises:
        ProofError: a file that has to be exact does not give it.
    """
    task = checkpoint.task.without_guarantees()
    given: dict[Format, Variant] = {}
    for form, each in found.items():
        assert rows.labelled  # or there would be no guarantee
        own = Labelled(form.open(folder)(kept_apart.texts), kept_apart.labels)
        validated = Labelled(each.outputs, rows.labelled.labels)
        try:
            promised = guaranteed(task, kept_apart.facts["guarantee"], own, validated, f" of {form.file}")
        except UserError as error:
            if form.is_exact:
                raise ProofError(str(error)) from None
            print(f"\n{form.file} is left out: {error}")
            continue
        parameters = {name: promised.parameters[name] for name in promised.promises}
        lines = promise_lines(promised)
        given[form] = replace(each, guarantees=parameters, promises=lines)
        print(f"\n{form.file} guarantees, by {len(own.labels):,} rows that served nothing else:")
        print("\n".join(f"  {line}" for line in lines))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[FILES_KEY] = {form.file: each.guarantees for form, each in given.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return given


def write_own_references(
    checkpoint: Checkpoint, rows: ProofRows, kept: dict[Format, Variant], folder: Path
) -> None:
    """Writes what each file says of the rows that the checkpoint was validated on, for `drift`.

    There is none where these rows are not those of the fit. An exported graph has no embeddings: other
    programs read it, and it gives logits alone.
    """
    if rows.labelled is None or not (checkpoint.run / REFERENCE).is_file() or not kept:
        return
    own = read_reference(checkpoint.run, CHECKPOINT, checkpoint.task)
    if own.facts != {"checkpoint": checkpoint.sha256, "rows": rows.labelled.rows_sha256}:
        print(f"note       no {REFERENCE}: the rows are not those of the fit", file=sys.stderr)
        return
    texts = text_reader(checkpoint).facts(rows.labelled.texts)
    task = checkpoint.task.exported()[0]
    answers = {form.file: each.outputs if own.has_answers else None for form, each in kept.items()}
    found = {file: Reference.of_rows(task, texts, each, facts=own.facts) for file, each in answers.items()}
    write_references(folder / REFERENCE, found)


def guarantee_rows(checkpoint: Checkpoint) -> Predictions:
    """The rows that a fit kept for the guarantee of a checkpoint.

    Raises:
        UserError: they are not beside it, or of another one.
    """
    path = checkpoint.run / GUARANTEED
    found = Predictions.read(path) if path.is_file() else None
    if found is None or found.facts.get("sha256") != checkpoint.sha256 or "guarantee" not in found.facts:
        raise UserError(
            f"{checkpoint.path.name} has a guarantee, and {path} does not hold its rows, by which each "
            "exported file is checked. Copy it from the folder of the run, or fit again with --guarantee."
        )
    return found


def write_for_transformers(
    checkpoint: Checkpoint, task: Task, network: Any, tokenizer: Any, long_texts: LongTexts, folder: Path
) -> None:
    """Writes what transformers loads: config.json, model.safetensors and the tokenizer's files."""
    setattr(network.config, CONFIG_KEY, task.kind)
    if task.own_parameters:
        parameters = {name: list(values) for name, values in task.own_parameters.items()}
        setattr(network.config, PARAMETERS_KEY, parameters)
    if (said := checkpoint.data.settings.texts.as_config()) is not None:
        setattr(network.config, TEXT_KEY, said)
    if long_texts.mode != "cut":
        setattr(network.config, LONG_TEXTS_KEY, as_config(long_texts))
    network.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "id2label" not in config:  # where classes are called as transformers calls them, it leaves them out
        config |= {"id2label": network.config.id2label, "label2id": network.config.label2id}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_files = checked_tokenizer_files(checkpoint.tokenizer, str(checkpoint.path))
    settings = json.loads(tokenizer_files["tokenizer_config.json"])
    settings["model_max_length"] = checkpoint.data.settings.max_length
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_formats(model: Exportable, forms: Sequence[Format], folder: Path) -> list[Format]:
    """Writes a file of each of the formats that the network has, and says which it has not."""
    written, reasons = [], {}
    for form in forms:
        try:
            form.write(model, folder)
            written.append(form)
        except CannotExport as error:
            reasons[form.file] = str(error)
    for reason in dict.fromkeys(reasons.values()):
        which = ", ".join(file for file, each in reasons.items() if each == reason)
        alone = (
            "; the folder is for transformers alone, without `lit_bert serve` and Predictor"
            if not written
            else ""
        )
        print(f"note       {reason}: no {which}{alone}", file=sys.stderr)
    return written


def is_kept(form: Format, found: Variant, rows: ProofRows, max_f1_loss: float) -> bool:
    """Whether a file is kept; prints the reason for formats that need not be exact.

    Raises:
        ProofError: it has to be exact and is not.
    """
    if form.is_exact:
        if found.agreement < 1 or found.difference > MAX_DIFFERENCE:
            apart = round((1 - found.agreement) * len(rows.texts))
            raise ProofError(
                f"{form.file} is not the checkpoint: {apart} of {len(rows.texts):,} rows have another label, "
                f"and an output differs by {found.difference:.2g}. Nothing was kept."
            )
        return True
    assert found.main_change
    assert rows.labelled  # or it would not have been written
    lost = lost_points(found.main_change)
    shown = format_points(lost, rows.labelled.task.main_title)
    if lost.high <= max_f1_loss:
        print(f"\n{form.file} loses {shown}; {max_f1_loss:g} are allowed.")
        return True
    print(
        f"\n{form.file} loses {shown}: the rows do not rule out that it is more than "
        f"{max_f1_loss:g}, so it is left out. More validation rows would tell; --max_f1_loss allows more."
    )
    return False
