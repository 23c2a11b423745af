"""Pretrained weights as transformers saves them: what their files may say, and how they are read.

The first step of the journey, after sources.py has found the folder. Nothing in it is trusted: names of
files, settings and sizes are compared with what a BERT has, and transformers is given checked values alone.

    python -m lit_bert fit --data.dataset reviews.csv --weights.pretrained ./my-bert
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_bert import UserError, escape, untrusted

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")  # of weights that are whole
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")
# What a BERT is built from, with the values that make sense, and those that another kind of BERT would have.
ARCHITECTURE: dict[str, Callable[[Any], bool]] = {
    "model_type": lambda value: value == "bert",
    "vocab_size": lambda value: _is_whole(value, 1, untrusted.MOST_TOKENS),
    "hidden_size": lambda value: _is_whole(value, 1, 1 << 14),
    "num_hidden_layers": lambda value: _is_whole(value, 1, 256),
    "num_attention_heads": lambda value: _is_whole(value, 1, 256),
    "intermediate_size": lambda value: _is_whole(value, 1, 1 << 17),
    "hidden_act": lambda value: value in ACTIVATIONS,
    "hidden_dropout_prob": lambda value: _is_number(value, 0, 1),
    "attention_probs_dropout_prob": lambda value: _is_number(value, 0, 1),
    "classifier_dropout": lambda value: value is None or _is_number(value, 0, 1),
    "max_position_embeddings": lambda value: _is_whole(value, 3, 1 << 17),
    "type_vocab_size": lambda value: _is_whole(value, 1, 1 << 10),
    "initializer_range": lambda value: _is_number(value, 0, 10),
    "layer_norm_eps": lambda value: _is_number(value, 0, 1),
    "pad_token_id": lambda value: value is None or _is_whole(value, 0, untrusted.MOST_TOKENS),
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
        _say_once(f"{what}: {', '.join(unknown)} not used; neither code nor unknown settings are taken.")
    return checked


def parameter_count(architecture: dict[str, Any]) -> int:
    """Values of a BERT of that architecture, without pooler and head: what has to be in its weights file."""
    get = architecture.get
    H, F = get("hidden_size", 768), get("intermediate_size", 3072)
    rows = get("vocab_size", 30522) + get("max_position_embeddings", 512) + get("type_vocab_size", 2)
    layer = 4 * (H * H + H) + (H * F + F) + (F * H + H) + 4 * H
    return int(rows * H + 2 * H + get("num_hidden_layers", 12) * layer)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _say_once(note: str) -> None:
    if note not in _said:
        _said.add(note)
        print(f"note       {escape.line(note, 500)}", file=sys.stderr)


def read_values(folder: Path, expected: int) -> dict[str, Any]:
    """The tensors of a folder by their names, of the first of WEIGHT_FILES that is there.

    Args:
        expected: values that config.json describes; a file of fewer bytes is refused before memory is taken.

    Raises:
        UserError: a file is damaged, leads out of the folder, holds more than tensors, or too little.
    """
    name = next(name for name in WEIGHT_FILES if (folder / name).is_file())
    files = _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    size = 0
    for file in files:
        try:
            with untrusted.open_regular(file) as stream:
                size += os.fstat(stream.fileno()).st_size
            if file.suffix == ".safetensors":
                untrusted.check_safetensors(file)
        except UserError as error:
            raise UserError(f"the weights in {folder} cannot be read ({error}).") from None
    if expected > size:
        raise UserError(
            f"the weights in {folder} have {size:,} bytes, too few for the {expected:,} values that "
            "config.json describes: these are not the weights of that config.json."
        )
    values: dict[str, Any] = {}
    for file in files:
        part = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
        for name, value in part.items():
            odd = str(value.dtype) not in FLOATS and not name.endswith("_ids")
            if odd or name in values:
                raise UserError(
                    f"the weights in {folder} cannot be read: {escape.line(name, 80)} is "
                    + (
                        f"of type {value.dtype}; expected one of {', '.join(FLOATS)}."
                        if odd
                        else "there twice."
                    )
                )
        values.update(part)
    return values


def _shards(index: Path) -> list[Path]:
    """The files that an index names: beside it, and called as transformers calls them."""
    names = untrusted.read_object(index).get("weight_map")
    suffix = "safetensors" if index.name == WEIGHT_FILES[1] else "bin"
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} names no files (weight_map); copy the folder again.")
    for name in names.values():
        if not isinstance(name, str) or not re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}", name):
            raise UserError(
                f"{index} names {escape.line(repr(name), 80)}; expected names such as "
                f"{stem}-00001-of-00002.{suffix}. Copy the folder again."
            )
    return [index.with_name(name) for name in sorted(set(names.values()))]


def _safetensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:  # it has an error class of its own, derived from Exception
        raise UserError(
            f"the weights {escape.line(file)} cannot be read ({type(error).__name__}). Copy them again."
        ) from error


def _pickled(file: Path) -> dict[str, Any]:
    """The tensors of a pytorch_model.bin, without running code from it."""
    import pickle
    import zipfile

    import torch

    shown, size = escape.line(file), file.stat().st_size
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise ValueError("compressed")
        values = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{shown} holds more than tensors, so it is not loaded: unpickling runs code. Give weights as "
            "model.safetensors, from whoever made them."
        ) from None
    except Exception as error:  # a damaged pickle ends in any exception
        raise UserError(
            f"the weights {shown} cannot be read ({type(error).__name__}). Copy them again."
        ) from error
    plain = isinstance(values, dict) and all(
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        for name, value in values.items()
    )
    if not plain or sum(value.numel() * value.element_size() for value in values.values()) > 2 * size:
        raise UserError(f"{shown} holds something else than plain tensors by name. Give other weights.")
    return dict(values)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # all that is kept of one, and written
TOKENIZER_CLASSES = {
    *("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"),
    *("MPNetTokenizer", "MPNetTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    *("XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
}
SPECIAL_TOKENS = {f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk")}
TOKENIZER_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "tokenizer_class": lambda value: isinstance(value, str) and value in TOKENIZER_CLASSES,
    "backend": lambda value: value == "tokenizers",
    "model_max_length": lambda value: _is_number(value, 1, untrusted.MOST_INT),
    "strip_accents": lambda value: value is None or isinstance(value, bool),
    **dict.fromkeys(
        ("do_lower_case", "tokenize_chinese_chars", "clean_up_tokenization_spaces", "add_prefix_space"),
        lambda value: isinstance(value, bool),
    ),
    **dict.fromkeys(SPECIAL_TOKENS, lambda value: value is None or _is_token(value)),
    **dict.fromkeys(("padding_side", "truncation_side"), lambda value: value in ("left", "right")),
    "additional_special_tokens": lambda value: value is None or _is_tokens(value),
    "extra_special_tokens": lambda value: value in (None, {}) or _is_tokens(value),
    "added_tokens_decoder": lambda value: (
        isinstance(value, dict)
        and all(re.fullmatch(r"\d{1,9}", key) and _is_token(each) for key, each in value.items())
    ),
}
TOKENIZER_WITHOUT_EFFECT = {
    *("name_or_path", "vocab_file", "tokenizer_file", "special_tokens_map_file", "is_local"),
    *("local_files_only", "do_basic_tokenize", "never_split", "model_input_names", "max_length", "stride"),
    *("padding", "truncation", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id"),
    *("max_len", "use_fast", "transformers_version", "processor_class", "sp_model_kwargs"),
}


def checked_tokenizer_files(files: Any, what: str) -> dict[str, str]:
    """The contents of TOKENIZER_FILES, of a checkpoint, with the settings that are known alone.

    Raises:
        UserError: another file is among them, one lacks, or has a setting that no tokenizer has.
    """
    if not isinstance(files, dict) or sorted(files, key=str) != sorted(TOKENIZER_FILES):
        names = escape.line(
            ", ".join(map(str, files)) if isinstance(files, dict) else type(files).__name__, 200
        )
        raise UserError(f"{what} has {names} as a tokenizer; expected {' and '.join(TOKENIZER_FILES)}.")
    for name, content in files.items():
        if not isinstance(content, str):
            raise UserError(f"{what} has a {name} that is no text.")
    settings = untrusted.parse_object(files["tokenizer_config.json"], f"the tokenizer_config.json of {what}")
    checked = checked_tokenizer_settings(settings, what)
    return {**files, "tokenizer_config.json": json.dumps(checked, indent=2)}


def checked_tokenizer_settings(settings: dict[str, Any], what: str) -> dict[str, Any]:
    """What a tokenizer_config.json says of a tokenizer, without code, paths and what is unknown.

    Raises:
        UserError: a setting has a value that it cannot have, such as a class of its own.
    """
    for key, value in settings.items():
        if key in TOKENIZER_SETTINGS and not TOKENIZER_SETTINGS[key](value):
            raise UserError(
                f"{what} has the tokenizer setting {key} {escape.line(repr(value), 80)}; expected that of a "
                "BERT of transformers. Use a tokenizer as published."
            )
    unknown = sorted(settings.keys() - TOKENIZER_SETTINGS.keys() - TOKENIZER_WITHOUT_EFFECT)
    if unknown:
        _say_once(f"{what}: {', '.join(unknown)} not used; neither code nor unknown settings are taken.")
    return {key: value for key, value in settings.items() if key in TOKENIZER_SETTINGS}


def _is_token(value: Any) -> bool:
    if isinstance(value, dict):  # an AddedToken
        flags = {"single_word", "lstrip", "rstrip", "normalized", "special"}
        known = all(isinstance(value[key], bool) for key in flags & value.keys())
        plain = value.keys() <= flags | {"content", "__type"} and value.get("__type") in (None, "AddedToken")
        return known and plain and _is_token(value.get("content"))
    return isinstance(value, str) and 0 < len(value) <= untrusted.MOST_WORD


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 10_000 and all(map(_is_token, value))


def read_tokenizer_files(folder: Path) -> dict[str, str]:
    """TOKENIZER_FILES of a folder, made by transformers from checked copies of what the folder has.

    Raises:
        UserError: there is no tokenizer, or none that can be used.
    """
    shown = escape.line(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        # transformers would make one up that knows five tokens
        raise UserError(f"no usable tokenizer in {shown}; expected tokenizer.json or vocab.txt.")
    try:
        copies = _checked_copies(folder)
    except UserError as error:
        raise UserError(f"no usable tokenizer in {shown} ({error})") from None
    try:
        with tempfile.TemporaryDirectory() as place:
            for name, content in copies.items():
                (Path(place) / name).write_text(content, encoding="utf-8", newline="")
            tokenizer, content = _by_transformers(place, shown)
    except OSError as error:
        raise UserError(
            f"cannot write copies of the tokenizer's files to the temporary folder: {error.strerror}. Make "
            "room, or set TMPDIR to another one."
        ) from None
    settings = {key: value for key, value in tokenizer.init_kwargs.items() if _is_plain(value)}
    settings["tokenizer_class"] = type(tokenizer).__name__
    kept = {key: value for key, value in settings.items() if key in TOKENIZER_SETTINGS}
    untrusted.tokenizer(content, f"the tokenizer in {shown}")
    return {"tokenizer.json": content, "tokenizer_config.json": json.dumps(kept, indent=2)}


def _by_transformers(folder: str, shown: str) -> tuple[Any, str]:
    """The tokenizer of transformers for a folder of checked files, and its tokenizer.json."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return tokenizer, tokenizer.backend_tokenizer.to_str()
    except BaseException as error:
        if not untrusted.is_fault(error):
            raise
        raise UserError(
            f"no usable tokenizer in {shown}: its files do not fit each other ({type(error).__name__}). "
            "Copy the folder again."
        ) from None


