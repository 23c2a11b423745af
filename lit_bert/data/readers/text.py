"""Text files: compressed or not, and in which encoding.

An encoding is found by this rule:

1. A byte-order mark decides.
2. A file that is UTF-8 throughout is UTF-8, but for UTF-16 without a mark, of whose bytes every other is 0.
3. A file with lines that are UTF-8 beyond ASCII, or with less than `LEAST_LINES` lines that are not UTF-8, is
   UTF-8, and those lines are broken rows.
4. Any other is cp1252, the Windows code page of Western Europe, where each byte beyond ASCII is a sign of
   Western text, and either none would be another letter in cp1250, the page of Central Europe, or some words
   are of Western languages alone.
5. Otherwise the user is asked.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import unicodedata
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from lit_bert import UserError
from lit_bert.io import escape

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)  # beside OSError, what reading a compressed file may raise
MARKS = (  # the first begins with the second
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
BLOCK = 1 << 16  # bytes read at a time
LEAST_LINES = 3  # that are not UTF-8, before another encoding is considered
SHOWN_LINES, LINE_BYTES = 200, 2000  # of those lines: how many are looked at, and how far
# Western text in cp1252; Š, Ž, ð, þ, ý and the like are left out: mostly they mean another code page
WESTERN = set("–—‘’“”…€£«»¿¡·°§®©™ºª•\xa0ßàáâãäåæçèéêëìíîïñòóôõöøœùúûüÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜ")
FOREIGN = re.compile(r"\b[^\W\d_a-zA-Z]{3,}\b")  # a word without any plain letter
NOT_CENTRAL = re.compile(r"\bŕ\b|ń[aeiou]")  # à, ña in cp1252; no language of cp1250 has such a word
OTHERS = (
    *("cp1252", "cp1250", "cp1251", "koi8-r", "cp1253", "cp1254", "cp1257"),
    *("shift-jis", "gb18030", "big5", "euc-kr", "mac-roman", "cp850"),
)
SHOWN_CHARACTERS = 60


def inner_suffix(path: Path) -> str:
    """What the name of a file ends in, without the ending of its compression, in lower case."""
    return Path(path.stem).suffix.lower() if is_compressed(path) else path.suffix.lower()


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def open_binary(path: Path) -> IO[bytes]:
    """The content of a file, decompressed by what its name ends in."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".xz":
        return lzma.open(path)
    if suffix == ".zst":
        import pyarrow

        path.open("rb").close()  # raises what the others do where there is none
        stream: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream)
    return path.open("rb")


def open_text(path: Path, encoding: str) -> IO[str]:
    """The text of a file. Bytes that `encoding` does not have become lone surrogates, see `text_problem`."""
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # a mark is no part of the text
    return io.TextIOWrapper(open_binary(path), encoding=encoding, errors="surrogateescape", newline="")


# --- which encoding ---


class Encoding(NamedTuple):
    """The encoding of a file, and what a person has to know of how it was found, one line, or ""."""

    name: str
    note: str = ""


def stamp(path: Path) -> tuple[Path, int, int, int]:
    """What changes with the content of a file: it is read several times in a run."""
    status = path.stat()
    return path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def refuse_changed(path: Path, before: tuple[Path, int, int, int]) -> None:
    """Raises a UserError where the size or the time of a file is another than in that stamp of it."""
    if not path.is_file() or stamp(path)[:3] != before[:3]:
        raise UserError(f"{path} changed while it was read. Wait until it is written, and run again.")


def encoding_of(path: Path, wanted: str | None = None) -> Encoding:
    """The encoding of a text file: `wanted`, or found by the rule above.

    Raises:
        UserError: the rule does not decide.
    """
    return Encoding(wanted) if wanted else _found(path, stamp(path))


