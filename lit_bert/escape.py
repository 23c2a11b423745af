"""How a user's text goes into outputs that interpret what they are given.

Class names, texts, file names and a checkpoint's values come from outside. Whatever shows them to a person or
hands them to another program (terminal, TensorBoard, Markdown, a picture, a spreadsheet) does so through the
function of that output here; HTML has its own in the pages, and JSON and Parquet keep every text as it is.
"""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # invisible, but part of how Persian words and many emoji are written
PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def line(text: object, most: int | None = None) -> str:
    """The text on one line of a terminal or a log, without anything that acts on it.

    Control characters, line ends, marks that turn the direction of writing and lone surrogates become
    escapes such as `\\n`, `\\x1b` and `\\u202e`.

    Args:
        most: characters that are shown at most; a longer text ends in `…`.
    """
    shown = str(text)
    if most is not None and len(shown) > most:
        shown = shown[: most - 1] + "…"
    return shown if shown.isascii() and shown.isprintable() else re.sub(r"[^ -~]", _escaped, shown)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    return _NAMED.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def spreadsheet(text: str) -> str:
    """A cell of CSV or TSV that a spreadsheet shows and does not run.

    An apostrophe comes before a text that starts like a formula and is no plain number
    (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    runs = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not PLAIN_NUMBER.fullmatch(text)
    return f"'{text}" if runs else text
