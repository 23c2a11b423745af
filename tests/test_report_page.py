"""The page of one run's errors: complete, unbreakable by what texts hold, and right in its numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run, rendered

from lit_bert.evaluate import page, scores
from lit_bert.evaluate.page import form_of, write_page
from lit_bert.evaluate.page_texts import embedded_rows
from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.single import SingleLabel

pytest.importorskip("cleanlab")
pytest.importorskip("captum")

HOSTILE = [
    "</script><script>document.title = 'broken'</script>",
    "<!-- <script> --> & &amp; <img src=x onerror=\"document.title='broken'\">",
    "{{data}} {{title}} \\u003c \u2028 \x00 'quoted' \"twice\"",
    "\u202eright to left\u202c 😀 " + "w" * 300,
    "long " * 2000,
]


def made(C: int, N: int, **facts: Any) -> Predictions:
    """Random rows of C classes, some four fifths of them right, with hostile texts among them."""
    generator = np.random.default_rng(0)
    labels = np.arange(N) % C
    logits = generator.normal(size=(N, C))
    logits[np.arange(N), labels] += 1 + 0.6 * np.log(C)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    texts = [HOSTILE[n] if n < len(HOSTILE) else f"text number {n}" for n in range(N)]
    names = [f"class {n}" for n in range(C)]
    return Predictions(
        SingleLabel.of(names),
        texts,
        np.arange(N),
        labels,
        probs.astype(np.float32),
        {"split": "val", **facts},
    )


class Page(HTMLParser):
    """The elements of a page, and the JSON that it holds."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside: str | None = None
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def written(predictions: Predictions, folder: Path) -> Page:
    predictions.write(folder / "validate.parquet")
    write_page(folder / "validate.parquet", None)
    return Page(folder / "report.html")


@pytest.mark.parametrize("C", [2, 6, 77])
def test_a_page_has_every_class_and_every_cell(C: int, tmp_path: Path) -> None:
    predictions = made(C, 8 * C)
    page = written(predictions, tmp_path)
    cells = [attrs["href"] for tag, attrs in page.tags if tag == "a" and "aria-label" in attrs]
    pairs = set(zip(predictions.labels.tolist(), predictions.preds.tolist(), strict=True))
    assert sorted(cells) == sorted(f"#cell-{i}-{j}" for i, j in pairs)
    assert sum(page.data["cells"].values()) == 8 * C
    assert page.data["classes"] == predictions.class_names
    assert page.text.count('<td class="bar">') == C
    assert len(page.text) < 1_500_000


def test_no_text_and_no_class_name_becomes_part_of_the_page(tmp_path: Path) -> None:
    predictions = made(3, 60)
    evil = ["</script><b id=evil>", "<!--", '"><img src=x onerror=alert(1)>']
    predictions = Predictions(
        SingleLabel.of(evil),
        predictions.texts,
        predictions.rows,
        predictions.labels,
        predictions.outputs,
        {"split": "<i id=evil>", "weights": "</dd><b id=evil>", "checkpoint": "/tmp/<u id=evil>/best.ckpt"},
    )
    page = written(predictions, tmp_path)
    assert not any(attrs.get("id") == "evil" for _, attrs in page.tags)
    assert not any(tag in ("img", "iframe", "object") for tag, _ in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 2 == len(page.scripts)
    assert not set("<>&\u2028") & set(page.scripts[0])
    assert page.data["classes"] == evil
    texts = {
        "".join(piece if isinstance(piece, str) else piece[0] for piece in row["t"])
        for row in page.data["rows"]
    }
    shown = [predictions.texts[index] for index in embedded_of(predictions)]
    assert {text for text in shown if len(text) <= 2000} <= texts
    assert any(HOSTILE[0] in text or HOSTILE[1] in text for text in texts)


def embedded_of(predictions: Predictions) -> list[int]:
    suspects = scores.suspected_labels(predictions.task, predictions.outputs, predictions.labels)
    return embedded_rows(form_of(predictions), suspects).tolist()


def test_nothing_is_fetched_and_only_the_own_script_may_run(tmp_path: Path) -> None:
    page = written(made(3, 60), tmp_path)
    addresses = [
        value
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "action", "srcset", "data", "poster", "xlink:href")
    ]
    assert addresses
    assert all(str(each).startswith("#") or each == "data:," for each in addresses)
    outside = re.sub(r'<script type="application/json".*?</script>', "", page.text, flags=re.S)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", outside.replace("// ", ""))
    (policy,) = (attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)


