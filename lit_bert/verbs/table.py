"""The table of verbs. Nothing heavy is imported here, so that help and mistakes are answered at once."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One row of the table: `function` of `module` takes the other arguments and gives the exit code."""

    module: str
    function: str
    help: str


VERBS = {
    "init": Verb("init", "init", "look at labelled text and write a configuration for it, with reasons"),
    "label": Verb(
        "label", "label", "ask people for the labels that teach most, in the terminal or on a page"
    ),
    "fit": Verb("fit", "fit", "train on labelled text; without --config this is configs/base.yaml"),
    "validate": Verb("evaluate", "validate", "score a checkpoint on the validation split"),
    "test": Verb("evaluate", "test", "score a checkpoint on the test split"),
    "report": Verb(
        "report", "report", "errors of a run as a web page; two runs compared; several seeds summed up"
    ),
    "audit": Verb("audit", "audit", "show repeated, contradictory and mislabelled rows of labelled text"),
    "predict": Verb("predict", "predict", "label texts from the command line, standard input or a file"),
    "drift": Verb("drift", "drift", "compare new texts with those that a model was validated on"),
    "export": Verb("export", "export", "a folder for other programs: transformers, ONNX, the Hub"),
    "serve": Verb("serve", "serve", "answer over HTTP from an exported folder, with a page to try it"),
    "completion": Verb(
        "completion", "completion", "what a shell needs to complete verbs, flags and their values"
    ),
}
