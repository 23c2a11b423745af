"""What a config.json may say of a network: known keys with values in bounds.

Nothing in a folder of weights is trusted; transformers is given checked values alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from lit_bert import UserError
from lit_bert.io import escape, tokenizers

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")
# What a BERT is built from, with the values that make sense, and those that another kind of BERT would have.
ARCHITECTURE: dict[str, Callable[[Any], bool]] = {
    "model_type": lambda value: value == "bert",
    "vocab_size": lambda value: is_whole(value, 1, tokenizers.MOST_TOKENS),
    "hidden_size": lambda value: is_whole(value, 1, 1 << 14),
    "num_hidden_layers": lambda value: is_whole(value, 1, 256),
    "num_attention_heads": lambda value: is_whole(value, 1, 256),
    "intermediate_size": lambda value: is_whole(value, 1, 1 << 17),
    "hidden_act": lambda value: value in ACTIVATIONS,
    "hidden_dropout_prob": lambda value: is_number(value, 0, 1),
    "attention_probs_dropout_prob": lambda value: is_number(value, 0, 1),
    "classifier_dropout": lambda value: value is None or is_number(value, 0, 1),
    "max_position_embeddings": lambda value: is_whole(value, 3, 1 << 17),
    "type_vocab_size": lambda value: is_whole(value, 1, 1 << 10),
    "initializer_range": lambda value: is_number(value, 0, 10),
    "layer_norm_eps": lambda value: is_number(value, 0, 1),
    "pad_token_id": lambda value: value is None or is_whole(value, 0, tokenizers.MOST_TOKENS),
    "use_cache": lambda value: isinstance(value, bool),
    "tie_word_embeddings": lambda value: isinstance(value, bool),
    "is_decoder": lambda value: value is False,
    "add_cross_attention": lambda value: value is False,
}
REALS = ("initializer_range", "layer_norm_eps")  # floats to BertConfig; JSON may write 0 or 1 without a point
ONLY: dict[str, tuple[Any, ...]] = {  # keys that must have these values, and need not go on
    "position_embedding_type": ("absolute",),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "is_encoder_decoder": (False,),
}
WITHOUT_EFFECT = {  # on a classifier made of these weights
    *(
        "_name_or_path",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "id2label",
        "label2id",
    ),
    *(
        "num_labels",
        "problem_type",
        "finetuning_task",
        "gradient_checkpointing",
        "output_past",
        "return_dict",
    ),
    *("output_attentions", "output_hidden_states", "torchscript", "use_bfloat16", "bos_token_id"),
    *("eos_token_id", "sep_token_id", "decoder_start_token_id", "directionality", "pooler_type"),
    *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head"),
    *("prefix", "task_specific_params", "_commit_hash", "_attn_implementation_autoset"),
}
_said: set[str] = set()  # each note once a process


def checked_architecture(mapping: dict[str, Any], what: str) -> dict[str, Any]:
    """The plain, bounded values of a BertConfig, without labels and all that does not make the network.

    Keys that are not known are left out, which is said on stderr.

    Args:
        mapping: from a config.json, or what a checkpoint keeps of one.
        what: its name in messages.

    Raises:
        UserError: a value has another type, is out of bounds, or makes a network that is not a plain BERT.
    """
    checked = {}
    for key, value in mapping.items():
        if key in ARCHITECTURE:
            if not ARCHITECTURE[key](value):
                raise UserError(
                    f"{what} has {key} {escape.line(repr(value), 80)}, which no BERT has that lit_bert "
                    "trains. Give other weights, or put it right."
                )
            checked[key] = float(value) if key in REALS else value
        elif key in ONLY and not any(type(value) is type(each) and value == each for each in ONLY[key]):
            raise UserError(
                f"{what} has {key} {escape.line(repr(value), 80)}; lit_bert trains BERTs for which it is "
                f"{ONLY[key][0]!r} or left out. Give other weights."
            )
    heads, hidden = checked.get("num_attention_heads", 12), checked.get("hidden_size", 768)
    if hidden % heads:
        raise UserError(
            f"{what} has {heads} attention heads for a hidden_size of {hidden}; expected num_attention_heads "
            "to divide it."
        )
    unknown = sorted(str(key) for key in mapping.keys() - ARCHITECTURE.keys() - ONLY.keys() - WITHOUT_EFFECT)
    if unknown:
        note_once(f"{what}: {', '.join(unknown)} not used; neither code nor unknown settings are taken.")
    return checked


def parameter_count(architecture: dict[str, Any]) -> int:
    """Values of a BERT of that architecture, without pooler and head: what has to be in its weights file."""
    get = architecture.get
    H, F = get("hidden_size", 768), get("intermediate_size", 3072)
    rows = get("vocab_size", 30522) + get("max_position_embeddings", 512) + get("type_vocab_size", 2)
    layer = 4 * (H * H + H) + (H * F + F) + (F * H + H) + 4 * H
    return int(rows * H + 2 * H + get("num_hidden_layers", 12) * layer)


def is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def note_once(note: str) -> None:
    if note not in _said:
        _said.add(note)
        print(f"note       {escape.line(note, 500)}", file=sys.stderr)
