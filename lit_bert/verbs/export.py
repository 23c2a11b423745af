"""The verb `export`: a checkpoint to a folder that stands alone.

python -m lit_bert export --to my-classifier
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lit_bert import require_package
from lit_bert.cli.arguments import Parser
from lit_bert.product.export import (
    MAX_F1_LOSS,
    check_target,
    new_folder,
    proof_rows,
    write,
)
from lit_bert.product.folder import EXPORTED
from lit_bert.product.formats import FORMATS
from lit_bert.product.proof import ProofError
from lit_bert.product.push import check_name, push
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.task.kinds import KINDS
from lit_bert.train.processes import find_checkpoint
from lit_bert.train.published import Asked
from lit_bert.train.settings import BASE


def _parser() -> Parser:
    lossy = [each.file for each in FORMATS if not each.is_exact]
    parser = Parser(
        "python -m lit_bert export",
        description="Turn a checkpoint into a folder that stands alone: for transformers, for ONNX, for "
        "`lit_bert serve` and for the Hub. Each ONNX file is first scored on the validation rows.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ckpt_path",
        help="best, last or a file (default: best of the newest fit); or a classifier that somebody else "
        "trained, as a folder that transformers reads or by its Hub id",
    )
    parser.add_argument(
        "--data.task", dest="task", choices=KINDS, help="of such a classifier, where it does not say"
    )
    parser.add_argument(
        "--data.text_form", dest="text_form", choices=("single", "pair"), help="of its texts, likewise"
    )
    parser.add_argument(
        "--to", type=Path, help=f"folder to write (default: {EXPORTED} in the folder of the run)"
    )
    parser.add_argument(
        "--max_f1_loss",
        type=float,
        default=MAX_F1_LOSS,
        metavar="POINTS",
        help=f"hundredths of macro F1 that {', '.join(lossy)} may lose; it is left out "
        "unless the validation rows show, with the whole 95 %% interval of the loss, that it does not lose "
        f"more (default {MAX_F1_LOSS:g})",
    )
    parser.add_argument("--int8_loss", type=float, help=argparse.SUPPRESS)  # its earlier name
    parser.add_argument(
        f"--{BASE}",
        dest="base_at",
        metavar="PLACE",
        help="folder or checkpoint with the weights that were frozen in the fit",
    )
    parser.add_argument(
        "--license", help="licence of the model by its identifier on the Hub, such as apache-2.0"
    )
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="then upload the folder to this model on the Hub"
    )
    parser.add_argument("--private", action="store_true", help="with --push: make it a private one")
    return parser


def export(arguments: list[str]) -> int:
    """The exit code of `export`.

    Returns:
        1 where the exact file has another label than the checkpoint for a row.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.int8_loss is not None:
        print("note       --int8_loss is now --max_f1_loss; the old name will go", file=sys.stderr)
        args.max_f1_loss = args.int8_loss
    if not args.max_f1_loss >= 0:
        parser.error(f"--max_f1_loss is {args.max_f1_loss}; expected points of macro F1, at least 0")
    if args.private and not args.push:
        parser.error("--private is for --push")
    if args.push:
        check_name(args.push)
    for module in sorted({package for each in FORMATS for package in each.packages}):
        require_package(module, "export")
    checkpoint = Checkpoint.open(find_checkpoint(args.ckpt_path, Asked(args.task, args.text_form)))
    if (args.task or args.text_form) and not checkpoint.facts.is_published:
        parser.error(
            "--data.task and --data.text_form are for a classifier that somebody else trained: "
            f"{checkpoint.path} knows both"
        )
    if args.base_at and not checkpoint.model.trains_part:
        parser.error(f"--{BASE} would change nothing: {checkpoint.path} has all of its weights")
    rows = proof_rows(checkpoint)
    target = (args.to or checkpoint.run / EXPORTED).resolve()  # `.` and links cannot be renamed
    check_target(target)
    try:
        with new_folder(target) as partial:
            command = shown(arguments)
            kept = write(checkpoint, rows, partial, args.max_f1_loss, command, args.license, args.base_at)
    except ProofError as error:
        print(f"lit_bert export: {error}", file=sys.stderr)
        return 1
    left_out = ", ".join(each.file for each in FORMATS if each.file not in kept)
    print(f"\n{target}" + (f", without {left_out}" if left_out else ""))
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


PARSERS = {"export": _parser}
