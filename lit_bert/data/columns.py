"""Which columns of labelled text hold the text, and which the label: named by the user, or found.

The rule, where a column is not named:

1. `text` and `label`, exactly so called; `text` beside `text_pair` is a pair.
2. A usual name, in any case: `TEXT_NAMES`, `LABEL_NAMES`, `PAIR_NAMES`.
3. Without one: the only column of long strings is the text; the only one of few values that recur is the
   label; two or more columns of 0 and 1 are a label each.

Where that leaves none or several, it is a question to the user, with the first rows and the flags.

    python -m lit_bert fit --data.dataset reviews.csv --data.text_column title,review
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lit_bert import UserError
from lit_bert.data.cells import BadRow, CellError, Numbered, label_of
from lit_bert.io import escape
from lit_bert.io.texts import TextForm
from lit_bert.sources.text_settings import form_of, names_as_setting, parse_names

TEXT_FORMS = ("auto", "pair", "joined")  # as the setting has them
TEXT, LABEL = "text", "label"
TEXT_NAMES = (
    *(
        "text",
        "sentence",
        "tweet",
        "content",
        "review",
        "body",
        "document",
        "comment",
        "message",
        "utterance",
    ),
    *("post", "article", "description", "query", "question", "passage", "paragraph", "headline", "abstract"),
    *("texts", "sentences", "txt", "review_text", "review_body", "tweet_text", "clean_text"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classes", "category", "categories", "target", "sentiment", "intent"),
    *("emotion", "emotions", "topic", "topics", "stars", "rating", "score", "y", "tag", "tags", "gold_label"),
    *("label_text", "class_name", "polarity", "stance"),
)
PAIR_NAMES = (
    *(("text", "text_pair"), ("premise", "hypothesis"), ("question", "answer"), ("query", "passage")),
    *(("query", "document"), ("question", "passage"), ("question", "sentence"), ("claim", "evidence")),
    *((f"{name}{left}", f"{name}{right}") for name in ("sentence", "text", "question", "sent", "document")
      for left, right in (("1", "2"), ("_1", "_2"), ("a", "b"), ("_a", "_b"))),
)  # fmt: skip
ROWS = 1000  # looked at, from the first
LONG = 12  # characters of a text, on average, with more than one word
MAX_LABELS = 100  # different values of a label's column without a usual name
SHOWN_ROWS, SHOWN_COLUMNS, SHOWN_CELL = 2, 12, 40  # of a question


class Columns(NamedTuple):
    """The columns of text and label.

    Attributes:
        text: one; two of a pair; several of a joined text.
        form: single, pair or joined.
        label: one, or a column for each of several labels.
        note: what was taken for what, to be said once; "" where nothing was found that people may not expect.
    """

    text: tuple[str, ...]
    form: Literal["single", "pair", "joined"]
    label: tuple[str, ...]
    note: str = ""

    @property
    def text_form(self) -> TextForm:
        return TextForm(self.form, self.text)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Columns:
        """From `_asdict()` as JSON gives it back."""
        return cls(tuple(stored["text"]), stored["form"], tuple(stored["label"]), stored["note"])


def named_columns(text: str | None, label: str | None, form: str) -> Columns | None:
    """The columns where all are named, without a look at the data; None where some have to be found.

    A name with a comma or a quote may also be that of one column: that, the data says.
    """
    if text is None or label is None or any(sign in text + label for sign in ',"'):
        return None
    return Columns((text,), form_of((text,), form), (label,))


def find_columns(
    rows: Iterable[Numbered], text: str | None, label: str | None, form: str, where: str
) -> Columns:
    """The columns of labelled text.

    Args:
        rows: the first of them; none is held that is not looked at.
        text, label, form: as the settings have them; None is to be found.
        where: the data, for messages.

    Raises:
        UserError: what is to be found is not there or not certain; the message is a question.
    """
    table = _Table.of(rows, where)
    if not table.names:  # no rows, which is said where they are read
        return Columns((text or TEXT,), "single", (label or LABEL,))
    text_names = _exact_or_parsed(text, table, "text_column")
    label_names = _exact_or_parsed(label, table, "label_column")
    found = {}  # what people may not expect, by its flag
    if text_names is None:
        text_names = table.find_text(form, label_names or ())
        if text_names != (TEXT,):
            pair = "the pair " if len(text_names) == 2 else ""
            found["text_column"] = f"the text is {pair}{_listed(text_names)}"
    kind = form_of(text_names, form)
    if label_names is None:
        label_names = table.find_label(text_names)
        if label_names != (LABEL,):
            are = "the label is" if len(label_names) == 1 else "labels are"
            found["label_column"] = f"{are} {_listed(label_names)}"
    flags = ", ".join(f"--data.{flag}" for flag in found)
    note = f"columns: {', '.join(found.values())} ({flags})" if found else ""
    return Columns(text_names, kind, label_names, note)


def find_text(names: Sequence[str], rows: Iterable[Numbered], form: TextForm) -> tuple[str, ...] | None:
    """The columns of a file to label that has not those of the model, where only one reading is possible."""
    table = _Table.of(rows, "")
    table.names = list(names)
    if form.kind == "single":
        found = table.by_name(TEXT, TEXT_NAMES) or table.long_columns()
        return tuple(found) if len(found) == 1 else None
    pairs = table.pairs() if form.kind == "pair" else []
    return pairs[0] if len(pairs) == 1 else None


def _exact_or_parsed(text: str | None, table: _Table, setting: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    return (text,) if text in table.names else parse_names(text, setting)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{escape.line(name, 60)}'" for name in names)


class _Table:
    """The first rows of some data, by column.

    Args:
        cells: of each column, those that are there, strings and other values.
        where: the data, for messages.
    """

    def __init__(self, cells: dict[str, list[Any]], where: str) -> None:
        self.cells, self.where = cells, where
        self.names = list(cells)

    @classmethod
    def of(cls, rows: Iterable[Numbered], where: str) -> _Table:
        cells: dict[str, list[Any]] = {}
        for count, numbered in enumerate(rows):
            if count == ROWS:
                break
            if not isinstance(numbered.row, BadRow):
                for name, value in numbered.row.items():
                    cells.setdefault(name, []).append(value)
        return cls(cells, where)

    # --- by name ---

    def by_name(self, exact: str, usual: Sequence[str], but: Sequence[str] = ()) -> list[str]:
        """The column that is called exactly so; else all that have a usual name."""
        names = [name for name in self.names if name not in but]
        if exact in names:
            return [exact]
        return [name for name in names if name.strip().casefold() in usual]

    def pairs(self, but: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Two columns whose names are those of a pair, in any case."""
        by_name = {name.strip().casefold(): name for name in self.names if name not in but}
        return [
            (by_name[first], by_name[second])
            for first, second in PAIR_NAMES
            if first in by_name and second in by_name
        ]

    # --- by content ---

    def strings(self, name: str) -> list[str]:
        return [value for value in self.cells.get(name, ()) if isinstance(value, str) and value.strip()]

    def long_columns(self, but: Sequence[str] = ()) -> list[str]:
        """Columns of long strings of several words, most of them different."""
        return [name for name in self.names if name not in but and self._is_long(name)]

    def _is_long(self, name: str) -> bool:
        texts = self.strings(name)
        if not texts or 2 * len(texts) < len(self.cells[name]):
            return False
        several = sum(len(text.split()) > 1 for text in texts)
        return (
            sum(map(len, texts)) >= LONG * len(texts)
            and 2 * several > len(texts)
            and 2 * len(set(texts)) > len(texts)
        )

    def _values(self, name: str) -> list[str]:
        """The labels in a column; [] where it has a cell that cannot be one."""
        try:
            return [found for value in self.cells.get(name, ()) if (found := label_of(value)) is not None]
        except CellError:
            return []

    def _recurs(self, name: str) -> bool:
        values = self._values(name)
        distinct = len(set(values))
        return 2 <= distinct <= MAX_LABELS and 2 * distinct <= len(values)

    def _is_zero_or_one(self, name: str) -> bool:
        values = self._values(name)
        return bool(values) and set(values) <= {"0", "1", "true", "false"} and not (
            {"0", "1"} & set(values) and {"true", "false"} & set(values)
        )  # fmt: skip

    # --- what is taken, or asked ---

    def find_text(self, form: str, taken: Sequence[str]) -> tuple[str, ...]:
        """The columns of the text, which is not in those that are taken."""
        if form == "joined":
            raise UserError(
                "data.text_form is joined, and nothing says of which columns; name them, as in "
                "--data.text_column title,body."
            )
        pairs, named = self.pairs(taken), self.by_name(TEXT, TEXT_NAMES, taken)
        if (own := (TEXT, "text_pair")) in pairs:
            return own
        others = [name for name in named if not pairs or name not in pairs[0]]
        if len(pairs) == 1 and (form == "pair" or not others):
            return pairs[0]
        if form == "pair":
            raise self._question(TEXT, [names_as_setting(pair) for pair in pairs], taken)
        if len(named) == 1 and (not pairs or TEXT in named):
            return (named[0],)
        if named or pairs:
            raise self._question(TEXT, [*named, *(names_as_setting(pair) for pair in pairs)], taken)
        long = self.long_columns(taken)
        if len(long) == 1:
            return (long[0],)
        raise self._question(TEXT, long or self.names, taken)

    def find_label(self, text: Sequence[str]) -> tuple[str, ...]:
        """The columns of the label, which is not in those of the text."""
        named = self.by_name(LABEL, LABEL_NAMES, text)
        if len(named) == 1:
            return (named[0],)
        if named:
            raise self._question(LABEL, named, text)
        others = [name for name in self.names if name not in text]
        binary = [name for name in others if self._is_zero_or_one(name)]
        recurring = [name for name in others if self._recurs(name) and not self._is_long(name)]
        if len(binary) > 1 and set(recurring) <= set(binary):
            return tuple(binary)
        if len(recurring) == 1:
            return (recurring[0],)
        raise self._question(LABEL, recurring or others, text)

    def _question(self, what: str, candidates: Sequence[str], taken: Sequence[str]) -> UserError:
        """What to say where the columns do not say it: they, with their first cells, and a flag for each."""
        columns = [name for name in self.names if name not in taken]
        if not columns:
            has = f"it has {_listed(self.names)}" if self.names else "it has no columns"
            return UserError(f"{self.where} has no column for the {what}: {has}. Add one, and run again.")
        cells = [
            f"{escape.line(name, SHOWN_CELL)}: "
            + ", ".join(map(_cell, self.cells.get(name, ())[:SHOWN_ROWS]))
            for name in columns[:SHOWN_COLUMNS]
        ]
        more = "; …" if len(columns) > SHOWN_COLUMNS else ""
        which = [name for name in candidates if name not in taken][:SHOWN_COLUMNS] or columns
        flags = " or ".join(f"--data.{what}_column {_quoted(name)}" for name in which)
        return UserError(
            f"{self.where}: which column is the {what}? The first rows are: {'; '.join(cells)}{more}. "
            f"Say it with {flags}."
        )


def _cell(value: Any) -> str:
    shown = value if isinstance(value, str) else str(value)
    return escape.line(json.dumps(shown, ensure_ascii=False), SHOWN_CELL)


def _quoted(name: str) -> str:
    shown = escape.line(name, 100)
    return shown if shown.replace(",", "").replace("_", "").replace("-", "").isalnum() else f"'{shown}'"


def check_same_form(trained: TextForm, now: TextForm) -> None:
    """Raises a UserError where a model that was trained on texts of one form would be given another."""
    same_names = trained.kind != "joined" or trained.columns == now.columns  # they are part of the text
    if trained.kind != now.kind or not same_names:
        raise UserError(
            f"the model was trained on {trained.described}, and these are {now.described}. Name columns of "
            "that kind with --data.text_column."
        )


def stored_form(columns: Columns) -> Literal["auto", "pair", "joined"]:
    """The setting by which the same columns are read in the same form."""
    return "auto" if columns.form == "single" else columns.form
