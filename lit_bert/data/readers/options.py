"""How a file is to be read where its name and content do not say so, or say it wrongly.

python -m lit_bert fit --data.dataset export.csv --data.delimiter ';' --data.encoding cp1252
"""

from __future__ import annotations

import codecs
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lit_bert import UserError
from lit_bert.io import escape

QUOTING = ("auto", "csv", "none")
FORMS = ("csv", "tsv", "jsonl", "json", "lines", "fasttext", "parquet", "arrow", "sheet")
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
# By the form of a file, the settings that say how it is read.
USED_BY = {
    "delimiter": ("csv", "tsv"),
    "encoding": ("csv", "tsv", "jsonl", "json", "lines", "fasttext"),
    "header": ("csv", "tsv", "sheet"),
    "sheet": ("sheet",),
    "query": ("sql",),
}


@dataclass(frozen=True)
class ReadOptions:
    """What the user says of files; None (of `quoting`: `auto`) leaves it to the file.

    Attributes:
        format: one of FORMS, whatever the name of the file ends in.
        delimiter: the character between cells.
        encoding: any that Python knows.
        header: whether the first line holds the names of the columns.
        quoting: how `"` is taken, see `dialect.dialect_of`.
        sheet: the sheet of a workbook.
        query: SQL that gives the rows of a database.
        columns: settings that name columns which have to be there, each with its value; see `header`.
    """

    format: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None
    quoting: str = "auto"
    sheet: str | None = None
    query: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMS:
            raise UserError(
                f"data.format is {escape.line(self.format, 60)}; expected one of {', '.join(FORMS)}, or null."
            )
        if self.quoting not in QUOTING:
            expected = " or ".join(QUOTING)
            raise UserError(f"data.quoting is {escape.line(self.quoting, 60)}; expected {expected}.")
        if self.delimiter is not None:
            delimiter = DELIMITERS.get(self.delimiter, self.delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n\0':
                raise UserError(
                    f"data.delimiter is '{escape.line(self.delimiter, 60)}'; expected one character, or one "
                    f"of {', '.join(name for name in DELIMITERS if name.isalpha())}."
                )
            object.__setattr__(self, "delimiter", delimiter)
        if self.encoding is not None:
            try:
                known = codecs.lookup(self.encoding)._is_text_encoding  # of `hex`, `zip` and the like: no
            except (LookupError, ValueError):
                known = False
            if not known:
                raise UserError(
                    f"data.encoding is '{escape.line(self.encoding, 60)}'; expected one that Python knows, "
                    "such as utf-8, utf-16, cp1252, iso-8859-2, cp1251 or shift-jis."
                )

    @classmethod
    def of(cls, settings: Any) -> ReadOptions:
        """Those among the arguments of EmotionDataModule, by attribute."""
        given = {each.name: settings[each.name] for each in fields(cls) if each.name != "columns"}
        named = [(name, settings[name]) for name in ("text_column", "label_column")]
        return cls(**given, columns=tuple(each for each in named if each[1] is not None))

    @property
    def key(self) -> str:
        """Changes with what the user says, but for the columns; "" where that is nothing."""
        said = asdict(replace(self, columns=()))
        given = {name: value for name, value in said.items() if value != getattr(DEFAULT, name)}
        return json.dumps(given, sort_keys=True) if given else ""

    def refuse_unused(self, form: str, place: object) -> None:
        """Raises a UserError where a setting would be ignored."""
        for name, forms in USED_BY.items():
            if getattr(self, name) is not None and form not in forms:
                raise UserError(
                    f"--data.{name} says nothing of {escape.line(place, 200)}, which is read as {form}; it "
                    f"is for {', '.join(forms)}. Leave it out."
                )


DEFAULT = ReadOptions()
