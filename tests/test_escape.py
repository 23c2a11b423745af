"""Texts from outside in outputs that interpret what they are given: shown as they are, never acted on."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tensorboard.plugin_util import markdown_to_safe_html
from ugly import UGLY

from lit_bert.io import escape

ACTIVE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]")

LISTS = {
    "ugly": UGLY,
    "alike once cleaned": ["a b", "a+b", "a_b", "a_b_0", "a_b_1", "a/b", "_", "", " ", "/", "//"],
    "long and alike": ["x" * 300, "x" * 301, "x" * 59 + "1", "x" * 60],
    "a name like an index": ["a b", "a+b", "a_b_1", "a_b_1_", "a_b_0"],
}


@pytest.mark.parametrize("case", LISTS)
def test_tags_are_distinct_short_and_of_safe_characters(case: str) -> None:
    tags = escape.tags(LISTS[case])
    # As older versions of torch.utils.tensorboard clean tags, and as a file system without case may.
    cleaned = [re.sub(r"[^-/\w.]", "_", f"val/f1_class/{tag}").lstrip("/") for tag in tags]
    assert len(set(cleaned)) == len(tags) == len(set(tags))
    assert all(re.fullmatch(r"[-\w.]{1,60}", tag) for tag in tags)


def test_names_that_are_tags_keep_them() -> None:
    names = ["joy", "a_b", "a b", "漢字"]
    assert escape.tags(names) == ["joy", "a_b", "a_b_2", "漢字"]


@pytest.mark.parametrize("case", LISTS)
def test_shown_names_are_distinct_and_one_line(case: str) -> None:
    shown = escape.names(LISTS[case])
    assert len(set(shown)) == len(shown)
    assert all(0 < len(name) <= 40 and name.strip() and not ACTIVE.search(name) for name in shown)


@pytest.mark.fuzz
@given(st.lists(st.text(max_size=80), min_size=1, max_size=12, unique=True))
def test_any_names_have_distinct_tags_and_shown_forms(names: list[str]) -> None:
    for shown, most in ((escape.tags(names), 60), (escape.names(names), 40), (escape.names(names, 8), 8)):
        assert len(set(shown)) == len(names)
        assert all(0 < len(each) <= most for each in shown)


def tensorboard(table: str) -> str:
    return str(markdown_to_safe_html(table))


def common_mark(table: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(table))


class Cells(HTMLParser):
    """The text of each cell of a table's body, and the tags that stand anywhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.inside = tag == "td"
        self.cells += [""] * self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


@pytest.mark.parametrize("render", [tensorboard, common_mark])
@pytest.mark.parametrize("name", UGLY)
def test_a_name_in_markdown_is_read_as_it_is(render: Any, name: str) -> None:
    found = Cells(render(f"| a | b |\n| --- | --- |\n| {escape.markdown(name)} | end |\n"))
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    wanted = escape.line(name).strip(" \u00a0\u3000")
    assert [cell.strip(" \u00a0\u3000") for cell in found.cells] == [wanted, "end"]


@pytest.mark.parametrize("name", UGLY)
def test_a_name_in_a_code_span_of_markdown_is_read_as_it_is(name: str) -> None:
    found = common_mark(f"a {escape.markdown_code(name)} b")
    code = re.fullmatch(r"<p>a <code>(.*)</code> b</p>\n", found)
    assert code
    assert html.unescape(code[1]).strip() == escape.line(name).strip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041x", "\\U000e0041x"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),  # blanks of other widths do nothing
        ("👩\u200d🚀", "👩\u200d🚀"),  # the joiner is part of the emoji
        (None, "None"),
        (7, "7"),
    ],
)
def test_a_line_escapes_what_a_terminal_acts_on(text: object, shown: str) -> None:
    assert escape.line(text) == shown


@pytest.mark.fuzz
@given(st.text(max_size=200), st.integers(2, 50))
def test_any_text_is_one_line_of_bounded_length(text: str, most: int) -> None:
    shown = escape.line(text)
    assert not ACTIVE.search(shown)
    assert len(f"{shown}|".splitlines()) == 1
    shown.encode("utf-8")
    cut = escape.line(text, most)
    assert len(cut) <= most
    assert cut == shown if len(shown) <= most else shown.startswith(cut[:-1]) and cut.endswith("…")


def test_columns_are_counted_as_a_terminal_shows_them() -> None:
    assert escape.width_of([]) == 0
    assert escape.width_of(["abc", "漢字"]) == 4  # two columns a character
    assert escape.pad("漢字", 6) == "漢字  "
    assert escape.pad("too wide", 3) == "too wide"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+A1", "'+A1"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        *((same, same) for same in ("-1", "+2.5e3", "-.5", "a=1", "", "'", " =1", "1-2")),
        ("-1+1", "'-1+1"),
        ("-1e", "'-1e"),
    ],
)
def test_a_spreadsheet_shows_a_formula_and_reads_a_number(cell: str, written: str) -> None:
    assert escape.spreadsheet(cell) == written