@lru_cache(maxsize=256)
def _found(path: Path, stamp: tuple[Path, int, int, int]) -> Encoding:
    name = escape.line(path.name, 100)
    with open_binary(path) as stream:
        head = stream.read(4096)
        for mark, encoding in MARKS:
            if head.startswith(mark):
                return Encoding(encoding, f"{name} is {encoding}, by its mark" * (encoding != "utf-8"))
        if (likely := _without_mark(head)) is not None:
            return Encoding(
                likely,
                f"{name} is taken as {likely}: every other byte is 0; --data.encoding NAME takes another",
            )
    with open_binary(path) as stream:
        if _is_utf_8(stream):
            return Encoding("utf-8")
    lines: list[bytes] = []
    found = 0
    with open_binary(path) as stream:
        for line in _beyond_ascii(stream):
            try:
                line.decode("utf-8")
                return Encoding("utf-8")
            except UnicodeDecodeError:
                found += 1
            if len(lines) < SHOWN_LINES:
                lines.append(line[:LINE_BYTES])
    if found < LEAST_LINES:
        return Encoding("utf-8")
    if _is_western(lines):
        return Encoding(
            "cp1252",
            f"{name} is taken as cp1252 (Windows, Western Europe), as it is no UTF-8: the first such line is "
            f"'{_shown(lines[0], 'cp1252')}'; --data.encoding NAME takes another",
        )
    raise _question(path, lines)


def _without_mark(head: bytes) -> str | None:
    even, odd, half = head[::2].count(0), head[1::2].count(0), len(head) // 2
    if len(head) < 8 or max(even, odd) < 0.4 * half or min(even, odd) > 0.01 * half:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_utf_8(stream: IO[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := stream.read(BLOCK):
            if not block.isascii() or decoder.getstate()[0]:
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _beyond_ascii(stream: IO[bytes]) -> Iterator[bytes]:
    while line := stream.readline(LINE_BYTES):
        if not line.isascii():
            yield line.rstrip(b"\r\n")


def _is_western(lines: list[bytes]) -> bool:
    """Whether the lines are cp1252, by step 4 of the rule."""
    try:
        text = "\n".join(line.decode("cp1252") for line in lines)
        central = "\n".join(line.decode("cp1250", "replace") for line in lines)
    except UnicodeDecodeError:
        return False
    letters = [character for character in text if character.isalpha()]
    beyond = sum(not character.isascii() for character in letters)
    if (
        FOREIGN.search(text)
        or beyond > 0.4 * len(letters)
        or not {each for each in text if not each.isascii()} <= WESTERN
    ):
        return False
    return text == central or NOT_CENTRAL.search(central) is not None


def _question(path: Path, lines: list[bytes]) -> UserError:
    """Shows the first line that is not UTF-8 in each of the likeliest encodings."""
    ways: dict[str, str] = {}
    for encoding in sorted(
        OTHERS, key=lambda name: _strangeness(lines, name)
    ):  # stable: the usual ones first
        shown = _shown(lines[0], encoding)
        if _strangeness(lines, encoding) < 1 and shown not in ways.values():
            ways[encoding] = shown
    several = "; ".join(f"--data.encoding {name} reads '{shown}'" for name, shown in list(ways.items())[:4])
    return UserError(
        f"{path} is no UTF-8, and nothing in it decides what it is. Of its first line beyond ASCII, "
        f"{several or '--data.encoding NAME takes any'}. Say which it is."
    )


def _strangeness(lines: list[bytes], encoding: str) -> float:
    """The share of the characters beyond ASCII that are strange in a text; 1 where it cannot be decoded."""
    try:
        text = "\n".join(line.decode(encoding) for line in lines)
    except UnicodeDecodeError as error:
        if error.end < len(error.object) or len(error.object) < LINE_BYTES:
            return 1
        return 0.5  # a line that was cut
    beyond = [each for each in text if not each.isascii()]
    strange = sum(
        not (each in WESTERN or unicodedata.category(each) in ("Ll", "Lu", "Lo", "Lm")) for each in beyond
    )
    strange += len(re.findall(r"(?<=[^\W\d_a-zA-Z])[A-Z]|(?<=[a-z])[À-ÞЀ-Я]", text))
    upper = sum(each.isupper() for each in beyond)
    lower = sum(each.islower() for each in beyond)
    return min((strange + max(upper - lower, 0) / 2) / max(len(beyond), 1), 0.99)


def _shown(line: bytes, encoding: str) -> str:
    """The line around its first byte beyond ASCII."""
    first = next(index for index, byte in enumerate(line) if byte > 127)
    text = line.decode(encoding, "replace")
    start = max(first - SHOWN_CHARACTERS // 2, 0)  # bytes and characters up to there are the same
    return escape.line(text[start : start + SHOWN_CHARACTERS])
