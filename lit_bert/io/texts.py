"""What a text is made of: one string, a pair of strings, or several columns joined; and their tokens.

- `single`: a string.
- `pair`: two strings, encoded as two segments by the tokenizer's own template, cut longest first.
- `joined`: several columns as one string, a line `name: value` each, line ends in a value as blanks. As
  tokens each line is cut by its share, so that a long one never pushes another out, and the tokenizer's last
  special token (BERT's [SEP]) stands between two lines.

numpy and tokenizers only, as the predictor uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lit_bert import UserError
from lit_bert.io import escape, tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Text = str | tuple[str, str]  # a pair is two strings
CONFIG_KEY = "lit_bert_text"  # in the config.json of an exported folder: form and columns, where not single
MAX_COLUMNS = 100
GAP = "\n\n"  # between the texts of a pair where they are shown
TOKENIZED_CHARACTERS = 1 << 20  # at a time: an encoding takes a hundred times the memory of its ids


class TextEncoding(NamedTuple):
    """The tokens that are read of a pair or of joined columns, by the names of a `tokenizers.Encoding`.

    Attributes:
        offsets: those in `display`.
        whole: how many tokens the text has, special ones included.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    special_tokens_mask: list[int]
    whole: int

    @property
    def overflowing(self) -> bool:
        """Whether it was cut."""
        return self.whole > len(self.ids)


