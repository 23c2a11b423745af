"""Pretrained values into the network: an encoder with a fresh head, or that of a checkpoint.

python -m lit_bert fit --weights.pretrained ./my-bert
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lit_bert import UserError
from lit_bert.encoders.base import Encoder
from lit_bert.encoders.table import ENCODERS
from lit_bert.io import escape
from lit_bert.sources.checkpoint import check_same_shapes
from lit_bert.sources.finite import check_weights
from lit_bert.sources.folder import read_values
from lit_bert.sources.weights import Weights
from lit_bert.task.single import SingleLabel


def load_network(
    weights: Weights, label_names: list[str], problem_type: str = SingleLabel.problem_type
) -> Any:
    """The network in 32 bit, with a fresh head unless a checkpoint of the same labels provides one.

    Draws the head from torch's global generator: seed it before.

    Returns:
        A classifier of transformers, such as BertForSequenceClassification, in training mode.

    Raises:
        UserError: the weights cannot be read, lack tensors or are not finite.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    architecture = weights.architecture
    encoder = ENCODERS[architecture["model_type"]]
    config = CONFIG_MAPPING[encoder.model_type].from_dict(
        {
            **architecture,
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
            "problem_type": problem_type,
        }
    )
    make = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    try:
        with torch.device("meta"):  # names and shapes alone: what it would take is not known to be there
            expected = make(config)
    except Exception as error:  # values that fit their bounds and not each other
        raise UserError(
            f"{weights.source.name} describes a {encoder.model_type} that transformers cannot build "
            f"({type(error).__name__}: {escape.line(error, 200)}). Give other weights."
        ) from None
    if weights.checkpoint:
        known = weights.checkpoint.model.label_names
        same_classes = sorted(label_names) == sorted(known)
        state = {
            name.removeprefix("network."): value for name, value in weights.checkpoint.state_dict.items()
        }
        found, wanted = (
            {name: value for name, value in some.items() if same_classes or not encoder.in_logits(name)}
            for some in (state, expected.state_dict())
        )
        check_same_shapes(found, wanted, str(weights.checkpoint.path))
        network = make(config)
        missing, _ = network.load_state_dict(found, strict=False)
        if same_classes and known != label_names:
            _fit_classes(encoder.logits_of(network), known, label_names, config.initializer_range)
    else:
        folder_labels = weights.folder_labels
        network, missing = _from_folder(weights, encoder, make, config, expected)
        if folder_labels != label_names and not any(encoder.in_logits(name) for name in missing):
            _fit_classes(encoder.logits_of(network), folder_labels, label_names, config.initializer_range)
    lost = [name for name in missing if not encoder.in_head(name)]
    if lost:
        raise UserError(
            f"{weights.source.name} lacks {len(lost)} tensors of its architecture, {lost[0]} for one: "
            "these are not the weights that config.json describes."
        )
    check_weights([*network.named_parameters(), *network.named_buffers()], weights.source)
    return network.train()  # from_pretrained leaves it in eval mode, where dropout does nothing


def _from_folder(
    weights: Weights, encoder: Encoder, make: Any, config: Any, expected: nn.Module
) -> tuple[Any, list[str]]:
    """The network with the values of a folder, and the names of those that were drawn anew."""
    from transformers.utils import logging

    needed = sum(each.numel() for name, each in expected.named_parameters() if not encoder.in_head(name))
    values = read_values(weights.folder, needed)
    # Its report on newly drawn weights is ours to check, and its bar would show at every start.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # Values alone: of a folder, transformers would read other files too, and what those name.
        network, info = make.from_pretrained(
            None,
            config=config,
            state_dict=values,
            dtype="float32",
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # a head of other classes; the rest is checked by the caller
        )
    except Exception as error:  # advice of libraries is for programmers, and may harm: it stays here
        raise UserError(
            f"the weights in {weights.folder} cannot be read: they do not fit config.json "
            f"({type(error).__name__}). Copy the folder again."
        ) from error
    # Heads of other tasks are left behind; a part of the network itself is not, as what is left would
    # be another network: of fewer layers, or without relative positions.
    extra = [name for name in sorted(info["unexpected_keys"]) if encoder.in_base(name, network)]
    if extra:
        raise UserError(
            f"{weights.source.name} has {len(extra)} tensors that its architecture lacks, "
            f"{escape.line(extra[0], 80)} for one: these are not the weights that config.json "
            "describes."
        )
    return network, [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]


def _fit_classes(
    logits: nn.Linear, folder_labels: list[str], label_names: list[str], deviation: float
) -> None:
    """Puts the rows of a folder's last layer into our order, or draws them anew for other classes."""
    if sorted(folder_labels) == sorted(label_names):  # the same classes in another order
        order = [folder_labels.index(name) for name in label_names]
        with torch.no_grad():
            for parameter in logits.parameters():
                parameter.copy_(parameter[order])
    else:  # a head for as many classes, but of another task
        nn.init.normal_(logits.weight, std=deviation)
        if logits.bias is not None:
            nn.init.zeros_(logits.bias)
