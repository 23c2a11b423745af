"""The table of formats: files of an exported folder that label texts by themselves, beside transformers' own.

A format is a function that writes its file and one that opens it for the proof; both are named here and only
imported when a folder is made, as the predictor, which reads this table, needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lit_bert.data.padding import padded_inputs
from lit_bert.io.texts import Text


class CannotExport(Exception):
    """A network has no file of a format; the message says why."""


@dataclass(frozen=True)
class Exportable:
    """What a format is made of.

    Attributes:
        network: a classifier of transformers, in 32 bits on the CPU.
        token_ids: of some texts like those that it will see.
        token_type_ids: of the same texts, where they are pairs and the network tells segments apart.
    """

    network: Any
    token_ids: Sequence[list[int]]
    token_type_ids: Sequence[list[int]] | None = None

    @property
    def batches(self) -> list[dict[str, np.ndarray]]:
        """Each of the texts as what the network takes, int64 (1, T)."""
        if self.token_type_ids is None:
            return [padded_inputs([ids]) for ids in self.token_ids]
        both = zip(self.token_ids, self.token_type_ids, strict=True)
        return [padded_inputs([ids], token_type_ids=[types]) for ids, types in both]


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        file: its name in the folder.
        writer: `module:function` of lit_bert.product, from an `Exportable` and the file to nothing.
        opener: likewise, from the folder and the name of the file to a function from texts to probabilities
            (N, C).
        is_exact: whether it has to give each label of the checkpoint; else it may lose some macro F1, and is
            left out where it loses more.
        preference: of the files that a folder has, the Predictor runs that of the highest; None is a file for
            other programs.
        packages: that writing and opening it need, of the extra `export`.
    """

    file: str
    writer: str
    opener: str = "predictor:outputs_of"
    is_exact: bool = False
    preference: int | None = None
    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: Exportable, folder: Path) -> None:
        """Writes the file into the folder.

        Raises:
            CannotExport: the network has none of this format.
        """
        _function(self.writer)(model, folder / self.file)

    def open(self, folder: Path) -> Callable[[Sequence[Text]], np.ndarray]:
        """The file as people will use it."""
        return _function(self.opener)(folder, self.file)


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(import_module(f"lit_bert.product.{module}"), function)


ONNX, ONNX_INT8 = "model.onnx", "model.int8.onnx"

FORMATS = (
    Format(ONNX, writer="onnx:write_float32_file", is_exact=True, preference=1),
    Format(ONNX_INT8, writer="onnx:write_int8_file", preference=2),
)


def predictor_files() -> list[str]:
    """Names of the files that the Predictor can run, the one that it takes first."""
    by_preference = {each.preference: each.file for each in FORMATS if each.preference is not None}
    return [by_preference[preference] for preference in sorted(by_preference, reverse=True)]
