"""Which columns are the text and the label: named, found by usual names or by content, or asked for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from conftest import CLASSES, Run, texts_of, write_csv
from hypothesis import given
from hypothesis import strategies as st

from lit_bert import UserError
from lit_bert.data.cells import BadRow, Numbered
from lit_bert.data.columns import Columns, find_columns, named_columns
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.text_settings import form_in_settings, names_as_setting, parse_names

TEXTS = [text for label in CLASSES for text in texts_of(label, 4)]
FEW = ["fee", "debit", "cheque"] * 4
BITS = ["0", "1", "1"] * 4


def found(named: str | None = None, /, **columns: Any) -> Columns:
    """The columns found in a table of these; `named` is the setting of the text."""
    cells = zip(*columns.values(), strict=True)
    rows = [Numbered(n, n, dict(zip(columns, each, strict=True))) for n, each in enumerate(cells, 1)]
    return find_columns(rows, named, None, "auto", "rows.csv")


def question(**columns: Any) -> str:
    with pytest.raises(UserError) as error:
        found(**columns)
    message = str(error.value)
    assert "\n" not in message
    return message


# --- found ---


def test_text_and_label_win_over_all_other_names() -> None:
    rows = [Numbered(1, 1, {"sentence": "a", "text": "b", "class": "c", "label": "d"})]
    assert find_columns(rows, None, None, "auto", "x") == Columns(("text",), "single", ("label",))


@pytest.mark.parametrize("text", ["Sentence", "TWEET", "review", " content "])
@pytest.mark.parametrize("label", ["Category", "stars", "SENTIMENT", "y"])
def test_usual_names_are_found_in_any_case_and_said(text: str, label: str) -> None:
    columns = found(**{"id": list(range(12)), text: TEXTS, label: FEW})
    assert columns[:3] == ((text,), "single", (label,))
    assert f"the text is '{text}', the label is '{label}'" in columns.note
    assert "--data.text_column" in columns.note


@pytest.mark.parametrize(
    "pair",
    [("premise", "hypothesis"), ("Sentence1", "Sentence2"), ("text_a", "text_b"), ("text", "text_pair")],
)
def test_two_texts_a_row_are_a_pair_in_the_order_of_the_names(pair: tuple[str, str]) -> None:
    swapped = found(**{pair[1]: TEXTS, "label": FEW, pair[0]: TEXTS})
    assert swapped.text == pair
    assert swapped.form == "pair"
    assert "the pair" in swapped.note


def test_without_names_content_decides() -> None:
    columns = found(column_1=TEXTS, column_2=FEW, column_3=[str(n) for n in range(12)])
    assert columns[:3] == (("column_1",), "single", ("column_2",))


def test_columns_of_0_and_1_are_a_label_each() -> None:
    assert found(text=TEXTS, fee=BITS, debit=BITS[::-1], cheque=[1, 0, 0] * 4).label == (
        "fee",
        "debit",
        "cheque",
    )
    assert found(text=TEXTS, fee=BITS, debit=BITS, label=FEW).label == ("label",)
    assert found(text=TEXTS, only=BITS).label == ("only",)


def test_rows_that_cannot_be_read_are_left_to_the_reader() -> None:
    rows = [Numbered(1, 1, BadRow("broken")), Numbered(2, 2, {"text": "a", "label": "b"})]
    assert find_columns(rows, None, None, "auto", "x").text == ("text",)
    assert find_columns([], None, None, "auto", "x") == Columns(("text",), "single", ("label",))


def test_no_more_than_the_first_rows_are_held() -> None:
    read = 0

    def rows() -> Any:
        nonlocal read
        while True:
            read += 1
            yield Numbered(read, read, {"Tweet": f"a text number {read}", "mood": "ab"[read % 2]})

    assert find_columns(rows(), None, None, "auto", "x")[:3] == (("Tweet",), "single", ("mood",))
    assert read <= 1001


# --- asked ---


def test_two_columns_that_may_be_the_text_are_a_question_with_rows_and_flags() -> None:
    message = question(column_1=TEXTS, column_2=TEXTS[::-1], label=FEW)
    for part in (
        "rows.csv: which column is the text?",
        f'column_1: "{TEXTS[0]}"',
        "--data.text_column column_1 or --data.text_column column_2",
    ):
        assert part in message


def test_two_usual_names_are_a_question() -> None:
    message = question(review=TEXTS, comment=TEXTS, label=FEW)
    assert "--data.text_column review or --data.text_column comment" in message
    message = question(text=TEXTS, stars=FEW, category=FEW)
    assert "--data.label_column stars or --data.label_column category" in message
    message = question(premise=TEXTS, hypothesis=TEXTS, comment=TEXTS, label=FEW)
    assert "--data.text_column premise,hypothesis" in message


def test_nothing_that_could_be_a_label_is_a_question() -> None:
    message = question(text=TEXTS, number=list(range(12)))
    assert "which column is the label?" in message
    assert "--data.label_column number" in message
    assert "has no column for the label" in question(text=TEXTS)


def test_a_column_of_few_words_beside_columns_of_0_and_1_is_a_question() -> None:
    assert "which column is the label?" in question(text=TEXTS, a=BITS, b=BITS, kind=FEW)


def test_names_and_cells_in_a_question_are_one_line_without_control_characters() -> None:
    message = question(**{"a\nb": ["x\x1b[31m y z\n w v"] * 12, "c\x07": FEW})
    assert message.isprintable()


# --- named ---


def test_names_are_parsed_as_a_line_of_csv_and_written_back() -> None:
    for names in (("a",), ("a", "b"), ("a,b",), ("a,b", 'c"d', "e"), (" a ",), ("x y", "z")):
        assert parse_names(names_as_setting(names), "text_column") == names
    assert parse_names("premise, hypothesis", "text_column") == ("premise", "hypothesis")
    for bad in ("a,,b", "a,a", '"a', ",".join(f"c{n}" for n in range(101))):
        with pytest.raises(UserError, match=r"data\.text_column is "):
            parse_names(bad, "text_column")


def test_a_column_whose_name_has_a_comma_is_that_column() -> None:
    columns = found("a,b", **{"a,b": TEXTS, "label": FEW})
    assert columns[:2] == (("a,b",), "single")


def test_the_form_follows_from_the_number_of_columns() -> None:
    assert form_in_settings("a,b", "auto").kind == "pair"
    assert form_in_settings("a,b", "joined").kind == "joined"
    assert form_in_settings("a,b,c", "auto").kind == "joined"
    with pytest.raises(UserError, match=r"text_form is pair.*3 columns \(a, b, c\).*expected two.*joined"):
        form_in_settings("a,b,c", "pair")
    with pytest.raises(UserError, match="names one column"):
        form_in_settings("a", "joined")


def test_named_columns_need_no_look_at_the_data() -> None:
    assert named_columns("a", "b", "auto") == Columns(("a",), "single", ("b",))
    assert named_columns(None, "b", "auto") is None
    assert named_columns("a,b", "c", "auto") is None


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([1]))


@pytest.mark.fuzz
@given(st.lists(st.dictionaries(st.text(max_size=12), CELLS, max_size=5), max_size=12))
def test_any_rows_give_columns_that_are_there_or_one_line(rows: list[dict[str, Any]]) -> None:
    found = None
    try:
        found = find_columns([Numbered(n, n, row) for n, row in enumerate(rows)], None, None, "auto", "x")
        said = found.note
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert "\x1b" not in said
    there = {name for row in rows for name in row}
    if found and there:
        assert {*found.text, *found.label} <= there
        assert not {*found.text} & {*found.label}


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique_by=str.strip))
def test_any_names_survive_the_setting(names: list[str]) -> None:
    kept = tuple(name.strip() for name in names)
    if len(kept) > 1 and all(kept) and not any(sign in name for name in kept for sign in "\r\n\0"):
        assert parse_names(names_as_setting(kept), "text_column") == kept


# --- in a run ---


@pytest.fixture(scope="module")
def flags(tiny_bert: Path) -> list[str]:
    return [
        *(f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1", "--data.batch_size=8"),
        *("--trainer.accelerator=cpu", "--data.val_fraction=0.4"),
    ]


def test_a_fit_says_what_it_found_and_keeps_it_for_the_other_verbs(run: Run, flags: list[str]) -> None:
    rows = [{"Sentence": text, "Category": label} for label in CLASSES for text in texts_of(label, 8)]
    write_csv(Path("rows.csv"), rows)
    fit = run("fit", "--data.dataset=rows.csv", *flags)
    assert fit.code == 0, fit.err
    assert "columns: the text is 'Sentence', the label is 'Category'" in fit.err
    settings = Checkpoint.open(Path("checkpoints/version_0/best.ckpt")).data.settings
    assert (settings.text_column, settings.label_column) == ("Sentence", "Category")
    # A configuration that leaves them to be found means those of the checkpoint.
    config = "--config=checkpoints/version_0/config.yaml"
    assert "text_column: null" in Path("checkpoints/version_0/config.yaml").read_text()
    resumed = run("fit", "--ckpt_path=last", config, "--trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    Path("open.yaml").write_text("data: {text_column: null, label_column: null, text_form: auto}\n")
    assert run("test", "--config=open.yaml", "--data.test_split=validation").code == 0
    # Other data has to have the same columns for a score; for labels, one that must be meant is enough.
    write_csv(Path("other.csv"), [{"id": n, "Tweet": row["Sentence"]} for n, row in enumerate(rows)])
    test = run("test", "--data.dataset=other.csv", "--data.test_split=train")
    assert test.code == 2
    assert "has no column 'Sentence'" in test.err
    predicted = run("predict", "--input=other.csv", "--output=out.csv")
    assert predicted.code == 0, predicted.err
    assert "other.csv has no column 'Sentence': the text is 'Tweet' (--data.text_column)" in predicted.err
    with Path("out.csv").open(newline="") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == [str(n) for n in range(24)]
    named = run("predict", "--input=other.csv", "--output=out.csv", "--data.text_column=Sentence")
    assert (named.code, "has no column 'Sentence'" in named.err) == (2, True)


def test_a_question_stops_a_fit_in_one_line(refused: Any, flags: list[str]) -> None:
    rows = [{"one": text, "two": text, "label": label} for label in CLASSES for text in texts_of(label, 4)]
    write_csv(Path("rows.csv"), rows)
    line = refused("fit", "--data.dataset=rows.csv", *flags)
    assert "which column is the text?" in line
    line = refused("fit", "--data.dataset=rows.csv", "--data.text_column=one,two,label", *flags,
                   "--data.text_form=pair")  # fmt: skip
    assert "names 3 columns" in line
