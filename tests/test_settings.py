"""What a checkpoint keeps of a run's settings: plain values, and what is compared as text."""

from __future__ import annotations

from typing import Any

import pytest

from lit_bert.sources.schema import RunSettings, TrainerSettings
from lit_bert.sources.settings import composition, flat_settings, run_settings

LOGGER = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "checkpoints"}}
CONFIG: dict[str, Any] = {
    "seed_everything": 3,
    "calibrate": False,
    "data": {"dataset": "/home/anna/reviews.csv"},
    "trainer": {"max_epochs": 2, "devices": 4, "callbacks": [{"class_path": "Own"}], "logger": LOGGER},
    "checkpoint": {"monitor": "val/f1", "dirpath": "/home/anna", "verbose": True},
    "early_stopping": {"patience": 5, "verbose": True},
}


def test_values_of_the_run_are_kept_and_those_of_the_machine_and_the_screen_are_not() -> None:
    assert run_settings(CONFIG) == {
        "seed_everything": 3,
        "calibrate": False,
        "trainer": {"max_epochs": 2},
        "checkpoint": {"monitor": "val/f1"},
        "early_stopping": {"patience": 5},
        "composition": {
            "trainer.callbacks": '[{"class_path": "Own"}]',
            "trainer.logger": '["TensorBoardLogger"]',
            "checkpoint.dirpath": '"/home/anna"',
        },
    }


def test_what_is_kept_fits_the_schema_and_is_found_by_the_names_of_flags() -> None:
    flat = flat_settings(RunSettings.model_validate(run_settings(CONFIG)))
    wanted = {"seed_everything": 3, "calibrate": False, "trainer.max_epochs": 2, "early_stopping.patience": 5}
    assert {name: flat[name] for name in wanted} == wanted
    assert {f"trainer.{name}" for name in TrainerSettings.model_fields} <= flat.keys()
    assert "composition" not in flat
    assert "trainer.callbacks" not in flat


def test_a_configuration_without_sections_keeps_none_of_their_values() -> None:
    assert run_settings({}) == {"trainer": {}, "checkpoint": {}, "early_stopping": {}, "composition": {}}
    assert RunSettings.model_validate(run_settings({})) == RunSettings()


def of(section: str, **values: Any) -> dict[str, str]:
    return composition({section: values})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"plugins": {"a": 1, "b": 2}}, {"plugins": {"b": 2, "a": 1}}),
        ({"logger": LOGGER}, {"logger": {**LOGGER, "init_args": {"save_dir": "elsewhere"}}}),
        ({"logger": LOGGER}, {"logger": [LOGGER]}),
    ],
)
def test_equal_compositions_are_equal_texts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert of("trainer", **one) == of("trainer", **other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"plugins": ["a", "b"]}, {"plugins": ["b", "a"]}),
        ({"plugins": "1"}, {"plugins": 1}),
        ({"plugins": None}, {"plugins": "null"}),
        ({"logger": False}, {"logger": True}),
        ({"logger": LOGGER}, {"logger": {**LOGGER, "class_path": "CSVLogger"}}),
        ({"plugins": ["a" * 3000]}, {"plugins": ["a" * 3001]}),
    ],
)
def test_other_compositions_are_other_texts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert of("trainer", **one) != of("trainer", **other)


def test_a_long_composition_is_kept_as_its_hash() -> None:
    (text,) = of("trainer", plugins=["ü\ud800" * 3000]).values()
    assert len(text) == 64
