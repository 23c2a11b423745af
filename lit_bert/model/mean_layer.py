"""One more layer, after which the state of the first token is the mean of all tokens of the text.

Encoders of sentences are trained to have the meaning of a text in the mean of its tokens; the classifiers
of transformers read the first token alone. A layer of the encoder's own kind can compute the mean: keys of 0
make its attention uniform, its values are the states themselves, and the state that the mean is added to is
made small beside it by a factor, which the norm that follows takes out again. So the network stays one that
every tool loads, with one layer more.

    python -m lit_bert fit --method frozen --data.dataset reviews.csv
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from lit_bert.encoders.table import encoder_of

LEAD = 1024.0  # of the mean over the state of the first token, which the layer adds to it
SLOPE = 0.3  # of the head's layer before the logits: states of size 1 stay where its activation is steep


def can_add_mean_layer(network: Any) -> bool:
    """Whether a layer of the network can compute a mean: one of BERT's structure, with weights of its own."""
    encoder = encoder_of(network)
    if encoder.blocks is None or encoder.head_dense is None or not encoder.has_parts(network):
        return False
    return encoder.parts_of(network).bias is None  # added to the scores of attention: not uniform


def add_mean_layer(network: Any) -> None:
    """Adds the layer to a network that `can_add_mean_layer`, and has the head start near the identity."""
    encoder = encoder_of(network)
    blocks = network.get_submodule(f"{encoder.base}.{encoder.blocks}")
    blocks.append(copy.deepcopy(blocks[-1]))
    network.config.num_hidden_layers += 1
    layer = encoder.parts_of(network).layers[-1]
    dense: Any = network.get_submodule(encoder.head_dense)
    identity = torch.eye(network.config.hidden_size, device=dense.weight.device)
    with torch.no_grad():
        for linear in (layer.query, layer.key, layer.value, layer.attended, layer.up, layer.down, dense):
            linear.bias.zero_()
        for norm in (layer.attended_norm, layer.norm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        layer.key.weight.zero_()
        layer.value.weight.copy_(identity)
        layer.attended.weight.copy_(LEAD * identity)
        layer.down.weight.zero_()
        dense.weight.copy_(SLOPE * identity)
        dense.bias.fill_(encoder.head_shift)
