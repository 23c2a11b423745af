"""The verb `report`: one run as a page, two runs compared, several seeds summed up.

python -m lit_bert report checkpoints/version_0 checkpoints/version_1
"""

from __future__ import annotations

import sys
from pathlib import Path

from lit_bert import UserError
from lit_bert.cli.arguments import Parser
from lit_bert.data.writer import RowWriter
from lit_bert.evaluate.predictions import TESTED, VALIDATED, Predictions
from lit_bert.evaluate.report import (
    SEEDS,
    comparison_table,
    newest,
    predictions_of,
    seeds_table,
    write_disagreements,
)


def _parser() -> Parser:
    parser = Parser(
        "python -m lit_bert report",
        description="One run: an HTML page with its scores, errors and suspected label errors. Two runs: "
        "their differences on the same rows. A folder of `fit --seeds`: mean, spread and every run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, help="one or two folders of runs; none is the newest fit"
    )
    parser.add_argument(
        "--split", choices=("validate", "test"), default="validate", help="the verb whose predictions to read"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="one run: the page (RUN/report.html); two: a CSV, TSV, JSON Lines or Parquet file of the rows "
        "that they label differently",
    )
    parser.add_argument(
        "--columns",
        type=Path,
        help="one run: the file with the rows that were scored, whose other columns are looked at, too, for "
        "groups of rows that are wrong more often",
    )
    return parser


def report(arguments: list[str]) -> int:
    """The exit code of `report`."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if len(args.runs) > 2:
        parser.error(f"got {len(args.runs)} runs; expected one or two")
    file = VALIDATED if args.split == "validate" else TESTED
    runs = args.runs or [newest(file)]
    if args.columns and (len(runs) > 1 or (runs[0] / SEEDS).is_file()):
        raise UserError("--columns is for the report of one run; name one, or leave it out.")
    seeds = [run for run in runs if (run / SEEDS).is_file()]
    if seeds and len(runs) > 1:
        raise UserError(f"{seeds[0]} holds several runs; name one of them, as in {seeds[0] / 'seed_0'}.")
    if seeds:
        print(seeds_table(seeds[0], file))
    elif len(runs) == 2:
        first, second = (Predictions.read(predictions_of(run, file)) for run in runs)
        first.check_same_rows(second)
        if args.output:
            with RowWriter(args.output) as writer:  # opened first: what cannot be written shows at once
                write_disagreements(first, second, writer)
        print(comparison_table(first, second, names=[str(run) for run in runs]))
        if args.output:
            print(f"{args.output} has all of the rows that they label differently", file=sys.stderr)
    else:
        from lit_bert.evaluate.page import write_page

        print(write_page(predictions_of(runs[0], file), args.output, args.columns))
    return 0


PARSERS = {"report": _parser}
