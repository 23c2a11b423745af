"""The model card: its YAML head and its Markdown say what the facts say, whatever names hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from ugly import UGLY

from lit_bert.evaluate import scores
from lit_bert.evaluate.evidence import Evidence
from lit_bert.evaluate.scores import Score
from lit_bert.io import escape
from lit_bert.product.card import averaging_text, calibration_text, card, public
from lit_bert.product.formats import ONNX, ONNX_INT8
from lit_bert.sources.hub import Source
from lit_bert.task.kinds import task_of

LABELS = ["anger", "joy", "sadness"]


def made(labels: list[str] = LABELS, used_for: list[str] | None = None, **changed: Any) -> str:
    """A card of random scores, with some facts changed."""
    C, N = len(labels), 3 * len(labels)
    generator = np.random.default_rng(0)
    y = np.arange(N) % C
    probs = generator.dirichlet(np.ones(C), N)
    task = task_of("single", labels)
    of_rows = scores.with_intervals(task, probs, y)
    variant = {
        "scores": of_rows.as_dict(Score._asdict),
        "agreement": 0.98765,
        "difference": 0.00012345,
        "texts_per_s": 1234.5,
        "bytes": 91_234_567,
        "main_change": [-0.001, -0.003, 0.0],
    }
    facts = {
        "lit_bert": "0.1.0",
        "architecture": "bert",
        "task": "single",
        "labels": labels,
        "max_length": 128,
        "long_texts": "Texts of more than 128 tokens are cut there.",
        "split": "validation",
        "rows": N,
        "calibration": None,
        "averaging": None,
        "choice": None,
        "files": {ONNX: variant},
        "weights": Source("hub", "google-bert/bert-base-uncased").as_dict(),
        "data": Source("hub", "dair-ai/emotion", "split").as_dict(),
        "recipe": {"seed": 1, "precision": "bf16-mixed"},
        "checkpoint_sha256": "ab" * 32,
        "command": "python -m lit_bert export",
        "licence": None,
        "created": "2026-11-27T01:02:03Z",
        **changed,
    }
    stored = json.loads(json.dumps(facts))  # as a program would read them again
    return card(stored, task, of_rows, Evidence.of(task, probs, y, used_for or ()))


def test_the_head_says_where_the_model_comes_from_and_what_it_scores() -> None:
    data = ModelCard(made(licence="apache-2.0")).data
    assert data.license == "apache-2.0"
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-uncased", ["dair-ai/emotion"])
    assert [each.metric_name for each in data.eval_results] == ["Accuracy", "Macro F1"]
    assert {each.dataset_type for each in data.eval_results} == {"split"}
    assert ModelCard(made()).data.license == "other"


@pytest.mark.parametrize("name", [*UGLY, "---", "a\n---\nb", "x\r\n---\r\ny", "\n---\n"])
def test_a_name_stays_a_value_of_the_head_and_never_ends_it(name: str) -> None:
    weights, data = (Source(kind, f"owner/{name}").as_dict() for kind in ("hub", "folder"))
    text = made(weights=weights, data=data, split=name, licence=name)
    parsed = ModelCard(text)
    assert parsed.text.startswith("\n# ")
    assert parsed.text.count("\n## ") == 6
    shown = escape.line(name)
    head = yaml.safe_load(text.split("\n---\n")[0])
    assert head["license"] == shown
    assert head["base_model"] == f"owner/{shown}"
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["split"] == shown
    last = escape.line(f"owner/{name}".rpartition("/")[2], 80)
    assert result["dataset"]["name"] == last


def test_only_what_is_on_the_hub_is_named_as_base_model_and_data_set() -> None:
    folder = Source("folder", "my weights").as_dict()
    data = ModelCard(made(weights=folder, data=folder)).data
    assert data.base_model is None
    assert data.datasets is None


def test_each_score_has_its_interval_and_each_file_its_row() -> None:
    text = made()
    (macro,) = [line for line in text.splitlines() if line.startswith("| macro F1 |")]
    assert all(f"| F1 {name} | 0." in text for name in LABELS)
    assert macro.count("[") == macro.count("]") == 1
    row = next(line for line in text.splitlines() if line.startswith(f"| {ONNX} |"))
    assert row.endswith("| 98.77% | 0.00012 | 1,234 | 91.2 |")
    assert ONNX_INT8 not in text


def test_a_folder_without_onnx_files_has_neither_their_table_nor_the_predictor() -> None:
    text = made(files={})
    assert "Predictor" not in text
    assert "texts/s where it was exported" not in text
    assert text.count("| --- |") == 1  # of the scores
    assert "truncation=True)\n```\n" in text


def test_what_the_8_bit_file_loses_is_said_with_its_interval() -> None:
    variant = {
        "scores": {"macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6}},
        "agreement": 1.0,
        "difference": 0.1,
        "texts_per_s": 10.0,
        "bytes": 1000,
        "main_change": [-0.0, -0.08, 0.08],
    }
    text = made(files={ONNX: variant, ONNX_INT8: variant})
    assert f"`{ONNX_INT8}` loses 0.00 points of macro F1 [-8.00, 8.00] against the checkpoint." in text


def test_what_rows_were_used_for_is_encoded_as_it_may_come_from_a_file() -> None:
    assert "used for &#60;b&#62;x and &#42;y&#42;: scores" in made(used_for=["<b>x", "*y*"])


def test_stand_ins_are_repeated_among_the_limits() -> None:
    stand_in = Source("packaged", "MiniLM", None, None, "bert-base", "the Hub cannot be reached").as_dict()
    limits = made(weights=stand_in).split("## Limits")[1].split("## ")[0]
    assert "A stand-in was used: MiniLM (packaged), STANDING IN for bert-base: the Hub" in limits
    assert "stand-in" not in made()


def test_a_local_source_keeps_its_name_alone() -> None:
    assert public(Source("folder", "/home/me/secret/bert")).name == "bert"
    assert public(Source("hub", "owner/bert")).name == "owner/bert"


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (None, "Nothing was fitted"),
        ({"temperature": 0.7, "before": 0.2, "after": 0.1}, "temperature of 0.700 is folded"),
        (
            {"temperature": 1.0, "before": 0.2, "after": 0.3, "kept": False},
            "a temperature was fitted and not kept",
        ),
    ],
)
def test_calibration_says_whether_the_temperature_was_kept(calibration: Any, said: str) -> None:
    assert said in calibration_text(calibration, task_of("single", LABELS))
    assert said in made(calibration=calibration)


def test_averaging_says_which_weights_were_kept() -> None:
    assert averaging_text(None) == ""
    assert "are the moving average" in averaging_text({"kept": True})
    assert "not their moving average" in made(averaging={"kept": False})
