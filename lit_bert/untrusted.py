"""Files that a stranger may have written, checked before any library sees them.

Every folder and checkpoint passes here on its way in: JSON, tokenizers and safetensors files are bounded in
size before memory is taken, and what they say is compared with a fixed list of what they may say. Needs no
torch, as the predictor uses it too.

    python -m lit_bert serve exported
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_bert import UserError, escape

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_JSON_BYTES = 16 << 20  # a lit_bert.json of 50,000 classes has half of it
MOST_TOKENIZER_BYTES = 64 << 20  # that of the largest stock vocabulary, 250,000 pieces, has 17 MB
MOST_DEPTH = 32  # of lists and objects within each other; a tokenizer.json has 8
MOST_INT = 10**39  # transformers writes 10**30, and that as a whole number, for "no limit"
MOST_CLASSES = 100_000
MOST_HEADER_BYTES = 16 << 20  # of a safetensors file; that of BERT-large has 45 kB
MOST_TENSORS = 100_000
MOST_ONNX_BYTES = 1 << 31  # what protobuf allows
MOST_NODES = 100_000
MOST_TOKENS = 1 << 21
MOST_LENGTH = 1 << 20  # tokens a text
MOST_WORD = 1000  # characters of a word that WordPiece splits; its time rises with their square
MOST_REPLACEMENT_BYTES = 64  # that one character becomes; the longest of NFKC has 33
# The regular expressions of published tokenizers. Others are refused: the engine backtracks, so that one
# pattern may take longer for a short text than anyone waits.
STOCK_PATTERNS = {
    " {2,}",  # SentencePiece
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
# Bytes a value, as safetensors names types; those of less than a byte are not among weights.
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
# The operators of the graphs that `export` writes, for any activation function. None of them loops, branches,
# draws random numbers, or makes a large tensor of a small one by itself.
OPERATORS = set(
    (
        "Add Cast Clip Concat Constant DequantizeLinear Div Erf Gather "
        "Gelu Gemm Identity LayerNormalization MatMul Mul Neg Pow QuantizeLinear "
        "ReduceMean ReduceSum Relu Reshape Shape Sigmoid Slice Softmax Softplus "
        "Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze "
    ).split()
)


# --- files ---


def open_regular(path: Path, most_bytes: int | None = None) -> BufferedReader:
    """The file, open for reading: an ordinary one that lies in its folder and has at most `most_bytes`.

    A link is followed within the folder, and to where the Hub's cache keeps its files, nowhere else: whoever
    made the folder does not choose which files of this machine are read.

    Raises:
        UserError: it is something else, too large, or cannot be read.
    """
    shown = escape.line(path)
    try:
        real, folder = path.resolve(strict=True), path.parent.resolve(strict=True)
        homes = {folder}
        if folder.parent.name == "snapshots":
            homes.add(folder.parent.parent / "blobs")
        if path.is_symlink() and real.parent not in homes:
            raise UserError(f"{shown} is a link out of its folder; put the file itself there.")
        # Opening a named pipe would wait for a writer, and opening a device may do anything.
        if not stat.S_ISREG(real.stat().st_mode):
            raise UserError(f"{shown} is no ordinary file; put the file itself there.")
        stream = os.fdopen(os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        try:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{shown} is no ordinary file; put the file itself there.")
            if most_bytes is not None and found.st_size > most_bytes:
                raise UserError(
                    f"{shown} has {found.st_size:,} bytes; expected at most {most_bytes:,}. "
                    "This is not such a file; get it again."
                )
        except BaseException:
            stream.close()
            raise
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a NUL in a name
        what = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"cannot read {shown}: {what}. Get it again, or check its rights.") from None
    return stream


def read_text(path: Path, most_bytes: int = MOST_JSON_BYTES) -> str:
    """The content of a text file in UTF-8.

    Raises:
        UserError: it is no ordinary file, too large, unreadable, or not in UTF-8.
    """
    with open_regular(path, most_bytes) as stream:
        try:
            content = stream.read(most_bytes + 1)  # it may have grown since
        except OSError as error:
            raise UserError(f"cannot read {escape.line(path)}: {error.strerror}. Get it again.") from None
    if len(content) > most_bytes:
        raise UserError(f"{escape.line(path)} has more than {most_bytes:,} bytes; get it again.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{escape.line(path)} is not text in UTF-8 (byte {error.start}); get it again."
        ) from None


# --- JSON ---


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: it cannot be read as text, or is not the JSON that `parse_json` takes.
    """
    return parse_json(read_text(path, most_bytes), escape.line(path), most_bytes)


