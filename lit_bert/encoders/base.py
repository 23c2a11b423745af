"""What an architecture says of itself, so that no other module has to know the names of its parts.

A network is a classifier of transformers: a base (embeddings, layers) below a head. Most architectures are
BERT's structure with other names; those say where its parts are (`Parts`), and so run on a CPU in fewer
operations (`model.bert.CpuBert`) and are exported as a short graph (`graph.Graph`). Others may bring a graph.

A new type of encoder is a module with its schema and its `Encoder`, and a row in `table.ENCODERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, get_args
from weakref import WeakKeyDictionary

from torch import nn

from lit_bert.encoders.config import Architecture
from lit_bert.encoders.parts import Embeddings, Layer, Parts

RELATIVE_BIAS = "relative_attention_bias.weight"  # a table of what is added to the scores of attention
_HAS_PARTS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Encoder:
    """What an architecture says of itself. Places are dotted names, as in the names of parameters.

    Attributes:
        config: the schema of its config.json.
        base: in the network: all below the head.
        words: in the base: the word embeddings.
        layers: in the base: all that is computed for each token after the embeddings.
        blocks: in the base: the list of its layers, in order; None where they share weights.
        projection: in the base: from the size of the embeddings to that of the layers.
        final_norm: in the base: what follows the last layer.
        attention: in a layer: the linear layers that LoRA adapts by default, of queries and values.
        head: in the network: the parts above the base, trained from nothing or nearly so.
        pooler: in the base: a part that counts to the head.
        logits: in the network: the last linear layer, which a temperature is folded into.
        head_dense: in the network: the linear layer of the head before that; None where there is none.
        head_shift: its bias where it starts near the identity, so that its activation passes it on.
        learning_rate: the upper end of what its authors fine-tune 12 layers of 768 with.
        parts: of a network, where it has BERT's structure; None where it has not.
        fast: whether `CpuBert` computes it.
        graph: of a network without parts: the module to export as ONNX, as `graph.Graph`; None where it has
            none.
        mask_token: what pretraining has put in the place of words.
    """

    config: type[Architecture]
    base: str
    words: str = "embeddings.word_embeddings"
    layers: str = "encoder"
    blocks: str | None = "encoder.layer"
    projection: str | None = None
    final_norm: str | None = None
    attention: tuple[str, ...] = ("attention.self.query", "attention.self.value")
    head: tuple[str, ...] = ("classifier",)
    pooler: str | None = None
    logits: str = "classifier"
    head_dense: str | None = None
    head_shift: float = 0.0
    learning_rate: float = 5e-5
    parts: Callable[[Any, Encoder], Parts] | None = None
    fast: bool = True
    mask_token: str = "[MASK]"
    graph: Callable[[Any], nn.Module | None] | None = None

    @property
    def model_type(self) -> str:
        """As transformers calls the type of encoder."""
        (name,) = get_args(self.config.model_fields["model_type"].annotation)
        return str(name)

    def base_of(self, network: nn.Module) -> nn.Module:
        return network.get_submodule(self.base)

    def words_of(self, network: nn.Module) -> nn.Embedding:
        found = network.get_submodule(f"{self.base}.{self.words}")
        assert isinstance(found, nn.Embedding)
        return found

    def layers_of(self, network: nn.Module) -> nn.Module:
        return network.get_submodule(f"{self.base}.{self.layers}")

    def parts_of(self, network: Any) -> Parts:
        """Those of a network that `has_parts`."""
        assert self.parts is not None, "ask has_parts first"
        return self.parts(network, self)

    def has_parts(self, network: Any) -> bool:
        """Whether `parts` holds every parameter of the network below its head.

        What it left out would be missing from the fast path and from the exported graph: wrong numbers. It is
        looked for once a network.
        """
        if self.parts is None:
            return False
        if network not in _HAS_PARTS:
            parts = self.parts_of(network)
            embeddings = [getattr(parts.embeddings, each.name) for each in fields(Embeddings)]
            modules = [
                *embeddings,
                *(getattr(layer, each.name) for layer in parts.layers for each in fields(Layer)),
            ]
            held = {
                each for module in modules if isinstance(module, nn.Module) for each in module.parameters()
            }
            _HAS_PARTS[network] = all(
                parameter in held
                or self.in_head(name)
                or (parts.bias is not None and name.endswith(RELATIVE_BIAS))  # `Parts.bias` reads it
                for name, parameter in network.named_parameters()
            )
        return _HAS_PARTS[network]

    def layer_weights(self, network: Any) -> int:
        """Values of the layers, those of shared ones counted at each use."""
        config = network.config
        uses = config.num_hidden_layers // getattr(config, "num_hidden_groups", config.num_hidden_layers)
        return uses * sum(each.numel() for each in self.layers_of(network).parameters())

    def logits_of(self, network: nn.Module) -> nn.Linear:
        found = network.get_submodule(self.logits)
        assert isinstance(found, nn.Linear)
        return found

    def in_head(self, name: str) -> bool:
        """Whether a parameter, by its name in the network, is above the encoder."""
        above = [*self.head, *([f"{self.base}.{self.pooler}"] if self.pooler else [])]
        return any(name.startswith(f"{part}.") for part in above)

    def in_logits(self, name: str) -> bool:
        """Whether a parameter, by its name in the network, is one of the last linear layer."""
        return name.startswith(f"{self.logits}.")

    def in_base(self, name: str, network: nn.Module) -> bool:
        """Whether a tensor of a file, by its name there, would belong to the encoder: it has to be known.

        Files of weights leave out the base's name, or not; position ids are no weights.
        """
        parts = "|".join(re.escape(part) for part, _ in self.base_of(network).named_children())
        match = re.match(rf"(?:{re.escape(self.base)}\.)?({parts})\.(?!(position|token_type)_ids$)", name)
        return match is not None and match[1] != self.pooler
