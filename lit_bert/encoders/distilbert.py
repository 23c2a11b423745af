"""DistilBERT (Sanh et al., 2019)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lit_bert.encoders.base import Encoder
from lit_bert.encoders.config import Activation, Architecture, Count, InnerWidth, Probability, Width
from lit_bert.encoders.parts import Embeddings, Layer, Parts


class DistilBert(Architecture):
    """DistilBertConfig. Sinusoidal positions, too, stand in the weights."""

    without_effect = frozenset({"sinusoidal_pos_embds", "qa_dropout", "tie_weights_"})
    sizes = ("n_heads", "dim")
    model_type: Literal["distilbert"]
    dim: Width = 768
    n_layers: Count = 6
    n_heads: Count = 12
    hidden_dim: InnerWidth = 3072
    activation: Activation = "gelu"
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    seq_classif_dropout: Probability = 0.2


def _parts(network: Any, encoder: Encoder) -> Parts:
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


DISTILBERT = Encoder(
    DistilBert,
    "distilbert",
    layers="transformer",
    blocks="transformer.layer",
    attention=("attention.q_lin", "attention.v_lin"),
    head=("pre_classifier", "classifier"),
    head_dense="pre_classifier",
    head_shift=1.0,  # a ReLU follows
    parts=_parts,
)
