"""Checkpoint to a folder that any other tool loads, with the proof that it is the same model.

Step 6 of the journey: weights and configuration for transformers, ONNX in 32 and in 8 bits, tokenizer, model
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
from collections.abc import Iterator
from pathlib import Path

from lit_bert import UserError
from lit_bert.evaluate import scores
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.predictions import VALIDATED, Predictions
from lit_bert.io import files, tokenizers
from lit_bert.model.pretrained import load_network
from lit_bert.product.card import describe
from lit_bert.product.folder import EXACT, FACTS, QUICK
from lit_bert.product.proof import (
    SAME,
    ProofError,
    Variant,
    checkpoint_probs,
    lost_points,
    measure,
    proof_table,
    shown_points,
)
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.tokenizer_files import checked_tokenizer_files
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import task_of

EXPORTED = "exported"  # folder in that of the run
SMOOTHED_ON = 256  # texts that show how large activations get
INT8_LOSS = 1.5  # points of macro F1; two rows of 300 that change sides already have an interval of ±1


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
    if rows.class_names != checkpoint.model.label_names:  # or the head would be drawn anew
        raise UserError(f"{path} has other classes than {checkpoint.path.name}; run `{command}` first.")
    return rows


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
    rows: Predictions,
    folder: Path,
    int8_loss: float,
    command: str,
    licence: str | None,
) -> dict[str, Variant]:
    """Fills the folder and proves it.

    Returns:
        The ONNX files that were kept.

    Raises:
        ProofError: the folder must not be used.
    """
    from transformers.utils import logging

    from lit_bert.model.graph import graph_of
    from lit_bert.product.onnx import smoothed, write_int8, write_onnx

    weights = Weights(checkpoint=str(checkpoint.path))
    logging.disable_progress_bar()
    task = task_of(checkpoint.model.task, rows.class_names)
    network = load_network(weights, rows.class_names, task.problem_type).eval()
    names = (EXACT, QUICK) if graph_of(network) is not None else ()
    if not names:
        print(
            f"note       a {weights.described.model_type} of this configuration has no ONNX graph: the "
            "folder is for transformers alone, without `lit_bert serve` and Predictor",
            file=sys.stderr,
        )
    max_length = checkpoint.data.settings.max_length
    network.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer = weights.tokenizer(max_length)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_files = checked_tokenizer_files(checkpoint.tokenizer, str(checkpoint.path))
    settings = json.loads(tokenizer_files["tokenizer_config.json"])
    settings["model_max_length"] = max_length
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    print(f"export     {checkpoint.path}", file=sys.stderr)
    if names:
        write_onnx(network, folder / EXACT)
        ids = [each.ids for each in tokenizers.encode(tokenizer, rows.texts[:SMOOTHED_ON])]
        even = folder / "smoothed.onnx"
        write_onnx(smoothed(network, ids), even)
        write_int8(even, folder / QUICK, ids)
        even.unlink()

    print(f"proof      {len(rows.texts):,} rows of split {rows.facts.get('split')}", file=sys.stderr)
    wanted = checkpoint_probs(network, tokenizer, task, rows.texts)
    own = scores.with_intervals(wanted, rows.labels)
    evidence = Evidence.of(wanted, rows.labels, rows.evidence.used_for)
    found = {name: measure(folder, name, rows, wanted) for name in names}
    print(proof_table(own, found))
    print("".join(f"{note}\n" for note in evidence.notes(own)), end="")
    if found:
        check_variants(found, rows, int8_loss)
    if names and QUICK not in found:
        (folder / QUICK).unlink()
    describe(folder, checkpoint, rows, own, evidence, found, command, licence)
    return found


def check_variants(found: dict[str, Variant], rows: Predictions, int8_loss: float) -> None:
    """Takes the 8-bit file out of `found` where it loses too much.

    Raises:
        ProofError: the 32-bit file is not the checkpoint.
    """
    exact, quick = found[EXACT], found[QUICK]
    if exact.agreement < 1 or exact.difference > SAME:
        apart = round((1 - exact.agreement) * len(rows.texts))
        raise ProofError(
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
        del found[QUICK]
