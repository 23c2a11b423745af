"""The files of a tokenizer, and the settings of it that are taken."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_bert import UserError, require_package
from lit_bert.io import escape, tokenizers, untrusted
from lit_bert.sources.architecture import note_once

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # all that is kept of one, and written
# What a folder may have in place of a tokenizer.json, all of these together.
VOCABULARIES = (
    ("vocab.txt",),  # WordPiece
    ("vocab.json", "merges.txt"),  # byte-level BPE
    ("spm.model",),  # SentencePiece, as DeBERTa calls it,
    ("spiece.model",),  # as ALBERT does,
    ("sentencepiece.bpe.model",),  # and as XLM-R and CamemBERT do
)
_FAMILIES = (
    *("Albert", "Bert", "Camembert", "ConvBert", "DebertaV2", "DistilBert", "Electra", "MPNet"),
    *("RemBert", "Roberta", "XLMRoberta"),
)
TOKENIZER_CLASSES = {
    *("PreTrainedTokenizerFast", "TokenizersBackend"),
    *(f"{family}Tokenizer{fast}" for family in _FAMILIES for fast in ("", "Fast")),
}
SPECIAL_TOKENS = {f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk")}
TOKENIZER_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "tokenizer_class": lambda value: isinstance(value, str) and value in TOKENIZER_CLASSES,
    "backend": lambda value: value == "tokenizers",
    "model_max_length": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= untrusted.MAX_INT
    ),
    "strip_accents": lambda value: value is None or isinstance(value, bool),
    **dict.fromkeys(
        (
            *("do_lower_case", "tokenize_chinese_chars", "clean_up_tokenization_spaces", "add_prefix_space"),
            *("trim_offsets", "keep_accents", "split_by_punct"),
        ),
        lambda value: isinstance(value, bool),
    ),
    "errors": lambda value: value in ("replace", "strict", "ignore"),
    "unk_id": lambda value: type(value) is int and 0 <= value < tokenizers.MAX_TOKENS,
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
    *("vocab_type", "remove_space", "merges_file", "sentencepiece_model_file"),
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
        note_once(f"{what}: {', '.join(unknown)} not used; neither code nor unknown settings are taken.")
    return {key: value for key, value in settings.items() if key in TOKENIZER_SETTINGS}


def _is_token(value: Any) -> bool:
    if isinstance(value, dict):  # an AddedToken
        flags = {"single_word", "lstrip", "rstrip", "normalized", "special"}
        known = all(isinstance(value[key], bool) for key in flags & value.keys())
        plain = value.keys() <= flags | {"content", "__type"} and value.get("__type") in (None, "AddedToken")
        return known and plain and _is_token(value.get("content"))
    return isinstance(value, str) and 0 < len(value) <= tokenizers.MAX_WORD


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 10_000 and all(map(_is_token, value))


def read_tokenizer_files(folder: Path, model_type: str) -> dict[str, str]:
    """TOKENIZER_FILES of a folder, made by transformers from checked copies of what the folder has.

    Args:
        model_type: that of the folder's network, which has a tokenizer of its own.

    Raises:
        UserError: there is no tokenizer, or none that can be used.
    """
    shown = escape.line(folder)
    alternatives = [("tokenizer.json",), *VOCABULARIES]
    names = next((some for some in alternatives if all((folder / name).is_file() for name in some)), None)
    if names is None:  # transformers would make one up that knows five tokens
        listed = ", ".join(" with ".join(some) for some in alternatives[:-1])
        raise UserError(f"no usable tokenizer in {shown}; expected {listed} or {alternatives[-1][0]}.")
    if names[0].endswith(".model"):
        require_package("sentencepiece", "sentencepiece")
        require_package("google.protobuf", "sentencepiece")
    try:
        copies = _checked_copies(folder, names, model_type)
    except UserError as error:
        raise UserError(f"no usable tokenizer in {shown} ({error})") from None
    try:
        with tempfile.TemporaryDirectory() as place:
            for name, content in copies.items():
                (Path(place) / name).write_bytes(content)
            tokenizer, text = _by_transformers(place, shown)
    except OSError as error:
        raise UserError(
            f"cannot write copies of the tokenizer's files to the temporary folder: {error.strerror}. Make "
            "room, or set TMPDIR to another one."
        ) from None
    settings = {key: value for key, value in tokenizer.init_kwargs.items() if _is_plain(value)}
    # How a special token takes white space stands in tokenizer.json.
    settings |= {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in SPECIAL_TOKENS
    }
    settings["tokenizer_class"] = type(tokenizer).__name__
    kept = {key: value for key, value in settings.items() if key in TOKENIZER_SETTINGS}
    tokenizers.load_tokenizer(text, f"the tokenizer in {shown}")
    return {"tokenizer.json": text, "tokenizer_config.json": json.dumps(kept, indent=2)}


def _by_transformers(folder: str, shown: str) -> tuple[Any, str]:
    """The tokenizer of transformers for a folder of checked files, and its tokenizer.json."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return tokenizer, tokenizer.backend_tokenizer.to_str()
    except BaseException as error:
        if not untrusted.is_library_error(error):
            raise
        raise UserError(
            f"no usable tokenizer in {shown}: its files do not fit each other ({type(error).__name__}). "
            "Copy the folder again."
        ) from None


def _checked_copies(folder: Path, names: tuple[str, ...], model_type: str) -> dict[str, bytes]:
    """Contents of the tokenizer's files by their names, with nothing in them that is not known.

    Args:
        names: of the files that hold the vocabulary.
    """
    copies = {"config.json": json.dumps({"model_type": model_type})}
    models: dict[str, bytes] = {}
    for name in names:
        if name.endswith(".model"):
            with untrusted.open_regular(folder / name, tokenizers.MAX_TOKENIZER_BYTES) as stream:
                models[name] = stream.read()
            continue
        copies[name] = untrusted.read_text(folder / name, tokenizers.MAX_TOKENIZER_BYTES)
        if name == "tokenizer.json":
            tokenizers.load_tokenizer(copies[name], name)
        elif name == "vocab.json":
            tokens = untrusted.parse_object(copies[name], name, tokenizers.MAX_TOKENIZER_BYTES)
            if not all(type(each) is int and 0 <= each < tokenizers.MAX_TOKENS for each in tokens.values()):
                raise UserError("vocab.json gives a token an id that is no number in range.")
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
    return {**{name: text.encode() for name, text in copies.items()}, **models}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