def parse_json(text: str, what: str, most: int = MOST_JSON_BYTES) -> Any:
    """The value of a JSON text: of bounded size and depth, finite numbers, each key once.

    Args:
        what: its name in messages.
        most: characters.

    Raises:
        UserError: it is something else.
    """
    if len(text) > most:
        raise UserError(f"{what} has {len(text):,} characters; expected at most {most:,}.")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        _check_values(value, surrogates=re.search(r"\\u[dD][89a-fA-F]", text) is not None)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else escape.line(error, 200)
        raise UserError(f"{what} is not JSON that can be used ({why}); get it again.") from None
    return value


def parse_object(text: str, what: str, most: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """`parse_json` for what has to be an object."""
    value = parse_json(text, what, most)
    if not isinstance(value, dict):
        raise UserError(f"{what} holds no JSON object; get it again.")
    return value


def read_object(path: Path, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """`read_json` for what has to be an object."""
    return parse_object(read_text(path, most_bytes), escape.line(path), most_bytes)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:100]!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _check_values(value: Any, surrogates: bool) -> None:
    """Raises a ValueError where a value is nested too deeply, or is no finite number or Unicode text."""
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
                if surrogates:
                    below += each
            elif isinstance(each, list):
                below += each
            elif isinstance(each, float):
                if not math.isfinite(each):
                    raise ValueError("a number beyond all bounds")
            elif isinstance(each, int):
                if abs(each) > MOST_INT:
                    raise ValueError("a number of more than 39 digits")
            elif surrogates and isinstance(each, str):
                each.encode("utf-8")
        if not below:
            return
        level = below
    raise ValueError("nested too deeply")


def labels(config: dict[str, Any], what: str) -> list[str]:
    """The class names of a config.json, in the order of the logits.

    Raises:
        UserError: `id2label` leaves one out, names one twice, or `label2id` says otherwise.
    """
    id2label, label2id = config.get("id2label"), config.get("label2id")
    if not isinstance(id2label, dict) or not 0 < len(id2label) <= MOST_CLASSES:
        raise UserError(
            f"{what} has no id2label; expected an object with the names of 1 to {MOST_CLASSES:,} classes "
            'by their numbers, as in {"0": "no", "1": "yes"}.'
        )
    names = [id2label.get(str(index)) for index in range(len(id2label))]
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(
                f"{what} has no name for class {index} in id2label; expected the numbers 0 to "
                f"{len(names) - 1}, each with a text."
            )
    index_of = {name: index for index, name in enumerate(names)}
    if len(index_of) < len(names):
        twice = next(name for index, name in enumerate(names) if index_of[name] != index)
        raise UserError(f"{what} names two classes {escape.line(twice, 80)!r} in id2label; rename one.")
    if label2id is not None and label2id != index_of:
        raise UserError(f"{what} has a label2id that contradicts its id2label; put right which is wrong.")
    return [str(name) for name in names]


# --- tokenizers ---


_accepted: dict[bytes, int] = {}  # hash of what was checked in this process, and the largest token id in it


def tokenizer(text: str, what: str, vocab_size: int | None = None) -> Tokenizer:
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
        content = parse_object(text, what, MOST_TOKENIZER_BYTES) if largest is None else {}
        named = _check_tokenizer(content) if largest is None else largest
        found = Tokenizer.from_str(text)
        found.no_padding()
        if largest is None:
            added = (found.token_to_id(each["content"]) for each in content.get("added_tokens") or ())
            largest = max([named, *(each for each in added if each is not None)])
            found.encode("a B. 1 é")
            _accepted[digest] = largest
    except _Refused as error:
        raise UserError(f"{what} {escape.line(error, 300)}. Use a tokenizer as published.") from None
    except UserError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        raise UserError(
            f"{what} holds no usable tokenizer ({escape.line(error, 200)}). Use a tokenizer as published."
        ) from None
    if vocab_size is not None and largest >= vocab_size:
        raise UserError(
            f"{what} gives tokens ids up to {largest:,}; the model knows {vocab_size:,} tokens. "
            "Use the tokenizer that the model was trained with."
        )
    return found


def encode(tokenizer: Tokenizer, texts: list[str], offsets: bool = False) -> list[Any]:
    """The encodings of texts without lone surrogates.

    Args:
        offsets: whether they tell where each token lies in its text, which takes longer.

    Raises:
        UserError: the tokenizer fails on one of them.
    """
    try:
        return (tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast)(texts)
    except BaseException as error:
        if not is_fault(error):
            raise
        raise UserError(
            f"the tokenizer cannot read a text ({escape.line(error, 200)}); use one as published."
        ) from None


def is_fault(error: BaseException) -> bool:
    """Whether it comes from within a library: panics of Rust are no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class _Refused(Exception):
    """What a tokenizer has that it may not have."""


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise _Refused(message)


def _is_count(value: Any, most: int, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_tokenizer(content: dict[str, Any]) -> int:
    """The largest token id that it names.

    Raises:
        _Refused: says what is wrong with it.
    """
    unknown = sorted(content.keys() - TOKENIZER_KEYS)
    _expect(not unknown, f"has the unknown key {unknown[:1]}")
    truncation = content.get("truncation")
    if truncation is not None:
        _expect(isinstance(truncation, dict), "has a truncation that is no object")
        length, stride = truncation.get("max_length"), truncation.get("stride", 0)
        _expect(_is_count(length, MOST_LENGTH, 1), f"truncates to {length!r} tokens")
        _expect(_is_count(stride, length - 1), f"truncates with a stride of {stride!r}")
    vocab, largest = _check_token_model(content.get("model"))
    added = content.get("added_tokens") or []
    _expect(isinstance(added, list) and len(added) <= MOST_TOKENS, "has added_tokens that are no list")
    for each in added:
        valid = (
            isinstance(each, dict)
            and isinstance(each.get("content"), str)
            and 0 < len(each["content"]) <= MOST_WORD
            and _is_count(each.get("id"), 2 * MOST_TOKENS)
        )
        if not valid:
            raise _Refused(f"has an added token that is none: {each!r}")
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
    _expect(isinstance(model, dict), "has no model")
    vocab, kind = model.get("vocab"), model.get("type")
    if kind is None:  # early files, that of bert-base-uncased too, do not say it
        kind = "BPE" if "merges" in model else "Unigram" if isinstance(vocab, list) else "WordPiece"
    _expect(kind in ("WordPiece", "WordLevel", "BPE", "Unigram"), f"has a model of type {kind!r}")
    if kind == "Unigram":
        _expect(isinstance(vocab, list) and 0 < len(vocab) <= MOST_TOKENS, "has a vocabulary that is none")
        for each in vocab:
            valid = (
                isinstance(each, list)
                and len(each) == 2
                and isinstance(each[0], str)
                and len(each[0]) <= MOST_WORD
                and isinstance(each[1], int | float)
            )
            if not valid:
                raise _Refused(f"has a piece that is none: {each!r}")
        unknown = model.get("unk_id")
        _expect(unknown is None or _is_count(unknown, len(vocab) - 1), f"has an unk_id of {unknown!r}")
        return {each[0]: index for index, each in enumerate(vocab)}, len(vocab) - 1
    _expect(isinstance(vocab, dict) and 0 < len(vocab) <= MOST_TOKENS, "has a vocabulary that is none")
    ids = list(vocab.values())
    _expect(set(map(type, ids)) == {int}, "has token ids that are no whole numbers")
    _expect(min(ids) >= 0 and max(ids) <= 2 * MOST_TOKENS, "has token ids out of range")
    _expect(len(set(ids)) == len(ids), "has two tokens of one id")
    unknown = model.get("unk_token")
    if kind in ("WordPiece", "WordLevel"):
        _expect(isinstance(unknown, str) and unknown in vocab, f"lacks its unknown token {unknown!r}")
    if kind == "WordPiece":
        longest = model.get("max_input_chars_per_word", 100)
        _expect(_is_count(longest, MOST_WORD), f"splits words of {longest!r} characters")
    if kind == "BPE":
        merges = model.get("merges")
        _expect(isinstance(merges, list) and len(merges) <= MOST_TOKENS, "has merges that are no list")
        _expect(not model.get("dropout"), "leaves out merges at random (dropout)")
    return vocab, max(ids)


def _check_part(part: str, value: Any, types: set[str], named: set[str]) -> int:
    """The largest token id that a normalizer, pre-tokenizer, post-processor or decoder names."""
    largest = 0
    steps = [value]
    for count, each in enumerate(steps, 1):  # grows by the members of sequences
        _expect(count <= 64, f"has a {part} of more than 64 steps")
        _expect(isinstance(each, dict), f"has a {part} that is no object")
        kind = each.get("type")
        _expect(isinstance(kind, str) and kind in types, f"has a {part} of the unknown type {kind!r}")
        if kind == "Sequence":
            inner = each.get(MEMBERS[part])
            _expect(isinstance(inner, list) and len(inner) <= 64, f"has a {part} of a sequence without steps")
            steps += inner
        elif kind in ("Replace", "Split"):
            _check_pattern(part, each)
        elif kind == "Prepend":
            text = each.get("prepend")
            _expect(isinstance(text, str) and len(text) <= 8, f"has a {part} that prepends {text!r}")
        elif kind == "Precompiled":
            _check_charsmap(each.get("precompiled_charsmap"))
        elif kind == "FixedLength":
            _expect(_is_count(each.get("length"), MOST_LENGTH, 1), f"has a {part} without a length")
        elif kind == "TemplateProcessing":
            largest = max(largest, _check_template(each))
        elif kind in ("BertProcessing", "RobertaProcessing"):
            for name in ("sep", "cls"):
                pair = each.get(name)
                valid = isinstance(pair, list) and len(pair) == 2 and _is_count(pair[1], 2 * MOST_TOKENS)
                _expect(valid, f"has a {part} whose {name} is {pair!r}")
                largest = max(largest, pair[1])
    return largest


def _check_pattern(part: str, step: dict[str, Any]) -> None:
    """A pattern must end in time that is linear in the text, and what replaces it must not be longer."""
    pattern: Any = step.get("pattern")
    valid = isinstance(pattern, dict) and len(pattern) == 1 and set(pattern) <= {"String", "Regex"}
    _expect(valid, f"has a {part} whose pattern is {pattern!r}")
    ((kind, text),) = pattern.items()
    _expect(isinstance(text, str) and text != "", f"has a {part} whose pattern is {text!r}")
    _expect(
        kind == "String" or text in STOCK_PATTERNS,
        f"has a {part} with the regular expression {text!r}, which is not among those of known tokenizers",
    )
    if step["type"] == "Replace":
        by = step.get("content")
        most = len(text) if kind == "String" else 1
        _expect(isinstance(by, str) and len(by) <= most, f"has a {part} that replaces {text!r} by {by!r}")


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
        raise _Refused("has a damaged charsmap") from None
    _expect(size % 4 == 0 and 0 < size < len(table) - 4, "has a damaged charsmap")
    units = np.frombuffer(table, "<u4", count=size // 4, offset=4).astype(np.int64)
    inner = np.flatnonzero(units < 1 << 31)  # the others are values
    bases = inner ^ ((units[inner] >> 10) << ((units[inner] & (1 << 9)) >> 6))
    _expect(bool((bases | 255).max(initial=0) < len(units)), "has a charsmap that leads out of itself")
    values = units[bases[(units[inner] & (1 << 8)) != 0]] & ((1 << 31) - 1)
    ends = [0, *(len(text.encode()) for text in texts)]  # where a character may start
    starts = np.cumsum(ends)
    _expect(bool(np.isin(values, starts).all()), "has a charsmap that leads out of its texts")
    longest = max(len(text.encode()) for text in texts.split("\0"))
    _expect(longest <= MOST_REPLACEMENT_BYTES, "has a charsmap that makes characters long")


def _check_template(step: dict[str, Any]) -> int:
    """The largest id of its special tokens."""
    special: Any = step.get("special_tokens")
    largest = 0
    _expect(isinstance(special, dict) and len(special) <= 64, "has a template without special tokens")
    for each in special.values():
        ids: Any = each.get("ids") if isinstance(each, dict) else None
        tokens: Any = each.get("tokens") if isinstance(each, dict) else None
        valid = isinstance(ids, list) and len(ids) <= 16 and all(_is_count(i, 2 * MOST_TOKENS) for i in ids)
        valid = valid and isinstance(tokens, list) and len(tokens) == len(ids)
        _expect(valid, f"has a special token that is none: {each!r}")
        largest = max([largest, *ids])
    for name, sequences in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces: Any = step.get(name)
        _expect(isinstance(pieces, list) and len(pieces) <= 64, f"has a template for {name} that is no list")
        found = [text for piece in pieces for text in _check_piece(piece, special)]
        _expect(sorted(found) == sequences, f"has a template for {name} that holds the texts {found}")
    return largest


def _check_piece(piece: Any, special: dict[str, Any]) -> list[str]:
    """Which of the texts A and B a piece of a template stands for; none where it is a special token."""
    kind, each = next(iter(piece.items())) if isinstance(piece, dict) and len(piece) == 1 else ("", {})
    name = each.get("id") if isinstance(each, dict) and _is_count(each.get("type_id"), 1 << 31) else None
    if kind == "Sequence" and name in ("A", "B"):
        return [name]
    if kind == "SpecialToken" and isinstance(name, str) and name in special:
        return []
    raise _Refused(f"has a template with the unknown piece {piece!r}")


# --- safetensors ---


def check_safetensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Data type and shape of each tensor of a safetensors file, from its header, without reading values.

    Raises:
        UserError: the header is longer than the file or than any real one, or says of a tensor what cannot
            be: an unknown type, bytes that are not in the file or are another's, a shape of another size.
    """
    what = escape.line(path)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            raise UserError(
                f"{what} is no whole safetensors file: its header would have {length:,} bytes, the file has "
                f"{size:,}. Get it again."
            )
        content = stream.read(length)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what} is no safetensors file: its header is no text. Get it again.") from None
    header = parse_object(text, f"the header of {what}", MOST_HEADER_BYTES)
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise UserError(f"{what} has {len(header):,} tensors; expected at most {MOST_TENSORS:,}.")
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, described in header.items():
        values: Any = described if isinstance(described, dict) else {}
        dtype, shape, offsets = (values.get(key) for key in ("dtype", "shape", "data_offsets"))
        valid = (
            isinstance(dtype, str)
            and dtype in DTYPE_BYTES
            and isinstance(shape, list)
            and len(shape) <= 16
            and all(_is_count(length, 1 << 48) for length in shape)
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(_is_count(offset, size) for offset in offsets)
            and math.prod(shape) * DTYPE_BYTES[dtype] == offsets[1] - offsets[0]
        )
        if not valid:
            raise UserError(
                f"{what} describes its tensor {escape.line(name, 80)} in a way that cannot be: "
                f"{escape.line(described, 200)}. Get it again."
            )
        found[name] = dtype, tuple(shape)
        ranges.append((offsets[0], offsets[1], name))
    end = 0
    for start, stop, name in sorted(ranges):
        if start != end:
            raise UserError(
                f"{what} has a gap or two tensors in one place before {escape.line(name, 80)}. Get it again."
            )
        end = stop
    if end != size - 8 - length:
        raise UserError(
            f"{what} has {size - 8 - length:,} bytes of values; its header describes {end:,}. Get it again."
        )
    return found


