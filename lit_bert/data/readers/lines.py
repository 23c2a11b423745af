"""Plain lines, a text each; and the form of fastText: `__label__joy __label__love what a day`.

A .txt file is taken as fastText's where at least half of its first lines begin with a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from lit_bert.data.cells import BadRow, Numbered, text_problem
from lit_bert.data.readers.text import open_text, stamp

SAMPLE_LINES = 200
LABEL = re.compile(r"(?<!\S)__label__(\S+)[^\S\r\n]?")


def read_lines(stream: Iterable[str], encoding: str) -> Iterator[Numbered]:
    for number, line in enumerate(stream, 1):
        line = line.rstrip("\r\n")
        problem = text_problem(line, encoding=encoding)
        yield Numbered(number, number, BadRow(problem) if problem else {"text": line})


def is_fasttext(path: Path, encoding: str) -> bool:
    """Whether at least half of the first lines, but for blank ones, begin with a label."""
    with open_text(path, encoding) as stream:
        lines = [line for line in islice(stream, SAMPLE_LINES) if line.strip()]
    return bool(lines) and 2 * sum(LABEL.match(line.lstrip()) is not None for line in lines) >= len(lines)


def read_fasttext(path: Path, encoding: str) -> Iterator[Numbered]:
    """Rows with a text and its label: a list of labels in a file of which a line has several."""
    several = _has_several(path, stamp(path), encoding)
    number = 0
    with open_text(path, encoding) as stream:
        for line_number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            number += 1
            if problem := text_problem(line, encoding=encoding):
                yield Numbered(number, line_number, BadRow(problem))
                continue
            labels = LABEL.findall(line)
            label = labels if several else labels[0] if labels else None
            yield Numbered(number, line_number, {"text": LABEL.sub("", line).strip(), "label": label})


@lru_cache(maxsize=256)
def _has_several(path: Path, stamp: tuple[Path, int, int, int], encoding: str) -> bool:
    with open_text(path, encoding) as stream:
        return any(line.count("__label__") > 1 and len(LABEL.findall(line)) > 1 for line in stream)
