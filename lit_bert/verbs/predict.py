"""The verb `predict`: label texts."""

from __future__ import annotations

from functools import partial

from lit_bert.cli.predict import Predict
from lit_bert.verbs.evaluate import from_checkpoint


def predict(arguments: list[str]) -> int:
    texts = []
    while arguments and not arguments[0].startswith("--") and arguments[0] not in ("-h", "-c"):
        texts.append(arguments[0])
        arguments = arguments[1:]
    return from_checkpoint(partial(Predict, texts=texts), arguments)
