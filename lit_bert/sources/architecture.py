"""What a config.json may say of a network: known keys with values in bounds.

Nothing in a folder of weights is trusted; transformers is given checked values alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from lit_bert import UserError
from lit_bert.encoders.config import Architecture
from lit_bert.encoders.table import ENCODERS
from lit_bert.io import escape
from lit_bert.io.texts import CONFIG_KEY as TEXT_KEY
from lit_bert.task.kinds import CONFIG_KEY, LONG_TEXTS_KEY, PARAMETERS_KEY

# Keys that must have one of these values, and need not go on.
ONLY: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
WITHOUT_EFFECT = {  # on a classifier made of these weights
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "id2label"),
    *("label2id", "num_labels", "problem_type", "finetuning_task", "gradient_checkpointing", "output_past"),
    *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16", "prefix"),
    *("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
    *("directionality", "pooler_type", "pooler_fc_size", "pooler_num_attention_heads"),
    *("pooler_num_fc_layers", "pooler_size_per_head", "task_specific_params", "_commit_hash"),
    *("_attn_implementation_autoset", "model_max_length", "tokenizer_class"),
    *(CONFIG_KEY, PARAMETERS_KEY, TEXT_KEY, LONG_TEXTS_KEY),
}
_said: set[str] = set()  # each note once a process


def checked_architecture(mapping: dict[str, Any], what: str) -> Architecture:
    """What a mapping says of the network, without labels and all that does not make it.

    Keys that are not known are left out, which is said on stderr.

    Args:
        mapping: from a config.json, or what a checkpoint keeps of one.
        what: its name in messages.

    Raises:
        UserError: it describes something else than an encoder of a known type, or a value has another type,
            is out of bounds, or does not fit the others.
    """
    schema = _schema(mapping, what)
    name = str(mapping["model_type"])
    for key, allowed in ONLY.items():
        if key in schema.model_fields or key in schema.without_effect or key not in mapping:
            continue
        value = mapping[key]
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise UserError(
                f"{what} has {key} {escape.line(repr(value), 80)}; lit_bert trains encoders for which it is "
                f"{allowed[0]!r} or left out. Give other weights."
            )
    try:
        found = schema.model_validate({key: mapping[key] for key in mapping if key in schema.model_fields})
    except ValidationError as error:
        key = str(error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"][0])
        raise UserError(
            f"{what} has {key} {escape.line(repr(mapping[key]), 80)}, which no {name} has that lit_bert "
            "trains. Give other weights, or put it right."
        ) from None
    if problem := found.problem():
        raise UserError(f"{what} has {problem}. Give other weights, or put it right.")
    known = schema.model_fields.keys() | ONLY.keys() | WITHOUT_EFFECT | schema.without_effect
    unknown = sorted(str(key) for key in mapping.keys() - known)
    if unknown:
        note_once(f"{what}: {', '.join(unknown)} not used; neither code nor unknown settings are taken.")
    return found


def _schema(mapping: dict[str, Any], what: str) -> type[Architecture]:
    """The schema of the model_type that a mapping names.

    Raises:
        UserError: there is none; says what kind of model it is, and what would work.
    """
    kind = mapping.get("model_type")
    if isinstance(kind, str) and kind in ENCODERS:
        return ENCODERS[kind].config
    shown = escape.line(repr(kind), 80)
    works = f"expected an encoder: {', '.join(sorted(ENCODERS))}. Give such weights"
    if "auto_map" in mapping:
        raise UserError(
            f"{what} describes a model of type {shown} by code from its folder (auto_map), which lit_bert "
            f"does not run; {works}, such as FacebookAI/roberta-base."
        )
    described = _described(kind) if isinstance(kind, str) else ""
    raise UserError(
        f"{what} describes a model of type {shown}{described}; {works}, such as FacebookAI/roberta-base."
    )


def _described(kind: str) -> str:
    """What transformers uses a type of model for that is no encoder of texts, in brackets."""
    from transformers.models.auto import modeling_auto as auto

    uses: list[tuple[Iterable[str], str]] = [
        (auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, "it reads one text and writes another"),
        (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, "it reads pictures"),
        (auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "it reads pictures"),
        (auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, "it reads sound"),
        (auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "an encoder that lit_bert has no schema for"),
        (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "a decoder, which writes text"),
    ]
    return next((f" ({use})" for types, use in uses if kind in types), "")


def note_once(note: str) -> None:
    """Prints a note on stderr, the first time that it is the case in this process."""
    if note not in _said:
        _said.add(note)
        print(f"note       {escape.line(note, 500)}", file=sys.stderr)
