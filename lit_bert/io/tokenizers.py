"""Tokenizers that a stranger may have written, checked before the tokenizers library reads them.

python -m lit_bert serve exported
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.untrusted import UnsafeFileError, expect, is_count, is_library_error, parse_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENIZER_BYTES = 64 << 20  # that of the largest stock vocabulary, 250,000 pieces, has 17 MB
MAX_TOKENS = 1 << 21
MAX_LENGTH = 1 << 20  # tokens a text
MAX_WORD = 1000  # characters of a word that WordPiece splits; its time rises with their square
MAX_REPLACEMENT_BYTES = 64  # that one character becomes; the longest of NFKC has 33
# The regular expressions of published tokenizers. Others are refused: the engine backtracks, so that one
# pattern may take longer for a short text than anyone waits.
STOCK_PATTERNS = {
    " {2,}",  # SentencePiece
    r"\s{2,}|[\n\r\t]",  # DeBERTa-v2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",  # Llama 3, ModernBERT's relatives
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",  # Qwen 2
}
NORMALIZERS = {
    *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Prepend", "Replace", "Sequence", "Strip", "StripAccents"),
}
PRE_TOKENIZERS = {
    *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace"),
    *("Punctuation", "Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
}
POST_PROCESSORS = {"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"}
DECODERS = {
    *("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"),
    "WordPiece",
}
MEMBERS = {  # of a sequence of such parts
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
TOKENIZER_KEYS = {
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"),
    *("decoder", "model"),
}


_accepted: dict[bytes, int] = {}  # hash of what was checked in this process, and the largest token id in it


def load_tokenizer(text: str, what: str, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of the content of a tokenizer.json, never padding; it is truncating as the file says.

    Args:
        what: name of the file in messages.
        vocab_size: rows of the word embeddings; None leaves the token ids unchecked.

    Raises:
        UserError: it is damaged, or has a part that is not among those of published tokenizers: a regular
            expression of its own, for one.
    """
    from tokenizers import Tokenizer

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    largest = _accepted.get(digest)
    try:
        content = parse_object(text, what, MAX_TOKENIZER_BYTES) if largest is None else {}
        named = _check_tokenizer(content) if largest is None else largest
        loaded = Tokenizer.from_str(text)
        loaded.no_padding()
        if largest is None:
            added = (loaded.token_to_id(each["content"]) for each in content.get("added_tokens") or ())
            largest = max([named, *(each for each in added if each is not None)])
            loaded.encode("a B. 1 é")
            _accepted[digest] = largest
    except UnsafeFileError as error:
        raise UserError(f"{what} {escape.line(error, 300)}. Use a tokenizer as published.") from None
    except UserError:
        raise
    except BaseException as error:
        if not is_library_error(error):
            raise
        raise UserError(
            f"{what} holds no usable tokenizer ({escape.line(error, 200)}). Use a tokenizer as published."
        ) from None
    if vocab_size is not None and largest >= vocab_size:
        raise UserError(
            f"{what} gives tokens ids up to {largest:,}; the model knows {vocab_size:,} tokens. "
            "Use the tokenizer that the model was trained with."
        )
    return loaded


def encode(
    tokenizer: Tokenizer, texts: Sequence[Any], offsets: bool = False, special: bool = True
) -> list[Any]:
    """The encodings of texts, or of pairs of them, without lone surrogates.

    Args:
        offsets: whether they tell where each token lies in its text, which takes longer.
        special: whether with special tokens.

    Raises:
        UserError: the tokenizer fails on one of them.
    """
    try:
        encode_batch = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        return encode_batch(list(texts), add_special_tokens=special)
    except BaseException as error:
        if not is_library_error(error):
            raise
        raise UserError(
            f"the tokenizer cannot read a text ({escape.line(error, 200)}); use one as published."
        ) from None


