"""Places of rows and names of columns; test_rows.py and test_tables.py have the cells themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_bert import UserError
from lit_bert.data.cells import Numbered, missing_column, near_column, refuse_repeated_columns, text_problem


def test_a_place_is_what_a_person_looks_for() -> None:
    assert Numbered(3, 0, {}).place == "row 3"
    assert Numbered(3, 7, {}).place == "row 3 (line 7)"
    assert Numbered(3, 7, {}, "a\n.csv").place == r"row 3 (line 7) of a\n.csv"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plain", None),
        ("ünï🙂", None),
        ("ab\udce9", "byte 0xe9 at character 3 is not UTF-8"),
        ("\ud800", "half of a surrogate pair (U+D800) at character 1"),
        ("a\udfff", "half of a surrogate pair (U+DFFF) at character 2"),
    ],
)
def test_what_keeps_a_text_from_being_utf_8_is_said_with_its_place(text: str, problem: str | None) -> None:
    assert text_problem(text) == problem


def test_in_json_a_half_that_stands_for_a_byte_elsewhere_is_a_half() -> None:
    assert text_problem("\udce9", escaped=True) == "half of a surrogate pair (U+DCE9) at character 1"


@pytest.mark.parametrize("near", ["Text", " text", "te xt", "\ufefftext", "\uff54ext", "TEXT\xa0"])
def test_a_column_that_differs_in_blanks_case_or_form_is_near(near: str) -> None:
    assert near_column("text", ["label", near, "TEXT"]) == near


@pytest.mark.parametrize("other", ["texts", "tekst", "", "text_", "text"])
def test_another_column_is_not_near_nor_is_the_column_itself(other: str) -> None:
    assert near_column("text", [other]) is None


def test_a_missing_column_is_said_with_those_there_are_and_the_flag() -> None:
    message = str(missing_column("text", ["a\x1b", "b"], "text_column", "rows.csv"))
    assert message == (
        r"rows.csv has no column 'text'; it has a\x1b, b. Name the right one with --data.text_column."
    )
    assert "it has none" in str(missing_column("text", [], "text_column", "rows.csv"))
    many = str(missing_column("text", [f"c{number}" for number in range(51)], "text_column", "rows.csv"))
    assert "c49, …." in many
    assert "c50" not in many


def test_a_near_column_is_named_to_be_taken_by_its_flag() -> None:
    message = str(missing_column("text", ["Text"], "text_column", "rows.csv"))
    assert "no column 'text', but a column 'Text'" in message
    assert "--data.text_column 'Text'" in message


def test_a_column_that_stands_twice_is_refused_and_counted() -> None:
    refuse_repeated_columns(["a", "b", "A"], Path("rows.csv"))
    with pytest.raises(UserError, match=r"rows\.csv has 3 columns named 'b'; rename all but one of them"):
        refuse_repeated_columns(["b", "a", "b", "c", "b"], Path("rows.csv"))
