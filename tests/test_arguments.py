"""What is read from arguments before a parser has them; how values of flags and configurations are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_bert import UserError
from lit_bert.cli.arguments import checked_configs, configs, given_settings, strip_flag
from lit_bert.cli.parser import QuotedTextDumper, read_value
from lit_bert.cli.run_arguments import root_of_runs, settings_of_run

# --- flags that decide which parser there is


@pytest.mark.parametrize(
    ("arguments", "rest", "value"),
    [
        (["a", "--seeds", "3", "--b=1"], ["a", "--b=1"], "3"),
        (["--seeds=3", "--config", "x.yaml"], ["--config", "x.yaml"], "3"),
        (["--seeds=1", "--seeds=2"], [], "2"),
        (["--seed=3"], ["--seed=3"], None),  # no flag is cut short
        ([], [], None),
    ],
)
def test_a_flag_is_taken_out_with_its_value(arguments: list[str], rest: list[str], value: str | None) -> None:
    assert strip_flag(arguments, "--seeds", "a number") == (rest, value)


def test_a_flag_without_a_value_says_what_was_expected() -> None:
    with pytest.raises(UserError, match=r"^--seeds has no value; expected a number\.$"):
        strip_flag(["--seeds"], "--seeds", "a number")


# --- configurations


def test_a_packaged_configuration_is_found_by_its_name_unless_there_is_one_here() -> None:
    packaged = str(configs() / "base.yaml")
    assert checked_configs(["--config", "base.yaml", "-c=configs/base.yaml"]) == [
        *("--config", packaged, f"-c={packaged}"),
    ]
    Path("base.yaml").write_text("data: {}\n")
    assert checked_configs(["--config", "base.yaml"]) == ["--config", "base.yaml"]


def test_settings_in_place_and_other_flags_are_left_as_they_are() -> None:
    arguments = ["--data.dataset=gone.yaml", "--config", "{data: {}}", "text.yaml", "--config"]
    assert checked_configs(arguments) == arguments


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"no configuration own\.yaml; packaged are base\.yaml, .*Check the path"),
        (b"", r"own\.yaml is empty; expected sections"),
        (b"[1]", r"own\.yaml holds a list; expected sections"),
        (b"\xff", r"own\.yaml is not UTF-8 \(invalid start byte\)"),
    ],
)
def test_a_configuration_that_holds_no_settings_is_refused(content: bytes | None, says: str) -> None:
    if content is not None:
        Path("own.yaml").write_bytes(content)
    for arguments in (["--config", "own.yaml"], ["--config=own.yaml"]):
        with pytest.raises(UserError, match=says):
            checked_configs(arguments)


def test_what_is_given_by_a_flag_is_told_from_what_a_configuration_gives() -> None:
    Path("own.yaml").write_text("data: {batch_size: 8, max_length: 9}\nmodel: {}\n")
    Path("trainer.yaml").write_text("max_epochs: 3\n")
    Path("rows.csv").write_text("a: 1\n")  # a file of rows is no configuration, whatever it looks like
    given = given_settings(
        [
            *("text", "--config", "own.yaml", "--data.max_length", "7", '--weights={"stand_in": null}'),
            *("--trainer", "trainer.yaml", "--data.dataset=rows.csv", "--trainer.callbacks+=A"),
        ]
    )
    assert given == {
        "data.batch_size": False,
        "model": False,
        "data.max_length": True,
        "weights.stand_in": True,
        "trainer.max_epochs": True,
        "data.dataset": True,
        "trainer.callbacks": True,
    }


def test_a_configuration_behind_a_flag_does_not_take_its_place() -> None:
    Path("own.yaml").write_text("data: {max_length: 9}\n")
    assert given_settings(["--data.max_length=7", "-c=own.yaml"]) == {"data.max_length": True}


# --- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("true", True),
        ("null", None),
        ("", None),
        ('["\\ud83d\\ude42", "a\x85b"]', ["🙂", "a\x85b"]),  # YAML reads neither
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
        ("a: 1\nb: 2\n", {"a": 1, "b": 2}),
        ("- a\n- b\n", ["a", "b"]),
    ],
)
def test_a_value_is_json_where_it_is_json_and_else_yaml(text: str, value: Any) -> None:
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["#1.csv", " # a", "- a,b", "---", "[a"])
def test_a_text_that_yaml_would_drop_or_wrap_is_a_text(text: str) -> None:
    with pytest.raises(yaml.YAMLError):  # jsonargparse takes it as it stands
        read_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "0x1F",
        "1_000",
        "12:30",
        "yes",
        "null",
        "~",
        "",
        " a ",
        "#1",
        "a: b",
        "- a",
        "\x85",
        "2026-01-01",
    ],
)
def test_a_text_that_could_be_something_else_is_written_in_quotes_and_stays_a_text(text: str) -> None:
    written = yaml.dump({"name": text}, Dumper=QuotedTextDumper, allow_unicode=True)
    assert yaml.safe_load(written) == {"name": text}
    assert '"' in written


def test_plain_words_and_paths_are_written_without_quotes() -> None:
    assert (
        yaml.dump({"path": "/a/b-c.csv", "text": "a word"}, Dumper=QuotedTextDumper)
        == "path: /a/b-c.csv\ntext: a word\n"
    )


# --- settings of runs


def test_settings_of_a_run_are_those_of_the_command_without_what_is_the_commands_own() -> None:
    settings = {"ckpt_path": "last", "seeds": 3, "result": "out", "calibrate": True, "data": {"seed": 1}}
    assert settings_of_run(settings, seed_everything=4) == {
        "calibrate": True,
        "data": {"seed": 1},
        "seed_everything": 4,
    }
    assert settings["seeds"] == 3


def test_runs_stand_in_the_folder_of_the_logger() -> None:
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "checkpoints"}}
    assert root_of_runs({"trainer": {"logger": logger}}, "--seeds") == Path("checkpoints")


@pytest.mark.parametrize(
    "logger", [False, True, None, [], {}, {"init_args": {}}, {"init_args": {"save_dir": ""}}]
)
def test_a_logger_without_a_folder_is_refused_with_the_flag_that_needs_one(logger: Any) -> None:
    with pytest.raises(UserError, match="keeps no folder for each run; with --seeds, leave it"):
        root_of_runs({"trainer": {"logger": logger}}, "--seeds")