def _check_tokenizer(content: dict[str, Any]) -> int:
    """The largest token id that it names.

    Raises:
        UnsafeFileError: says what is wrong with it.
    """
    unknown = sorted(content.keys() - TOKENIZER_KEYS)
    expect(not unknown, f"has the unknown key {unknown[:1]}")
    truncation = content.get("truncation")
    if truncation is not None:
        expect(isinstance(truncation, dict), "has a truncation that is no object")
        length, stride = truncation.get("max_length"), truncation.get("stride", 0)
        expect(is_count(length, MAX_LENGTH, 1), f"truncates to {length!r} tokens")
        expect(is_count(stride, length - 1), f"truncates with a stride of {stride!r}")
    vocab, largest = _check_token_model(content.get("model"))
    added = content.get("added_tokens") or []
    expect(isinstance(added, list) and len(added) <= MAX_TOKENS, "has added_tokens that are no list")
    for each in added:
        valid = (
            isinstance(each, dict)
            and isinstance(each.get("content"), str)
            and 0 < len(each["content"]) <= MAX_WORD
            and is_count(each.get("id"), 2 * MAX_TOKENS)
        )
        if not valid:
            raise UnsafeFileError(f"has an added token that is none: {each!r}")
    named = {*vocab, *(each["content"] for each in added)}
    for part, types in (
        ("normalizer", NORMALIZERS),
        ("pre_tokenizer", PRE_TOKENIZERS),
        ("post_processor", POST_PROCESSORS),
        ("decoder", DECODERS),
    ):
        if content.get(part) is not None:
            largest = max(largest, _check_part(part, content[part], types, named))
    return largest


def _check_token_model(model: Any) -> tuple[dict[str, int], int]:
    """Tokens with their ids, and the largest id."""
    expect(isinstance(model, dict), "has no model")
    vocab, kind = model.get("vocab"), model.get("type")
    if kind is None:  # early files, that of bert-base-uncased too, do not say it
        kind = "BPE" if "merges" in model else "Unigram" if isinstance(vocab, list) else "WordPiece"
    expect(kind in ("WordPiece", "WordLevel", "BPE", "Unigram"), f"has a model of type {kind!r}")
    if kind == "Unigram":
        expect(isinstance(vocab, list) and 0 < len(vocab) <= MAX_TOKENS, "has a vocabulary that is none")
        for each in vocab:
            valid = (
                isinstance(each, list)
                and len(each) == 2
                and isinstance(each[0], str)
                and len(each[0]) <= MAX_WORD
                and isinstance(each[1], int | float)
            )
            if not valid:
                raise UnsafeFileError(f"has a piece that is none: {each!r}")
        unknown = model.get("unk_id")
        expect(unknown is None or is_count(unknown, len(vocab) - 1), f"has an unk_id of {unknown!r}")
        return {each[0]: index for index, each in enumerate(vocab)}, len(vocab) - 1
    expect(isinstance(vocab, dict) and 0 < len(vocab) <= MAX_TOKENS, "has a vocabulary that is none")
    ids = list(vocab.values())
    expect(set(map(type, ids)) == {int}, "has token ids that are no whole numbers")
    expect(min(ids) >= 0 and max(ids) <= 2 * MAX_TOKENS, "has token ids out of range")
    expect(len(set(ids)) == len(ids), "has two tokens of one id")
    unknown = model.get("unk_token")
    if kind in ("WordPiece", "WordLevel"):
        expect(isinstance(unknown, str) and unknown in vocab, f"lacks its unknown token {unknown!r}")
    if kind == "WordPiece":
        longest = model.get("max_input_chars_per_word", 100)
        expect(is_count(longest, MAX_WORD), f"splits words of {longest!r} characters")
    if kind == "BPE":
        merges = model.get("merges")
        expect(isinstance(merges, list) and len(merges) <= MAX_TOKENS, "has merges that are no list")
        expect(not model.get("dropout"), "leaves out merges at random (dropout)")
    return vocab, max(ids)


def _check_part(part: str, value: Any, types: set[str], named: set[str]) -> int:
    """The largest token id that a normalizer, pre-tokenizer, post-processor or decoder names."""
    largest = 0
    steps = [value]
    for count, each in enumerate(steps, 1):  # grows by the members of sequences
        expect(count <= 64, f"has a {part} of more than 64 steps")
        expect(isinstance(each, dict), f"has a {part} that is no object")
        kind = each.get("type")
        expect(isinstance(kind, str) and kind in types, f"has a {part} of the unknown type {kind!r}")
        if kind == "Sequence":
            inner = each.get(MEMBERS[part])
            expect(isinstance(inner, list) and len(inner) <= 64, f"has a {part} of a sequence without steps")
            steps += inner
        elif kind in ("Replace", "Split"):
            _check_pattern(part, each)
        elif kind == "Prepend":
            text = each.get("prepend")
            expect(isinstance(text, str) and len(text) <= 8, f"has a {part} that prepends {text!r}")
        elif kind == "Precompiled":
            _check_charsmap(each.get("precompiled_charsmap"))
        elif kind == "FixedLength":
            expect(is_count(each.get("length"), MAX_LENGTH, 1), f"has a {part} without a length")
        elif kind == "TemplateProcessing":
            largest = max(largest, _check_template(each))
        elif kind in ("BertProcessing", "RobertaProcessing"):
            for name in ("sep", "cls"):
                pair = each.get(name)
                valid = isinstance(pair, list) and len(pair) == 2 and is_count(pair[1], 2 * MAX_TOKENS)
                expect(valid, f"has a {part} whose {name} is {pair!r}")
                largest = max(largest, pair[1])
    return largest


