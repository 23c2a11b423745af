"""The error report of every kind of task: the right numbers and texts, and nothing of another kind."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Run, rendered, texts_of
from test_class_names import ACTIVE
from test_report_page import HOSTILE, Page, written
from ugly import UGLY

from lit_bert.__main__ import main
from lit_bert.evaluate.charts import decision_chart, precision_recall_chart
from lit_bert.evaluate.number_charts import ValueAxes, error_chart, round_numbers, scatter_chart, short
from lit_bert.evaluate.page import FORMS, form_of
from lit_bert.evaluate.page_texts import embedded_rows, rows_to_explain
from lit_bert.evaluate.predictions import Predictions
from lit_bert.task.base import Task
from lit_bert.task.kinds import KINDS, task_of

pytest.importorskip("cleanlab")
pytest.importorskip("captum")

NONE = np.empty(0, dtype=np.int64)


def rows_of(task: Task, labels: Any, outputs: Any, **facts: Any) -> Predictions:
    """Predictions of texts that say their number, some of them hostile."""
    N = len(labels)
    texts = [f"text number {n}" for n in range(N)]
    form = {"class": np.int64, "classes": np.uint8, "number": np.float32}[task.label_form]
    return Predictions(
        task,
        texts,
        np.arange(N),
        np.array(labels, form),
        np.array(outputs, np.float32),
        {"split": "validation", **facts},
    )


def shown(page: Page) -> str:
    """What a reader sees, without the data of the script and without markup."""
    body = re.sub(r"<(script|style).*?</\1>", "", page.text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


# --- several labels

SETS = task_of("multi_label", ["cat", "dog", "sun"], {"thresholds": (0.5, 0.5, 0.4)})
# Of seven texts: right; cat missed and dog given; sun missed; dog and sun given; no label and none given; cat
# and dog missed and sun given; right, of two labels.
LABELS = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]]
PROBS = [
    [0.9, 0.1, 0.1],
    [0.2, 0.8, 0.1],
    [0.1, 0.7, 0.3],
    [0.2, 0.6, 0.5],
    [0.1, 0.2, 0.1],
    [0.4, 0.3, 0.9],
    [0.8, 0.3, 0.45],
]


def sets() -> Predictions:
    return rows_of(SETS, LABELS, PROBS)


def test_of_several_labels_each_missed_and_each_wrongly_given_class_is_counted(tmp_path: Path) -> None:
    page = written(sets(), tmp_path)
    assert page.data["cells"] == {
        "0-0": 2,
        "1-1": 1,
        "2-2": 1,
        "3-3": 1,  # given rightly; no label and none given
        "0-1": 1,
        "0-2": 1,
        "1-2": 1,  # missed and given
        "2-3": 1,
        "3-1": 1,
        "3-2": 1,  # missed and nothing given; given and nothing missed
        "0-any": 2,
        "1-any": 1,
        "2-any": 1,
        "any-1": 2,
        "any-2": 2,
    }
    links = {str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and "aria-label" in attrs}
    assert links == {f"#cell-{key}" for key in page.data["cells"]}
    form = form_of(sets())
    for row in page.data["rows"]:
        assert sorted(row["c"]) == sorted(form.cells_of(row["n"] - 1))
    for key, count in page.data["cells"].items():
        assert sum(key in row["c"] for row in page.data["rows"]) == count


def test_a_row_of_several_labels_has_its_labels_and_what_was_given(tmp_path: Path) -> None:
    page = written(sets(), tmp_path)
    rows = {row["n"]: row for row in page.data["rows"]}
    assert len(rows) == 7  # few enough for all of them
    assert rows[6] == {
        "n": 6,
        "y": [0, 1],
        "p": [2],
        "q": [[2, 0.9], [0, 0.4], [1, 0.3]],
        "s": 0.6,
        "c": ["0-2", "1-2", "0-any", "1-any", "any-2"],
        "t": ["text number 5"],
    }
    assert (rows[5]["y"], rows[5]["p"], rows[5]["c"]) == ([], [], ["3-3"])
    assert page.data["thresholds"] == [0.5, 0.5, 0.4]
    # The worst first: those whose least sure class is surest.
    listed = [page.data["rows"][place]["n"] for place in page.data["errors"]]
    assert listed == [2, 3, 6, 4]


def test_the_table_of_several_labels_has_what_they_are_given_by(tmp_path: Path) -> None:
    page = written(sets(), tmp_path)
    heads = re.findall(r'<th scope="col"[^>]*>(?:<span[^>]*>)?([^<]*)', page.text)
    wanted = "class, F1, 95 % interval, picture, average precision, precision, recall, threshold, texts"
    assert heads[:9] == wanted.split(", ")
    (row,) = re.findall(r'<th scope="row"><bdi>sun</bdi></th>(.*?)</tr>', page.text, flags=re.S)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    # Given rightly once, wrongly twice, missed once; of average precision, hits are the third and the fourth.
    precision = (1 / 3 + 2 / 4) / 2
    assert [cells[0], *cells[-5:]] == ["0.400", f"{precision:.3f}", "0.333", "0.500", "0.400", "2"]
    text = shown(page)
    assert "7 texts of split validation , 3 classes, of which a text has any number" in text
    assert "4 of them with a label that is missed or wrongly given (57.1%)" in text
    for word in ("macro average precision", "label ranking average precision", "subset accuracy"):
        assert word in text


def test_words_are_asked_for_each_class_in_question() -> None:
    form = form_of(sets())
    assert form.questions(5) == [2, 0, 1]  # given wrongly, then missed
    assert form.questions(3) == [1, 2]  # the surer first
    assert form.questions(0) == [0]  # right
    assert form.questions(6) == [0, 2]
    assert form.questions(4) == [1]  # nothing given: the class that is nearest to its threshold


def test_of_right_rows_of_several_labels_the_least_sure_of_each_class_are_embedded() -> None:
    N = 3000
    labels = np.zeros((N, 2), np.uint8)
    labels[np.arange(N), np.arange(N) % 2] = 1
    sure = np.linspace(0.6, 0.99, N)
    probs = np.where(labels, sure[:, None], 1 - sure[:, None])
    form = form_of(rows_of(task_of("multi_label", ["a", "b"]), labels, probs))
    embedded = embedded_rows(form, NONE)
    assert embedded.tolist() == list(range(200))  # 100 of each class, none without a label
    order = rows_to_explain(form, NONE, embedded)
    assert len(order) == len(set(order)) == 100
    assert set(order) <= set(embedded.tolist())


def test_decisions_are_put_into_bins_by_their_probability() -> None:
    chart = decision_chart(
        rows_of(task_of("multi_label", ["a", "b"]), [[1, 0], [1, 1]], [[0.97, 0.62], [0.95, 0.63]])
    )
    assert [row[:4] for row in chart.table.rows] == [
        ["60% – 67%", "2", "62.5%", "50.0%"],
        ["93% – 100%", "2", "96.0%", "100.0%"],
    ]
    assert chart.axes.points[0].title == "2 decisions: probability 62.5%, have the class 50.0%"


def test_precision_and_recall_are_those_of_all_decisions() -> None:
    chart = precision_recall_chart(sets())
    # Of eight labels four are given, and four more that are none.
    assert chart.table.rows[0] == ["as given", "50.0%", "50.0%", "50.0%", "its own"]
    # By falling probability, x a label: .9 x, .9, .8 x, .8, .7 x, .6, .5, .45 x, .4 x, .3 x, .3 x, .3
    assert chart.table.rows[1] == ["best F1", "58.3%", "87.5%", "70.0%", "0.300"]
    assert chart.table.rows[-1] == ["precision ≥ 99%", "none", "–", "–", "–"]
    (dot,) = chart.axes.points
    assert (dot.x, dot.y) == (pytest.approx(chart.axes.x(0.5)), pytest.approx(chart.axes.y(0.5)))


def test_without_any_label_there_is_no_recall() -> None:
    chart = precision_recall_chart(rows_of(SETS, [[0, 0, 0]], [[0.9, 0.1, 0.2]]))
    assert chart.table.rows == [["as given", "0.0%", "–", "0.0%", "its own"]]
    assert chart.axes.points == [] == chart.axes.paths


# --- classes in an order

STARS = task_of("ordinal", ["1", "2", "3", "4", "5"])


def test_classes_in_an_order_keep_it_and_the_errors_furthest_off_come_first(tmp_path: Path) -> None:
    labels = [4, 0, 2, 1]
    probs = [
        [0.6, 0.1, 0.1, 0.1, 0.1],  # 1, which is off by 4
        [0.05, 0.9, 0.05, 0, 0],  # 2, off by 1 and sure
        [0.1, 0.1, 0.6, 0.1, 0.1],
        [0.0, 0.4, 0.2, 0.4, 0.0],  # 3, between two that are more probable: off by 1, unsure
    ]
    page = written(rows_of(STARS, labels, probs), tmp_path)
    assert [page.data["rows"][place]["n"] for place in page.data["errors"]] == [1, 2, 4]
    (unsure,) = (row for row in page.data["rows"] if row["n"] == 4)
    assert (unsure["y"], unsure["p"]) == (1, 2)
    assert [2, 0.2] in unsure["q"]
    assert page.data["cells"] == {"4-0": 1, "0-1": 1, "2-2": 1, "1-2": 1}
    assert re.findall(r'<th scope="row"><bdi>(.)</bdi></th>', page.text) == list("12345")
    text = shown(page)
    for words in ("Largest errors", "quadratic weighted kappa", "mean absolute error, in classes 1.500"):
        assert words in text
    assert "Most confident errors" not in text


# --- numbers

SCORE = task_of("regression", ["score"], {"scale": (10.0, 4.0), "interval": (1.5,)})


def test_numbers_are_listed_with_label_value_and_interval_the_furthest_off_first(tmp_path: Path) -> None:
    labels, values = [10.0, 12.5, 4.0, 16.0], [[10.5], [9.0], [-2.25], [17.5]]
    page = written(rows_of(SCORE, labels, values), tmp_path)
    assert page.data["cells"] == {}
    assert page.data["form"] == "number"
    listed = [page.data["rows"][place] for place in page.data["errors"]]
    assert [row["n"] for row in listed] == [3, 2, 4, 1]
    assert listed[0] == {
        "n": 3,
        "y": "4.00",
        "p": "−2.25",
        "d": "−6.25",
        "i": "−3.75 – −0.75",
        "o": True,
        "t": ["text number 2"],
    }
    assert [row["o"] for row in listed] == [True, True, False, False]  # at the end is inside
    text = shown(page)
    assert "4 texts of split validation , the number score; 2 of them outside their interval (50.0%)" in text
    assert "mean absolute error 2.94" in text  # (0.5 + 3.5 + 6.25 + 1.5) / 4
    assert "the label is inside the interval of ± 1.50" in text


def test_a_page_of_numbers_has_nothing_of_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = generator.normal(10, 4, 300)
    page = written(rows_of(SCORE, labels, labels[:, None] + generator.normal(size=(300, 1))), tmp_path)
    text = shown(page)
    assert not re.search(
        r"F1|[Cc]onfusion|[Cc]onfiden(ce|t er)|calibration|probabilit|precision|matrix", text
    )
    assert not {"matrix", "texts", "confidence"} & {attrs.get("id") for _, attrs in page.tags}
    assert len(page.data["rows"]) <= 100  # those of the two lists
    assert 'class="bar"' not in page.text


def test_a_page_of_classes_has_nothing_of_numbers(tmp_path: Path) -> None:
    for predictions in (sets(), rows_of(STARS, [1, 2], [[0.1, 0.6, 0.1, 0.1, 0.1]] * 2)):
        text = shown(written(predictions, tmp_path))
        assert not re.search(r"outside|[Rr]aised|R²|Pearson|labelled (score|number)", text)
    assert "predicted wrong" not in shown(written(sets(), tmp_path))


@pytest.mark.parametrize("size", [1e-4, 1.0, 3e5])
def test_numbers_of_any_size_are_told_apart(size: float, tmp_path: Path) -> None:
    labels = size * np.arange(40)
    page = written(rows_of(task_of("regression", ["x"]), labels, labels[:, None] + size / 4), tmp_path)
    rows = page.data["rows"]
    assert len({row["y"] for row in rows}) == len(rows)
    assert all(float(row["d"].replace(",", "")) == pytest.approx(size / 4, rel=0.25) for row in rows)
    assert all("i" not in row for row in rows)  # no interval is known
    assert "outside" not in shown(page)


def test_predicted_against_labelled_is_drawn_and_told_in_fifths() -> None:
    labels = np.arange(10.0)
    chart = scatter_chart(rows_of(SCORE, labels, labels[:, None] + [[1.0], [-2.0]] * 5), 1.5, "{:.1f}".format)
    assert chart.table.heads == ("labelled", "texts", "mean error", "MAE", "inside")
    assert chart.table.rows[0] == ["0.0 – 1.0", "2", "-0.5", "1.5", "50.0%"]
    assert [row[1] for row in chart.table.rows] == ["2"] * 5
    assert [path.kind for path in chart.axes.paths] == ["band", "ideal", "dots"]
    dots = re.findall(r"M([\d.]+) ([\d.]+)h0", chart.axes.paths[2].d)
    assert dots[1] == (f"{chart.axes.x(1):.1f}", f"{chart.axes.y(-1):.1f}")
    assert len(dots) == 10


def test_of_many_numbers_some_are_drawn_and_the_page_says_how_many() -> None:
    labels = np.linspace(0, 1, 9000)
    values = labels.copy()
    values[4321] = 7.0
    chart = scatter_chart(rows_of(SCORE, labels, values[:, None]), None, str)
    dots = re.findall(r"M([\d.]+) ([\d.]+)h0", chart.axes.paths[-1].d)
    assert len(dots) <= 2000
    assert (f"{chart.axes.x(labels[4321]):.1f}", f"{chart.axes.y(7):.1f}") in dots
    assert f"{9000 - len(dots):,} of 9,000 texts are not drawn" in chart.description


def test_errors_are_counted_in_bars_and_told_in_quantiles() -> None:
    errors = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    chart = error_chart(rows_of(SCORE, np.zeros(5), errors[:, None]), 1.5, "{:.2f}".format)
    assert chart.table.rows == [
        ["error", "-1.80", "-1.00", "0.00", "1.00", "2.60", "3.00"],
        ["absolute", "0.20", "1.00", "1.00", "2.00", "2.80", "3.00"],
    ]
    bars = [path for path in chart.axes.paths if path.kind == "bars"]
    assert len(bars) == 5
    assert chart.axes.x(-1.5) < chart.axes.x(1.5)
    assert [path.d for path in chart.axes.paths if path.kind == "ideal"] == [
        f"M{chart.axes.x(end):.1f} 284V14" for end in (-1.5, 1.5)
    ]


@pytest.mark.parametrize(
    ("labels", "values"), [([3.0], [3.0]), ([0.0] * 4, [0.0] * 4), ([2.0, 2.0], [1.0, 3.0])]
)
def test_numbers_that_do_not_differ_have_a_page(
    labels: list[float], values: list[float], tmp_path: Path
) -> None:
    page = written(rows_of(SCORE, labels, np.array(values)[:, None]), tmp_path)
    assert "All texts here have one label" in shown(page)
    assert "nan" not in page.text


def test_ticks_are_round_numbers_between_the_ends() -> None:
    assert round_numbers(-6.4, 4.6) == [-6, -4, -2, 0, 2, 4]
    assert round_numbers(0, 0.135) == pytest.approx([0.02 * place for place in range(7)])
    assert [short(value) for value in (200_000, -1_500_000, 0.25, 5000, 0)] == [
        "200k",
        "−1.5M",
        "0.25",
        "5000",
        "0",
    ]
    axes = ValueAxes(0.0, "", "", across=(10.0, 20.0), upwards=(0.0, 0.5), has_shares=True)
    assert (axes.x(10), axes.x(20), axes.y(0), axes.y(0.5)) == (62, 416, 284, 14)
    assert [tick.text for tick in axes.y_ticks] == ["0 %", "10 %", "20 %", "30 %", "40 %", "50 %"]


# --- every kind


def any_of(kind: str, names: list[str], N: int = 60) -> Predictions:
    """Random rows of a kind, with hostile texts among them."""
    generator = np.random.default_rng(0)
    task = task_of(kind, names if KINDS[kind].class_scores else names[:1])
    C = len(task.class_names)
    if task.label_form == "number":
        labels = np.clip(generator.normal(size=N), *task.label_range)
        outputs = np.clip(labels[:, None] + generator.normal(size=(N, 1)), *task.label_range)
    elif task.label_form == "classes":
        labels, outputs = generator.integers(0, 2, (N, C)), generator.random((N, C))
    else:
        labels, outputs = np.arange(N) % C, generator.dirichlet(np.ones(C), N)
    found = rows_of(task, labels, outputs)
    found.texts[: len(HOSTILE)] = HOSTILE
    return found


def test_every_form_of_a_label_has_a_page() -> None:
    assert FORMS.keys() == {kind.label_form for kind in KINDS.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_texts_of_every_kind_are_text(kind: str, tmp_path: Path) -> None:
    predictions = any_of(kind, UGLY if KINDS[kind].class_scores else ["<img src=x onerror=alert(1)>"])
    page = written(predictions, tmp_path)
    body = re.sub(r'<script type="application/json".*?</script>', "", page.text, flags=re.S)
    assert not ACTIVE.search(body)
    assert page.data["classes"] == predictions.class_names
    assert [tag for tag, _ in page.tags].count("script") == 2 == len(page.scripts)
    assert not any(tag in ("img", "iframe", "object") for tag, _ in page.tags)
    assert not set("<>&\u2028") & set(page.scripts[0])
    texts = {
        "".join(each if isinstance(each, str) else each[0] for each in row["t"]) for row in page.data["rows"]
    }
    assert any(HOSTILE[0] in text for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_facts_that_somebody_edited_do_not_break_the_page(kind: str, tmp_path: Path) -> None:
    for choice in ("kept", ["kept"], {"kept": True}, 5):
        page = written(any_of(kind, ["a", "b"]).with_facts(choice=choice), tmp_path)
        assert "<dt>chosen</dt>" not in page.text


@pytest.mark.parametrize(
    ("kind", "address", "wanted"),
    [
        ("single", "#cell-0-1", r"<bdi>a</bdi>, predicted as <bdi>b</bdi>: \d+ text"),
        ("ordinal", "#cell-0-2", r"<bdi>a</bdi>, predicted as <bdi>c</bdi>: \d+ text"),
        ("multi_label", "#cell-0-1", r"<bdi>a</bdi> missed, <bdi>b</bdi> wrongly given: \d+ text"),
        ("multi_label", "#cell-any-2", r"<bdi>c</bdi> wrongly given: \d+ text"),
        ("multi_label", "#cell-1-3", r"<bdi>b</bdi> missed, nothing wrongly given: \d+ text"),
        ("multi_label", "#cell-3-1", r"<bdi>b</bdi> wrongly given, nothing missed: \d+ text"),
        ("multi_label", "#cell-2-2", r"<bdi>c</bdi>, rightly given: \d+ text"),
        ("regression", "#cell-__proto__", r"off by <b><bdi>[+−]"),
    ],
)
def test_a_browser_lists_the_texts_of_every_kind(
    kind: str, address: str, wanted: str, tmp_path: Path
) -> None:
    written(any_of(kind, ["a", "b", "c"]), tmp_path)
    document = rendered(tmp_path / "report.html", address)
    assert "<title>broken</title>" not in document
    assert re.search(wanted, document)
    listed = re.search(r'<ol[^>]*id="errors-list".*?</ol>', document, flags=re.S)
    assert listed
    assert listed[0].count('<article class="text">') == 10


# --- real fits


LABELLED: dict[str, dict[str, Any]] = {
    "multi_label": {"joy": ["good"], "sadness": ["bad", "wet"], "anger": []},
    "ordinal": {"joy": "3", "sadness": "2", "anger": "1"},
    "regression": {"joy": 90.0, "sadness": 20.0, "anger": -40.0},
}


@pytest.fixture(scope="module", params=LABELLED)
def fitted(request: pytest.FixtureRequest, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A kind of task, and the folder of a fit of it."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    (folder / "data").mkdir()
    for split, start, stop in (("train", 0, 20), ("validation", 20, 28)):
        rows = [
            {"text": text, "label": LABELLED[kind][name]}
            for name in CLASSES
            for text in texts_of(name, 36)[start:stop]
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{split}.jsonl").write_text(content)
    flags = [flag for flag in quick if not flag.startswith("--data.dataset")]
    place = f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"
    longer = ["--trainer.max_epochs=20", "--early_stopping.patience=20", "--model.average_decay=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        more = [f"--data.dataset={folder / 'data'}", f"--data.task={kind}", *longer, place]
        assert main(["fit", *flags, *more]) == 0
    return kind, folder / "checkpoints" / "version_0"


def test_the_verb_writes_the_page_of_a_real_fit_with_coloured_words(
    run: Run, fitted: tuple[str, Path], tmp_path: Path
) -> None:
    kind, folder = fitted
    outcome = run("report", folder, "--output", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    page, predictions = Page(tmp_path / "page.html"), Predictions.read(folder / "validate.parquet")
    assert predictions.task.kind == kind
    assert "Words are coloured in" in page.text
    form = form_of(predictions)
    by_number = {int(number): index for index, number in enumerate(predictions.rows)}
    assert page.data["rows"]
    for row in page.data["rows"]:
        assert row["k"] == form.questions(by_number[row["n"] - 1])
        assert all(len(piece) == 1 + len(row["k"]) for piece in row["t"] if isinstance(piece, list))
    if kind == "regression":
        # In the unit of the labels: what the words add differs between texts as the values do.
        sums = [sum(piece[1] for piece in row["t"] if isinstance(piece, list)) for row in page.data["rows"]]
        values = [float(row["p"].replace("−", "-")) for row in page.data["rows"]]
        assert np.ptp(values) > 50
        assert np.ptp(np.array(values) - sums) < 0.3 * np.ptp(values)