def test_facts_stand_on_the_page_and_stand_ins_cannot_be_overlooked(tmp_path: Path) -> None:
    stand_in = "MiniLM (packaged), STANDING IN for bert-base: the Hub cannot be reached"
    calibration = {"temperature": 0.7, "before": 0.1234, "after": 0.0456}
    page = written(made(3, 60, weights=stand_in, seed=7, calibration=calibration), tmp_path)
    (warning,) = re.findall(r'<div class="warning".*?</div>', page.text, flags=re.S)
    assert stand_in in warning
    assert f'<dd class="loud">{stand_in}</dd>' in page.text
    assert "<dt>seed</dt><dd>7</dd>" in page.text
    assert "temperature 0.700" in page.text
    assert "0.123" in page.text
    assert "0.046" in page.text
    assert 'class="warning" role' not in written(made(3, 60, weights="bert (hub)"), tmp_path).text


def test_a_swapped_label_is_suspected_first() -> None:
    labels = np.arange(90) % 3
    probs = np.full((90, 3), 0.03, dtype=np.float32)
    probs[np.arange(90), labels] = 0.94
    given = labels.copy()
    given[[7, 50]] = (labels[[7, 50]] + 1) % 3
    found = scores.suspected_labels(SingleLabel.of(["a", "b", "c"]), probs, given)
    assert set(found.tolist()) == {7, 50}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"split": "validation", "trained on": "a"}, "was not trained on these rows."),
        ({"split": "train", "trained on": "a", "scored on": "a"}, "was trained on these rows"),
        ({"split": "train", "trained on": "a", "scored on": "b"}, "This holds if"),
    ],
)
def test_suspicion_says_whether_the_rows_had_been_learned(facts: dict[str, str], said: str) -> None:
    assert said in page.suspect_note(facts, np.array([1]), 9, has_other_label=True)


def test_classes_without_rows_and_runs_without_errors_have_a_page(tmp_path: Path) -> None:
    labels = np.zeros(5, dtype=np.int64)
    probs = np.tile(np.array([[0.9, 0.1, 0.0]], dtype=np.float32), (5, 1))
    page = written(
        Predictions(SingleLabel.of(["a", "b", "c"]), ["x"] * 5, np.arange(5), labels, probs), tmp_path
    )
    assert page.data["errors"] == [] == page.data["suspects"]
    assert "There is no error." in page.text
    assert "All texts here have one label" in page.text


def test_more_errors_than_a_page_can_hold_are_cut_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_bert.evaluate.page_texts.WRONG_TEXTS", 10)
    for module in ("page_form", "page_texts"):
        monkeypatch.setattr(f"lit_bert.evaluate.{module}.LISTED", 5)
    predictions = made(6, 600)
    wrong = len(predictions.errors)
    page = written(predictions, tmp_path)
    assert wrong > 20
    assert f"of {wrong:,} wrong texts; the others are left out" in page.text
    assert f"The 5 most confident of {wrong:,}." in page.text
    assert len(page.data["errors"]) == 5
    assert 10 <= sum(row["y"] != row["p"] for row in page.data["rows"]) <= 15  # suspects as well
    assert sum(page.data["cells"].values()) == 600  # the matrix is of all rows


def test_the_verb_writes_the_page_of_a_run_with_coloured_words(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    outcome = run("report", trained, "--output", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    assert "macro F1" in outcome.out
    assert str(tmp_path / "page.html") in outcome.out
    page = Page(tmp_path / "page.html")
    assert "Words are coloured in" in page.text
    assert page.text.count('class="legend"') == 3
    for row in page.data["rows"]:
        assert row["k"] == list(dict.fromkeys([row["p"], row["y"]]))
        assert all(len(piece) == 1 + len(row["k"]) for piece in row["t"] if isinstance(piece, list))


def test_without_its_checkpoint_a_page_has_no_colours_and_says_why(tmp_path: Path) -> None:
    page = written(made(3, 60, checkpoint="/nowhere/best.ckpt"), tmp_path)
    assert "Words are not coloured: there is no checkpoint " in page.text
    assert 'class="legend"' not in page.text
    assert not any("k" in row for row in page.data["rows"])


def test_a_missing_extra_is_said_with_its_remedy(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    outcome = run("report", trained)
    assert outcome.code == 2
    assert "pip install 'lit_bert[report]'" in outcome.err


def test_a_page_that_cannot_be_written_is_one_line(run: Run, trained: Path, tmp_path: Path) -> None:
    outcome = run("report", trained, "--output", tmp_path / "no" / "page.html")
    assert outcome.code == 2
    assert "Choose another --output" in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 2


def test_a_browser_lists_the_texts_of_the_cell_in_the_address(tmp_path: Path) -> None:
    predictions = made(3, 60)
    predictions.outputs[0] = [0.1, 0.8, 0.1]  # the first hostile text: of class 0, predicted as class 1
    written(predictions, tmp_path)
    document = rendered(tmp_path / "report.html", "#cell-0-1")
    assert "<title>broken</title>" not in document
    assert re.search(
        r'id="texts-title"[^>]*><bdi>class 0</bdi>, predicted as <bdi>class 1</bdi>: \d+ text', document
    )
    assert "&lt;/script&gt;&lt;script&gt;document.title" in document