def _check_pattern(part: str, step: dict[str, Any]) -> None:
    """A pattern must end in time that is linear in the text, and what replaces it must not be longer."""
    pattern: Any = step.get("pattern")
    valid = isinstance(pattern, dict) and len(pattern) == 1 and set(pattern) <= {"String", "Regex"}
    expect(valid, f"has a {part} whose pattern is {pattern!r}")
    ((kind, text),) = pattern.items()
    expect(isinstance(text, str) and text != "", f"has a {part} whose pattern is {text!r}")
    expect(
        kind == "String" or text in STOCK_PATTERNS,
        f"has a {part} with the regular expression {text!r}, which is not among those of known tokenizers",
    )
    if step["type"] == "Replace":
        by = step.get("content")
        length = len(text) if kind == "String" else 1
        expect(isinstance(by, str) and len(by) <= length, f"has a {part} that replaces {text!r} by {by!r}")


def _check_charsmap(encoded: Any) -> None:
    """SentencePiece's table of replacements: size of a trie, the trie of 32-bit units, NUL-ended texts.

    The library does not check its steps, https://github.com/s-yata/darts-clone for the format: a unit leads
    to any of the 256 units around a place, and from there into the texts.
    """
    try:
        table = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
        size = int.from_bytes(table[:4], "little")
        texts = table[4 + size :].decode("utf-8")
    except (binascii.Error, ValueError):
        raise UnsafeFileError("has a damaged charsmap") from None
    expect(size % 4 == 0 and 0 < size < len(table) - 4, "has a damaged charsmap")
    units = np.frombuffer(table, "<u4", count=size // 4, offset=4).astype(np.int64)
    inner = np.flatnonzero(units < 1 << 31)  # the others are values
    bases = inner ^ ((units[inner] >> 10) << ((units[inner] & (1 << 9)) >> 6))
    expect(bool((bases | 255).max(initial=0) < len(units)), "has a charsmap that leads out of itself")
    values = units[bases[(units[inner] & (1 << 8)) != 0]] & ((1 << 31) - 1)
    ends = [0, *(len(text.encode()) for text in texts)]  # where a character may start
    starts = np.cumsum(ends)
    expect(bool(np.isin(values, starts).all()), "has a charsmap that leads out of its texts")
    longest = max(len(text.encode()) for text in texts.split("\0"))
    expect(longest <= MAX_REPLACEMENT_BYTES, "has a charsmap that makes characters long")


def _check_template(step: dict[str, Any]) -> int:
    """The largest id of its special tokens."""
    special: Any = step.get("special_tokens")
    largest = 0
    expect(isinstance(special, dict) and len(special) <= 64, "has a template without special tokens")
    for each in special.values():
        ids: Any = each.get("ids") if isinstance(each, dict) else None
        tokens: Any = each.get("tokens") if isinstance(each, dict) else None
        valid = isinstance(ids, list) and len(ids) <= 16 and all(is_count(i, 2 * MAX_TOKENS) for i in ids)
        valid = valid and isinstance(tokens, list) and len(tokens) == len(ids)
        expect(valid, f"has a special token that is none: {each!r}")
        largest = max([largest, *ids])
    for name, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces: Any = step.get(name)
        expect(isinstance(pieces, list) and len(pieces) <= 64, f"has a template for {name} that is no list")
        texts = [text for piece in pieces for text in _check_piece(piece, special)]
        expect(sorted(texts) == sequences, f"has a template for {name} that holds the texts {texts}")
    return largest


def _check_piece(piece: Any, special: dict[str, Any]) -> list[str]:
    """Which of the texts A and B a piece of a template stands for; none where it is a special token."""
    kind, each = next(iter(piece.items())) if isinstance(piece, dict) and len(piece) == 1 else ("", {})
    name = each.get("id") if isinstance(each, dict) and is_count(each.get("type_id"), 1 << 31) else None
    if kind == "Sequence" and name in ("A", "B"):
        return [name]
    if kind == "SpecialToken" and isinstance(name, str) and name in special:
        return []
    raise UnsafeFileError(f"has a template with the unknown piece {piece!r}")