def _checked_copies(folder: Path) -> dict[str, str]:
    """Contents of the tokenizer's files by their names, with nothing in them that is not known."""
    copies = {"config.json": json.dumps({"model_type": "bert"})}
    if (folder / "tokenizer.json").is_file():
        text = untrusted.read_text(folder / "tokenizer.json", untrusted.MOST_TOKENIZER_BYTES)
        untrusted.tokenizer(text, "tokenizer.json")
        copies["tokenizer.json"] = text
    if (folder / "vocab.txt").is_file():
        copies["vocab.txt"] = untrusted.read_text(folder / "vocab.txt", untrusted.MOST_TOKENIZER_BYTES)
    if (folder / "tokenizer_config.json").is_file():
        settings = untrusted.read_object(folder / "tokenizer_config.json")
        settings = checked_tokenizer_settings(settings, escape.line(folder / "tokenizer_config.json"))
        copies["tokenizer_config.json"] = json.dumps(settings)
    if (folder / "special_tokens_map.json").is_file():
        tokens = untrusted.read_object(folder / "special_tokens_map.json")
        known = SPECIAL_TOKENS | {"additional_special_tokens"}
        if not all(key in known and TOKENIZER_SETTINGS[key](value) for key, value in tokens.items()):
            raise UserError("special_tokens_map.json names something else than special tokens.")
        copies["special_tokens_map.json"] = json.dumps(tokens)
    return copies


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
