"""What an architecture says of itself, so that no other module has to know the names of its parts.

A network is a classifier of transformers: a base (embeddings, layers) below a head. Most architectures are
BERT's structure with other names; those say where its parts are (`Parts`), and so run on a CPU in fewer
operations (`bert.CpuBert`) and are exported as a short graph (`graph.Graph`).

A new type of encoder needs an entry in ENCODERS and a schema in `sources.encoder_configs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lit_bert.model.parts import Embeddings, Layer, Parts

RELATIVE_BIAS = "relative_attention_bias.weight"  # a table of what is added to the scores of attention
_HAS_PARTS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Encoder:
    """What an architecture says of itself. Places are dotted names, as in the names of parameters.

    Attributes:
        model_type: as transformers calls it.
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
        learning_rate: the upper end of what its authors fine-tune 12 layers of 768 with.
        parts: of a network, where it has BERT's structure; None where it has not.
        fast: whether `CpuBert` computes it.
        mask_token: what pretraining has put in the place of words.
    """

    model_type: str
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
    learning_rate: float = 5e-5
    parts: Callable[[Any], Parts] | None = None
    fast: bool = True
    mask_token: str = "[MASK]"

    def base_of(self, network: nn.Module) -> nn.Module:
        return network.get_submodule(self.base)

    def words_of(self, network: nn.Module) -> nn.Embedding:
        found = network.get_submodule(f"{self.base}.{self.words}")
        assert isinstance(found, nn.Embedding)
        return found

    def layers_of(self, network: nn.Module) -> nn.Module:
        return network.get_submodule(f"{self.base}.{self.layers}")

    def has_parts(self, network: Any) -> bool:
        """Whether `parts` holds every parameter of the network below its head.

        What it left out would be missing from the fast path and from the exported graph: wrong numbers. It is
        looked for once a network.
        """
        if self.parts is None:
            return False
        if network not in _HAS_PARTS:
            parts = self.parts(network)
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


def encoder_of(network: Any) -> Encoder:
    """That of a network of transformers."""
    return ENCODERS[network.config.model_type]


def exact_logits(network: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Logits (B, C) by the modules of transformers, the last linear layer in the precision of its weights.

    Under autocast, too: a temperature in weights of 32 bits then divides exactly.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if not torch.is_autocast_enabled(input_ids.device.type):
        return network(**inputs).logits
    linear, seen = encoder_of(network).logits_of(network), list[Tensor]()
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        network(**inputs)
    finally:
        hook.remove()
    with torch.autocast(input_ids.device.type, enabled=False):
        return linear(seen[-1].to(linear.weight.dtype))


# --- where the parts are ---


def _of_bert(network: Any) -> Parts:
    """BERT and those who took over its modules: RoBERTa, XLM-R, CamemBERT, ELECTRA."""
    encoder = encoder_of(network)
    base: Any = encoder.base_of(network)
    tables, first = base.embeddings, base.encoder.layer[0]

    def head(first_states: Tensor) -> Tensor:
        if encoder.pooler is None:
            return network.classifier(first_states[:, None])  # reads the first token of each text
        pooled = base.pooler.activation(base.pooler.dense(first_states))
        return network.classifier(network.dropout(pooled))

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            tables.token_type_embeddings,
            tables.LayerNorm,
            tables.position_embeddings.padding_idx,
            getattr(base, "embeddings_project", None),
        ),
        [
            Layer(
                *(each.attention.self.query, each.attention.self.key, each.attention.self.value),
                *(each.attention.output.dense, each.attention.output.LayerNorm),
                *(each.intermediate.dense, each.output.dense, each.output.LayerNorm),
            )
            for each in base.encoder.layer
        ],
        first.intermediate.intermediate_act_fn,
        network.config.num_attention_heads,
        (tables.dropout.p, first.attention.self.dropout.p),
        head,
    )


def _of_distilbert(network: Any) -> Parts:
    base = network.distilbert
    tables, first = base.embeddings, base.transformer.layer[0]

    def head(first_states: Tensor) -> Tensor:
        return network.classifier(network.dropout(network.pre_classifier(first_states).relu()))

    return Parts(
        Embeddings(tables.word_embeddings, tables.position_embeddings, None, tables.LayerNorm),
        [
            Layer(
                *(each.attention.q_lin, each.attention.k_lin, each.attention.v_lin),
                *(each.attention.out_lin, each.sa_layer_norm),
                *(each.ffn.lin1, each.ffn.lin2, each.output_layer_norm),
            )
            for each in base.transformer.layer
        ],
        first.ffn.activation,
        network.config.n_heads,
        (tables.dropout.p, first.attention.dropout.p),
        head,
        drops_attended=False,
    )


def _of_albert(network: Any) -> Parts:
    base, count = network.albert, network.config.num_hidden_layers
    tables, groups = base.embeddings, base.encoder.albert_layer_groups
    order = [
        layer
        for index in range(count)
        for layer in groups[int(index / (count / len(groups)))].albert_layers  # as transformers counts them
    ]

    def head(first_states: Tensor) -> Tensor:
        return network.classifier(network.dropout(base.pooler_activation(base.pooler(first_states))))

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            tables.token_type_embeddings,
            tables.LayerNorm,
            projection=base.encoder.embedding_hidden_mapping_in,
        ),
        [
            Layer(
                *(each.attention.query, each.attention.key, each.attention.value),
                *(each.attention.dense, each.attention.LayerNorm),
                *(each.ffn, each.ffn_output, each.full_layer_layer_norm),
            )
            for each in order
        ],
        order[0].activation,
        network.config.num_attention_heads,
        (tables.dropout.p, order[0].attention.attention_dropout.p),
        head,
    )


def _of_mpnet(network: Any) -> Parts:
    base = network.mpnet
    tables, first, distances = base.embeddings, base.encoder.layer[0], base.encoder.relative_attention_bias
    places = torch.arange(network.config.max_position_embeddings)
    buckets = base.encoder.relative_position_bucket(places - places[:, None])  # (L, L)

    def bias(tokens: int) -> Tensor:
        return distances(buckets[:tokens, :tokens]).permute(2, 0, 1)

    return Parts(
        Embeddings(
            tables.word_embeddings,
            tables.position_embeddings,
            None,
            tables.LayerNorm,
            tables.padding_idx,
        ),
        [
            Layer(
                *(each.attention.attn.q, each.attention.attn.k, each.attention.attn.v),
                *(each.attention.attn.o, each.attention.LayerNorm),
                *(each.intermediate.dense, each.output.dense, each.output.LayerNorm),
            )
            for each in base.encoder.layer
        ],
        first.intermediate.intermediate_act_fn,
        network.config.num_attention_heads,
        (tables.dropout.p, first.attention.attn.dropout.p),
        lambda first_states: network.classifier(first_states[:, None]),
        bias=bias,
    )


# --- the table ---

_LIKE_ROBERTA: dict[str, Any] = {
    "logits": "classifier.out_proj",
    "learning_rate": 3e-5,  # Liu et al. (2019), appendix C
    "mask_token": "<mask>",
}
ENCODERS: Mapping[str, Encoder] = {
    each.model_type: each
    for each in (
        Encoder("bert", "bert", pooler="pooler", parts=_of_bert),
        Encoder("megatron-bert", "bert", pooler="pooler", final_norm="encoder.ln"),
        Encoder("rembert", "rembert", pooler="pooler", projection="encoder.embedding_hidden_mapping_in"),
        Encoder("roberta", "roberta", parts=_of_bert, **_LIKE_ROBERTA),
        Encoder("xlm-roberta", "roberta", parts=_of_bert, **_LIKE_ROBERTA),
        Encoder("camembert", "roberta", parts=_of_bert, **_LIKE_ROBERTA),
        Encoder("data2vec-text", "data2vec_text", parts=_of_bert, **_LIKE_ROBERTA),
        Encoder("roberta-prelayernorm", "roberta_prelayernorm", final_norm="LayerNorm", **_LIKE_ROBERTA),
        Encoder("xlm-roberta-xl", "roberta", final_norm="encoder.LayerNorm", **_LIKE_ROBERTA),
        Encoder("convbert", "convbert", projection="embeddings_project", logits="classifier.out_proj"),
        Encoder(
            "electra",
            "electra",
            projection="embeddings_project",
            logits="classifier.out_proj",
            parts=_of_bert,
        ),
        Encoder(
            "distilbert",
            "distilbert",
            layers="transformer",
            blocks="transformer.layer",
            attention=("attention.q_lin", "attention.v_lin"),
            head=("pre_classifier", "classifier"),
            parts=_of_distilbert,
        ),
        Encoder(
            "albert",
            "albert",
            blocks=None,
            projection="encoder.embedding_hidden_mapping_in",
            attention=("attention.query", "attention.value"),
            pooler="pooler",
            parts=_of_albert,
            fast=False,
        ),
        Encoder(
            "mpnet",
            "mpnet",
            attention=("attention.attn.q", "attention.attn.v"),
            logits="classifier.out_proj",
            learning_rate=3e-5,  # Song et al. (2020), section 4.1
            parts=_of_mpnet,
            fast=False,
            mask_token="<mask>",
        ),
        Encoder(
            "deberta-v2",
            "deberta",
            attention=("attention.self.query_proj", "attention.self.value_proj"),
            head=("pooler", "classifier"),
            learning_rate=4e-5,  # He et al. (2021), appendix A
        ),
        Encoder(
            "modernbert",
            "model",
            words="embeddings.tok_embeddings",
            layers="layers",
            blocks="layers",
            final_norm="final_norm",
            attention=("attn.Wqkv",),  # queries, keys and values in one product
            head=("head", "classifier"),
        ),
    )
}