# --- ONNX ---


def check_onnx(path: Path) -> None:
    """Checks an ONNX file of ours before onnxruntime sees it, which would open files that it names.

    Walks the protobuf messages of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; values are skipped.

    Raises:
        UserError: it is damaged, keeps values in another file, or has an operator that `export` does not
            write: a custom one, a loop, or one that makes a small tensor large.
    """
    with open_regular(path, MOST_ONNX_BYTES) as stream:
        if not os.fstat(stream.fileno()).st_size:
            raise UserError(f"{escape.line(path)} is empty; export it again.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            try:
                _check_onnx_model(view)
            except (_Refused, IndexError, ValueError) as error:
                why = escape.line(error, 200) if isinstance(error, _Refused) else "is no whole ONNX file"
                raise UserError(f"{escape.line(path)} {why}. Export it again.") from None


def _messages(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; those of fixed size are skipped."""
    place, end = 0, len(view)
    while place < end:
        tag, place = _varint(view, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(view, place)
            yield tag >> 3, value
        elif kind == 2:
            length, place = _varint(view, place)
            if length > end - place:
                raise ValueError
            with view[place : place + length] as part:
                yield tag >> 3, part
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError
    if place != end:
        raise ValueError


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = view[place]
    place += 1
    if value < 128:
        return value, place
    value &= 127
    for shift in range(7, 70, 7):
        byte = view[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError


def _check_onnx_model(model: memoryview) -> None:
    graphs = 0
    for number, value in _messages(model):
        if number == 7 and isinstance(value, memoryview):
            graphs += 1
            _check_graph(value)
        _expect(number != 25, "defines functions of its own")
        _expect(number != 20, "holds a graph for training")
    _expect(graphs == 1, "holds no graph, or several")


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for number, value in _messages(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            nodes += 1
            _expect(nodes <= MOST_NODES, f"has more than {MOST_NODES:,} nodes")
            _check_node(value)
        elif number == 5:
            _check_initializer(value)
        _expect(number != 15, "holds sparse tensors")


def _check_node(node: memoryview) -> None:
    operator, domain = "", ""
    for number, value in _messages(node):
        if not isinstance(value, memoryview):
            continue
        if number == 4:
            operator = bytes(value).decode()
        elif number == 7:
            domain = bytes(value).decode()
        elif number == 5:
            for inner, each in _messages(value):
                if inner in (5, 10) and isinstance(each, memoryview):
                    _check_initializer(each)
                _expect(inner not in (6, 11, 22, 23), "has a graph within a node, or a sparse tensor")
    if operator not in OPERATORS or domain not in ("", "ai.onnx"):
        raise _Refused(f"has the operator {domain}:{operator}, which `export` does not write")


def _check_initializer(tensor: memoryview) -> None:
    """Its values stand in the file itself, and there are as many as its shape says, or none."""
    values = 1
    for number, value in _messages(tensor):
        if number == 1:
            packed = [value] if isinstance(value, int) else _varints(value)
            for size in packed:
                values *= size
        external = number == 13 or (number == 14 and value != 0)
        _expect(not external, "keeps values in another file, which is not opened")
    _expect(values <= 2 * len(tensor), "has a tensor of more values than the file holds")


def _varints(view: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(view):
        value, place = _varint(view, place)
        found.append(value)
    return found
