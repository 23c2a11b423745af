"""Pretrained values into the network: a BERT with a fresh head, or that of a checkpoint.

python -m lit_bert fit --weights.pretrained ./my-bert
"""

from __future__ import annotations

import re

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.sources.architecture import parameter_count
from lit_bert.sources.checkpoint import check_same_shapes
from lit_bert.sources.finite import check_weights
from lit_bert.sources.folder import read_values
from lit_bert.sources.weights import Weights

_OF_THE_NETWORK = re.compile(r"(bert\.)?(encoder|embeddings)\.(?!(position|token_type)_ids$)")


def load_network(weights: Weights, label_names: list[str]) -> BertForSequenceClassification:
    """The network in 32 bit, with a fresh head unless a checkpoint of the same labels provides one.

    Draws the head from torch's global generator: seed it before.

    Raises:
        UserError: the weights cannot be read, lack tensors or are not finite.
    """
    from transformers import BertForSequenceClassification

    config = BertConfig.from_dict(
        {
            **weights.architecture,
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
            "problem_type": "single_label_classification",
        }
    )
    if weights.checkpoint:
        same_classes = label_names == weights.checkpoint.model.label_names
        with torch.device("meta"):  # its shapes alone: what it would take is not known to be there
            expected = BertForSequenceClassification(config).state_dict()
        state = {
            name.removeprefix("network."): value
            for name, value in weights.checkpoint.state_dict.items()
            if same_classes or not name.startswith("network.classifier.")
        }
        wanted = {
            name: value
            for name, value in expected.items()
            if same_classes or not name.startswith("classifier.")
        }
        check_same_shapes(state, wanted, str(weights.checkpoint.path))
        network = BertForSequenceClassification(config)
        missing, _ = network.load_state_dict(state, strict=False)
    else:
        values = read_values(weights.folder, parameter_count(weights.architecture))
        # Its report on newly drawn weights is ours to check, and its bar would show at every start.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        folder_labels = weights.folder_labels
        try:
            # Values alone: of a folder, transformers would read other files too, and what those name.
            network, info = BertForSequenceClassification.from_pretrained(
                None,
                config=config,
                state_dict=values,
                dtype="float32",
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # a head of other classes; the rest is checked below
            )
        except Exception as error:  # advice of libraries is for programmers, and may harm: it stays here
            raise UserError(
                f"the weights in {weights.folder} cannot be read: they do not fit config.json "
                f"({type(error).__name__}). Copy the folder again."
            ) from error
        missing = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
        # Heads of other tasks are left behind; a part of the network itself is not, as what is left would
        # be another network: of fewer layers, or without relative positions.
        extra = [name for name in sorted(info["unexpected_keys"]) if _OF_THE_NETWORK.match(name)]
        if extra:
            raise UserError(
                f"{weights.source.name} has {len(extra)} tensors that its architecture lacks, "
                f"{escape.line(extra[0], 80)} for one: these are not the weights that config.json "
                "describes."
            )
        if "classifier.weight" not in missing and folder_labels != label_names:
            if sorted(folder_labels) == sorted(label_names):  # the same classes in another order
                order = [folder_labels.index(name) for name in label_names]
                with torch.no_grad():
                    network.classifier.weight.copy_(network.classifier.weight[order])
                    network.classifier.bias.copy_(network.classifier.bias[order])
            else:  # a head for as many classes, but of another task
                torch.nn.init.normal_(network.classifier.weight, std=config.initializer_range)
                torch.nn.init.zeros_(network.classifier.bias)
    lost = [name for name in missing if not name.startswith(("classifier.", "bert.pooler."))]
    if lost:
        raise UserError(
            f"{weights.source.name} lacks {len(lost)} tensors of its architecture, {lost[0]} for one: "
            "these are not the weights that config.json describes."
        )
    check_weights([*network.named_parameters(), *network.named_buffers()], weights.source)
    return network.train()  # from_pretrained leaves it in eval mode, where dropout does nothing