@dataclass(frozen=True)
class TextForm:
    """How the cells of a row make its text.

    Attributes:
        kind: single, pair or joined.
        columns: whose cells they are, in order.
    """

    kind: Literal["single", "pair", "joined"] = "single"
    columns: tuple[str, ...] = ("text",)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TextForm:
        """That of the config.json of an exported folder.

        Raises:
            UserError: it says something else.
        """
        said: Any = config.get(CONFIG_KEY)
        if said is None:
            return cls()
        read = said if isinstance(said, dict) else {}
        kind: Any = read.get("form")
        columns: Any = read.get("columns")
        named = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
        fits = {"pair": named and len(columns) == 2, "joined": named and 2 <= len(columns) <= MAX_COLUMNS}
        if not isinstance(kind, str) or not fits.get(kind) or len(set(columns)) < len(columns):
            raise UserError(
                f"config.json has a {CONFIG_KEY} of {escape.line(repr(said), 100)}; expected form pair or "
                "joined, and its columns"
            )
        known: Any = kind
        return cls(known, tuple(columns))

    def as_config(self) -> dict[str, Any] | None:
        """What `from_config` reads; None where nothing has to be said."""
        return None if self.kind == "single" else {"form": self.kind, "columns": list(self.columns)}

    def text_of(self, cells: Sequence[str | None]) -> Text | None:
        """The text of a row, of the cell of each column; None where it has none.

        A pair needs both cells, a joined text at least one.
        """
        if self.kind == "joined":
            return self._join([cell or "" for cell in cells]) if any(cells) else None
        there = [cell for cell in cells if cell is not None]
        return self.of_parts(there) if len(there) == len(cells) else None

    def text_from(self, given: Any) -> Text:
        """The text of what a user of the predictor gives: a string, two of them, or one by column.

        Raises:
            TypeError: it is something else; the message says what was expected.
        """
        if self.kind == "single" and isinstance(given, str):
            return _readable(given)
        is_list = isinstance(given, list | tuple)
        if self.kind == "pair" and is_list and len(given) == 2 and _are_strings(given):
            return _readable(given[0]), _readable(given[1])
        if self.kind == "joined" and isinstance(given, Mapping) and set(given) == set(self.columns):
            cells = [given[column] for column in self.columns]
            if _are_strings(cells):
                return self._join(list(map(_readable, cells)))
        raise TypeError(f"expected {self.expected}")

    def of_parts(self, parts: Sequence[str]) -> Text:
        """The text of the strings that `part_spans` tells apart."""
        if self.kind == "joined":
            return self._join(parts)
        return parts[0] if self.kind == "single" else (parts[0], parts[1])

    def parts(self, text: Text) -> list[str]:
        """The string of each column."""
        return [display(text)[start:end] for start, end in self.part_spans(text)]

    def part_spans(self, text: Text) -> list[tuple[int, int]]:
        """Where in `display(text)` each column's string stands."""
        lines = text.split("\n") if self.kind == "joined" and isinstance(text, str) else strings_of(text)
        heads = [len(label) + 2 for label in self.labels] if self.kind == "joined" else [0] * len(lines)
        gap = 1 if self.kind == "joined" else len(GAP)
        spans, place = [], 0
        for line, head in zip(lines, heads, strict=True):
            spans.append((place + head, place + len(line)))
            place += len(line) + gap
        return spans

    def example(self, text: str) -> Any:
        """What `text_from` takes, with that string in each place."""
        if self.kind == "joined":
            return dict.fromkeys(self.columns, text)
        return text if self.kind == "single" else [text, text]

    @property
    def expected(self) -> str:
        """What a text is given as, for a message."""
        names = [escape.line(column, 60) for column in self.columns]
        if self.kind == "single":
            return "a list of strings"
        if self.kind == "pair":
            return f"a list of pairs of strings ({names[0]}, {names[1]})"
        return f"a list of mappings of strings with the keys {', '.join(names)}"

    @property
    def described(self) -> str:
        """The texts, in words."""
        names = ", ".join(f"'{escape.line(column, 60)}'" for column in self.columns)
        what = {"single": "texts of the column", "pair": "pairs of", "joined": "the joined columns"}
        return f"{what[self.kind]} {names}"

    def encode(
        self, tokenizer: Tokenizer, texts: Iterable[Text], max_length: int, offsets: bool = False
    ) -> Iterator[Any]:
        """The encoding of each text, `TOKENIZED_CHARACTERS` of them at a time; see `tokenizers.encode`.

        Single texts are as the tokenizer leaves them, whole or cut; pairs and joined columns are cut at
        `max_length` tokens.

        Args:
            tokenizer: which cuts nothing off, unless the texts are single.
        """
        some = self._encoder(tokenizer, max_length, offsets)
        return (each for texts in _by_characters(texts) for each in some(texts))

    def _encoder(
        self, tokenizer: Tokenizer, max_length: int, offsets: bool
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """From some texts to their encodings."""
        if self.kind == "single":
            return lambda texts: tokenizers.encode(tokenizer, texts, offsets)
        assert tokenizer.truncation is None, "the tokenizer would cut the texts itself"
        if self.kind == "joined":
            joiner = _Joiner(self, tokenizer, max_length)
            self._check_room(max_length, joiner.least)
            return lambda texts: joiner.encode(texts, offsets)
        special = tokenizer.num_special_tokens_to_add(True)
        self._check_room(max_length, special + 2)

        def pairs(texts: Sequence[tuple[str, str]]) -> list[Any]:
            encodings = tokenizers.encode(tokenizer, texts, offsets)
            starts = (len(first) + len(GAP) for first, _ in texts)
            return [
                each
                if len(each.ids) <= max_length and not offsets
                else _read_pair(each, max_length - special, start)
                for each, start in zip(encodings, starts, strict=True)
            ]

        return pairs

    def token_types(self, tokenizer: Tokenizer, type_vocab_size: int) -> bool:
        """Whether the network is told which segment a token is of.

        Args:
            type_vocab_size: segments that it knows; 0 or 1 where the architecture has none.
        """
        if self.kind != "pair" or type_vocab_size < 2:
            return False
        largest = max(tokenizers.encode(tokenizer, [("a", "a")])[0].type_ids)
        if largest >= type_vocab_size:
            raise UserError(
                f"the tokenizer numbers segments up to {largest}; the model knows {type_vocab_size} of them. "
                "Use the tokenizer that the model was published with."
            )
        return bool(largest)

    def _check_room(self, max_length: int, least: int) -> None:
        """Raises a UserError where a text has no room for a token of each of its columns."""
        if max_length < least:
            raise UserError(
                f"data.max_length is {max_length}; expected at least {least} for the columns "
                f"{', '.join(escape.line(column, 60) for column in self.columns)}."
            )

    def _join(self, cells: Sequence[str]) -> str:
        values = (cell.replace("\r", " ").replace("\n", " ") for cell in cells)
        return "\n".join(f"{name}: {value}" for name, value in zip(self.labels, values, strict=True))

    @property
    def labels(self) -> list[str]:
        """What the columns are called in a joined text: their names on one line."""
        return [" ".join(column.split()) for column in self.columns]


SINGLE = TextForm()


def strings_of(text: Text) -> tuple[str, ...]:
    """The strings of a text: two of a pair, else one."""
    return (text,) if isinstance(text, str) else text


def display(text: Text) -> str:
    """A text as one string, for people: those of a pair with an empty line between them."""
    return GAP.join(strings_of(text))


def whole_length(encoding: Any) -> int:
    """Tokens that the text of an encoding of `TextForm.encode` has, special ones included."""
    return encoding.whole if isinstance(encoding, TextEncoding) else len(encoding.ids)


def _by_characters(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """The texts, `TOKENIZED_CHARACTERS` of them at a time, or one that is longer."""
    some: list[Text] = []
    characters = 0
    for text in texts:
        size = sum(map(len, strings_of(text)))
        if some and characters + size > TOKENIZED_CHARACTERS:
            yield some
            some, characters = [], 0
        some.append(text)
        characters += size
    if some:
        yield some


def _read_pair(encoding: Any, room: int, start: int) -> TextEncoding:
    """What is read of a pair's whole encoding, the longer text cut first, as the tokenizers library does.

    That library would return what it cuts off as well, each piece of a text beside each of the other.

    Args:
        room: for tokens that are not special.
        start: of the second text in `display`; its words are counted on from those of the first.
    """
    of = np.array([-1 if each is None else each for each in encoding.sequence_ids])
    sizes = [int((of == number).sum()) for number in (0, 1)]
    if sum(sizes) > room:
        less = min(*sizes, room // 2)
        sizes = [room - less, less] if sizes[0] > sizes[1] else [less, room - less]
    is_read = of < 0
    for number, size in enumerate(sizes):
        is_read[np.flatnonzero(of == number)[:size]] = True
    words = 1 + max((each for each in encoding.word_ids if each is not None), default=0)
    ids, types, special = encoding.ids, encoding.type_ids, encoding.special_tokens_mask
    offsets, word_ids = encoding.offsets, encoding.word_ids
    found = TextEncoding([], [], [], [], [], len(ids))
    for place in np.flatnonzero(is_read).tolist():
        late = of[place] == 1
        first, last = offsets[place]
        word = word_ids[place]
        found.ids.append(ids[place])
        found.type_ids.append(types[place])
        found.offsets.append((first + start, last + start) if late else (first, last))
        found.word_ids.append(word + words if late and word is not None else word)
        found.special_tokens_mask.append(special[place])
    return found


def shown(text: Text) -> str:
    """A text on one line, white space as blanks: for people."""
    return " | ".join(" ".join(each.split()) for each in strings_of(text))


def text_cells(text: Text) -> dict[str, str]:
    """The columns of a text in a table: `text`, and `text_pair` of a pair."""
    return dict(zip(("text", "text_pair"), strings_of(text), strict=False))


def shares(needs: Sequence[int], room: int) -> list[int]:
    """Tokens that each column gets of `room`: an equal share, and what the others do not need."""
    given = [0] * len(needs)
    left = sorted(range(len(needs)), key=lambda index: needs[index])
    for count, index in zip(range(len(needs), 0, -1), left, strict=True):
        given[index] = min(needs[index], room // count)
        room -= given[index]
    return given


class _Joiner:
    """Encodes joined texts with one tokenizer.

    Attributes:
        least: tokens that the heads of the lines, special ones and one of each value take.
    """

    def __init__(self, form: TextForm, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer, self.heads = tokenizer, [f"{label}:" for label in form.labels]
        around = tokenizers.encode(tokenizer, ["a"])[0]
        inner = [index for index, special in enumerate(around.special_tokens_mask) if not special]
        self.start = around.ids[: inner[0]] if inner else around.ids[:-1]
        self.end = around.ids[inner[-1] + 1 :] if inner else around.ids[-1:]
        self.between = self.end[-1:]
        self.head_ids = [each.ids for each in self._plain(self.heads)]
        special = len(self.start) + len(self.end) + len(self.between) * (len(self.heads) - 1)
        self.taken = special + sum(map(len, self.head_ids))
        self.least = self.taken + len(self.heads)
        self.max_length = max_length

    def _plain(self, parts: list[str], offsets: bool = False) -> list[Any]:
        return tokenizers.encode(self.tokenizer, parts, offsets, special=False)

    def encode(self, texts: Sequence[str], offsets: bool) -> list[TextEncoding]:
        lines = [text.split("\n") for text in texts]
        # With the blank before it, a value has the tokens that it has in the line.
        both = [(line, len(head)) for some in lines for line, head in zip(some, self.heads, strict=True)]
        values = [line[start:] if len(line) > start + 1 else "" for line, start in both]
        columns, encoded = len(self.heads), self._plain(values, offsets)
        return [
            self._one(lines[index], encoded[index * columns : (index + 1) * columns])
            for index in range(len(texts))
        ]

    def _one(self, lines: list[str], values: list[Any]) -> TextEncoding:
        given = shares([len(each.ids) for each in values], self.max_length - self.taken)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        words: list[int | None] = []
        special: list[int] = []

        def add(some: list[int], is_special: bool) -> None:
            ids.extend(some)
            offsets.extend([(0, 0)] * len(some))
            words.extend([None] * len(some))
            special.extend([int(is_special)] * len(some))

        add(self.start, True)
        place = word = 0
        for column, (line, value, count) in enumerate(zip(lines, values, given, strict=True)):
            if column:
                add(self.between, True)
            add(self.head_ids[column], True)  # the same in every text, and so no word of it
            start = place + len(self.heads[column])
            ids += value.ids[:count]
            offsets += [(start + first, start + last) for first, last in value.offsets[:count]]
            words += [None if each is None else word + each for each in value.word_ids[:count]]
            special += [0] * count
            word += len(value.word_ids)
            place += len(line) + 1
        add(self.end, True)
        whole = self.taken + sum(len(each.ids) for each in values)
        return TextEncoding(ids, [0] * len(ids), offsets, words, special, whole)


def _are_strings(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _readable(text: str) -> str:
    """The text as UTF-8 can hold it: the tokenizer refuses lone surrogates, and their whole batch."""
    return text.encode("utf-8", "replace").decode("utf-8")
