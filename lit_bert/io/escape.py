"""How a user's text goes into outputs that interpret what they are given.

Class names, texts, file names and a checkpoint's values come from outside. Whatever shows them to a person or
hands them to another program (terminal, TensorBoard, Markdown, a picture, a spreadsheet) does so through the
function of that output here; HTML has its own in the pages, and JSON and Parquet keep every text as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

JOINERS = "\u200c\u200d"  # invisible, but part of how Persian words and many emoji are written
NAME_WIDTH = 40  # characters of a class name that tables and pictures show
TAG_WIDTH = 60  # characters of a class name in a TensorBoard tag
# What Markdown, in any of its dialects, gives a meaning within a line; `://`, `www.` and `@` become links.
_MARKDOWN = re.compile(r"[&<>|\\`*_\[\]!#~$@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def line(text: object, most: int | None = None) -> str:
    """The text on one line of a terminal or a log, without anything that acts on it.

    Control characters, line ends, marks that turn the direction of writing and lone surrogates become
    escapes such as `\\n`, `\\x1b` and `\\u202e`.

    Args:
        most: characters that are shown at most; a longer text ends in `…`.
    """
    shown = str(text) if most is None else str(text)[: most + 1]  # an escape is no shorter than its text
    if not (shown.isascii() and shown.isprintable()):
        shown = re.sub(r"[^ -~]", _escaped, shown)
    return shown if most is None or len(shown) <= most else shown[: most - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    return _NAMED.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, of 200 characters at most; without one, the error's type."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def names(class_names: Sequence[str], most: int = NAME_WIDTH) -> list[str]:
    """The names of classes as tables show them, a line each, of `most` characters at most, all different."""
    shown = [line(name, most) for name in class_names]
    return _distinct([name if name.strip() else repr(name) for name in shown], class_names, most, " #{}")


def tags(class_names: Sequence[str], most: int = TAG_WIDTH) -> list[str]:
    """The names of classes as parts of TensorBoard tags: readable, all different, `most` characters at most.

    They hold letters, digits, `-`, `.` and `_` alone: a slash would open a group of its own, and earlier
    versions of `torch.utils.tensorboard` write `_` for everything else by themselves, so that `a b` and
    `a+b` would meet in one curve. Where two names come out the same, an index is appended.
    """
    shown = [re.sub(r"[^-\w.]", "_", name)[:most] or "_" for name in class_names]
    return _distinct(shown, class_names, most, "_{}")


def _distinct(shown: list[str], class_names: Sequence[str], most: int, mark: str) -> list[str]:
    """`shown`, with the index of the class after those that are alike, but for one that is its own name."""
    count = Counter(shown)
    kept = [count[each] == 1 or each == name for each, name in zip(shown, class_names, strict=True)]
    taken = {each for each, keep in zip(shown, kept, strict=True) if keep}
    for index, keep in enumerate(kept):
        suffix = mark.format(index)
        while not keep and shown[index] in taken | count.keys():
            shown[index] = shown[index][: most - len(suffix)] + suffix
            suffix += "_"
        taken.add(shown[index])
    return shown


def pad(text: str, width: int) -> str:
    """The text with blanks after it up to `width` columns of a terminal, where a character may take two."""
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def width_of(texts: Sequence[str]) -> int:
    """Columns of a terminal that the widest of the texts takes; 0 of none."""
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def markdown(text: object, most: int | None = None) -> str:
    """The text on one line of Markdown, also in a cell of a table, read as it is by any dialect.

    Whatever Markdown gives a meaning becomes an HTML entity: not all dialects know a backslash before each.
    """
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", line(text, most))


def markdown_code(text: object) -> str:
    """The text as a code span of Markdown, between more backticks than it has in a row."""
    shown = line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    blank = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{blank}{shown}{blank}{fence}"


def spreadsheet(text: str) -> str:
    """A cell of CSV or TSV that a spreadsheet shows and does not run.

    An apostrophe comes before a text that starts like a formula and is no plain number
    (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    runs = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not PLAIN_NUMBER.fullmatch(text)
    return f"'{text}" if runs else text
