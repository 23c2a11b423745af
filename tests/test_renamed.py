"""Settings that got another name: the old one means the new one wherever it stands, and a line says so."""

import json
import re
from pathlib import Path

import pytest
import yaml

from lit_bert import UserError
from lit_bert.cli import renamed
from lit_bert.cli.renamed import with_new_names

TABLE = {"data.rows": "data.batch_size", "data.old": "trainer", "model.rate": "model.learning_rate"}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], []),
        (["--data.rows=5"], ["--data.batch_size=5"]),
        (["--data.rows", "5", "--data.rows_more", "6"], ["--data.batch_size", "5", "--data.rows_more", "6"]),
        (["--data.rows", "-5"], ["--data.batch_size", "-5"]),
        (["--data.rows+=5", "--data.rows+", "6"], ["--data.batch_size+=5", "--data.batch_size+", "6"]),
        (["--data.old.max_epochs=5"], ["--trainer.max_epochs=5"]),
        (["--data.rows"], ["--data.batch_size"]),
        (["--print_config", "--data.rows=a=b"], ["--print_config", "--data.batch_size=a=b"]),
        (["word", "--print_config", "-c", "gone.yaml"], ["word", "--print_config", "-c", "gone.yaml"]),
        (["--x", "data.rows", "--data.text_column", "data.rows"], None),
        (["--data.dataset={odd.csv", "--input", "rows: 5"], None),
        (['--data={"rows": 5, "seed": 1}'], ['--data={"seed": 1, "batch_size": 5}']),
        (["--data", "{old: {a: 1}, seed: 1e3}"], ['--data={"seed": 1000.0}', '--trainer={"a": 1}']),
        (["--config={data: {rows: 5}, seeds: no}"], ['--config={"data": {"batch_size": 5}, "seeds": false}']),
        (
            ["--config={data: {old: {a: 1}}, trainer: {b: 2}}"],
            ['--config={"data": {}, "trainer": {"b": 2, "a": 1}}'],
        ),
    ],
)
def test_an_old_name_is_the_new_one_wherever_it_stands(arguments, wanted):
    assert with_new_names(arguments, TABLE) == (arguments if wanted is None else wanted)


def test_each_old_name_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(renamed.log, "info", said.append)
    with_new_names(["--data.rows=5", "--data.rows=6", "--model.weight_decay=1"], TABLE)
    assert said == ["data.rows is called data.batch_size now; the old name works until the next release"]


@pytest.mark.parametrize("form", [f"{flag}place/mine.yaml" for flag in ("--config=", "--config ", "-c ")])
def test_a_configuration_is_read_with_the_files_that_it_names(form):
    Path("place").mkdir()
    Path("place/mine.yaml").write_text("model: model.yaml\ndata: {rows: 3, text_column: '1e3'}\n")
    Path("place/model.yaml").write_text("rate: 0.5\n")
    (argument,) = with_new_names(form.split(), TABLE)
    wanted = {"model": {"learning_rate": 0.5}, "data": {"text_column": "1e3", "batch_size": 3}}
    assert json.loads(argument.removeprefix("--config=")) == wanted


def test_a_configuration_without_old_names_stays_a_file():
    Path("mine.yaml").write_text("data: {batch_size: 3}\n")
    assert with_new_names(["--config", "mine.yaml"], TABLE) == ["--config", "mine.yaml"]


def test_a_setting_by_both_of_its_names_is_refused():
    with pytest.raises(UserError, match=r"has data\.batch_size and data\.rows, its old name"):
        with_new_names(["--config={data: {rows: 5, batch_size: 6}}"], TABLE)


def test_the_parser_takes_what_was_renamed(capfd, monkeypatch):
    from lit_bert.__main__ import main

    monkeypatch.setattr(renamed, "RENAMED", TABLE)
    Path("mine.yaml").write_text(f"data: {{rows: 3, dataset: {'long ' * 100}}}\nmodel: {{rate: 0.5}}\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config=mine.yaml", "--data.old.max_epochs=7", "--print_config"])
    out, err = capfd.readouterr()
    settings = yaml.safe_load(out)
    assert settings["data"]["batch_size"] == 3
    assert settings["data"]["dataset"] == ("long " * 100).strip()
    assert settings["model"]["learning_rate"] == 0.5
    assert settings["trainer"]["max_epochs"] == 7
    said = re.findall(r"^([\w.]+) is called ([\w.]+) now", err, re.MULTILINE)
    assert dict(said) == {
        "data.rows": "data.batch_size",
        "model.rate": "model.learning_rate",
        "data.old.max_epochs": "trainer.max_epochs",
    }


def test_the_table_names_settings_that_are_there(capfd):
    from lit_bert.__main__ import main

    with pytest.raises(SystemExit):
        main(["fit", "--print_config"])
    settings = yaml.safe_load(capfd.readouterr().out)
    for old, new in renamed.RENAMED.items():
        for name, there in ((old, False), (new, True)):
            *above, last = name.split(".")
            place = settings
            for part in above:
                place = place.get(part) or {}
            assert (last in place) == there, name
