"""The server's page, in a real Chromium against a real server."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from conftest import WORDS, list_files, with_head
from ugly import UGLY

from lit_bert.io.escape import line
from lit_bert.product.predictor import Predictor
from lit_bert.task.kinds import CONFIG_KEY, PARAMETERS_KEY, task_of

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright")
if CHROMIUM is None:
    pytest.skip("the tests of the page need Debian's chromium", allow_module_level=True)

Page, expect = sync_api.Page, sync_api.expect
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TEXT = "i am so happy about the sun but my train is late"


@dataclass
class Server:
    """A running `python -m lit_bert serve`."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def stop(self) -> None:
        """Ends it, in order, if it still runs."""
        self.process.terminate()
        self.process.communicate(timeout=30)


def serve(folder: Path, *flags: str) -> Server:
    """A server on a free port; it answers when this returns."""
    command = [sys.executable, "-m", "lit_bert", "serve", str(folder), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, process.wait(10)
    return Server(process, found[0], folder)


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[Server]:
    """One for all tests that leave it running."""
    started = serve(exported)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A Chromium that has no history."""
    home = tmp_path_factory.mktemp("chromium")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": str(home)}
        )
        yield launched
        launched.close()


@dataclass
class Seen:
    """What a page asked for and complained about."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Visit:
    """An open page."""

    page: Page
    seen: Seen

    def classify(self, text: str) -> None:
        """As a person does it with the mouse."""
        self.page.get_by_label("Text", exact=True).fill(text)
        self.page.get_by_role("button", name="Classify").click()

    def label(self, name: str | re.Pattern[str] = re.compile("Label: ")) -> None:
        """Waits for the result of one text."""
        expect(self.page.get_by_role("heading", name=name)).to_be_visible()

    @property
    def rows(self) -> sync_api.Locator:
        """Those of the table that stand for a line."""
        return self.page.get_by_role("table").first.locator("tbody > tr:not(.open)")


@pytest.fixture
def visit(browser, server: Server) -> Iterator:
    """Opens the page; what it asks for and complains about is kept."""
    contexts = []

    def open_page(url: str = server.url, **settings: object) -> Visit:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **settings}
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page, seen = context.new_page(), Seen()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.on("console", lambda message: seen.problems.append(message.text))
        page.goto(url)
        return Visit(page, seen)

    yield open_page
    for context in contexts:
        context.close()


# --- one text


def test_an_example_gives_a_label_bars_that_sum_up_and_words(visit) -> None:
    opened = visit()
    page = opened.page
    expect(page.get_by_text("Sorts texts into 3 classes")).to_be_visible()
    page.get_by_role("button", name="A complaint").click()
    opened.label()
    rows = page.locator(".bars li")
    assert sorted(rows.locator("bdi").all_inner_texts()) == ["anger", "joy", "sadness"]
    shown = [
        float(re.sub(r"[^\d.]", "", text)) for text in rows.locator(">span:last-child").all_inner_texts()
    ]
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == pytest.approx(100, abs=0.3)
    widths = [
        row.evaluate(
            "row => row.querySelector('i').offsetWidth / row.querySelector('.bar').offsetWidth * 100"
        )
        for row in rows.all()
    ]
    assert widths == pytest.approx(shown, abs=1)
    label = page.get_by_role("heading", level=2, name="Label:").locator("bdi").inner_text()
    assert label == rows.first.locator("bdi").inner_text()
    expect(page.get_by_role("status")).to_contain_text(f"{label}, ")
    assert page.locator(".words").inner_text() == page.get_by_label("Text", exact=True).input_value()
    assert page.locator(".words .w").count() > 0
    assert opened.seen.problems == []


def test_each_word_has_its_weight_in_words_and_a_sign_beside_its_colour(visit) -> None:
    opened = visit()
    page = opened.page
    opened.classify(TEXT)
    opened.label()
    page.get_by_text("Weights of all words").click()
    cells = page.get_by_role("table").locator("tbody tr").all_inner_texts()
    told = dict(row.split("\t") for row in cells)
    assert sorted(told) == sorted(TEXT.split())
    for word in page.locator(".words span").all():
        weight = word.get_attribute("title")
        assert weight == told[word.inner_text()]
        style = word.evaluate("word => getComputedStyle(word).borderBottomStyle")
        assert style in ("none", "dotted" if weight.startswith("−") else "solid")


def test_offsets_count_code_points_and_an_emoji_stays_whole(visit) -> None:
    opened = visit()
    text = "\U0001f600 happy \U0001f44d\U0001f3fd sad e\u0301"
    opened.classify(text)
    opened.label()
    spans = opened.page.locator(".words span").all_inner_texts()
    assert spans == ["\U0001f600", "happy", "\U0001f44d\U0001f3fd", "sad", "e\u0301"]
    assert opened.page.locator(".words").inner_text() == text


def test_a_text_with_html_is_shown_as_text(visit) -> None:
    opened = visit()
    text = "<img src=x onerror=alert(1)> <script>alert(2)</script> happy"
    opened.classify(text)
    opened.label()
    assert opened.page.locator(".words").inner_text() == text
    opened.classify(f"{text}\n{text}")
    expect(opened.rows).to_have_count(2)
    assert opened.rows.first.get_by_role("button").inner_text() == text
    assert opened.page.locator("main img, main script").count() == 0
    assert opened.seen.problems == []


def test_the_model_is_introduced_and_the_names_of_its_classes_are_text(
    visit, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "hostile")
    name = "<img src=x onerror=alert(1)>"
    (folder / "config.json").write_text(
        json.dumps({"id2label": {"0": name, "1": name + "2", "2": name + "3"}})
    )
    macro = {"value": 0.9124, "low": 0.8, "high": 0.95}
    evidence = {"rows": 1234, "used_for": ["choosing the epoch", "fitting the temperature"]}
    scores = {"validation": {**evidence, "macro_f1": macro, "by_class": {name: None}}}
    (folder / "lit_bert.json").write_text(json.dumps({"scores": scores}))
    list_files(folder)
    own = serve(folder)
    try:
        opened = visit(own.url)
        page = opened.page
        expect(page.get_by_role("heading", level=1)).to_have_text("hostile")
        expect(page.locator("#lead")).to_have_text(
            f"Sorts texts into 3 classes: {name}, {name}2, {name}3. "
            "Macro F1 0.912 on its 1,234 validation texts (95 % interval 0.800 – 0.950), which were also "
            "used for choosing the epoch and fitting the temperature."
        )
        opened.classify("happy")
        opened.label(re.compile(f"Label: {re.escape(name)}"))
        opened.classify("happy\nsad")
        expect(opened.rows).to_have_count(2)
        assert page.locator("img").count() == 0
        assert opened.seen.problems == []
    finally:
        own.stop()


@pytest.fixture(scope="module")
def ugly_server(exported_ugly: Path) -> Iterator[Server]:
    """Of a model whose classes have the names that outputs might interpret."""
    started = serve(exported_ugly)
    yield started
    started.stop()


def test_ugly_names_of_classes_are_shown_as_text_on_one_line(visit, ugly_server: Server) -> None:
    opened = visit(ugly_server.url, permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    expect(page.locator("#lead")).to_contain_text(f"Sorts texts into {len(UGLY)} classes")
    expect(page.locator("#lead")).to_contain_text("Macro F1 0.500")
    opened.classify("happy")
    opened.label()
    page.get_by_text(f"{len(UGLY) - 10} more", exact=True).click()
    shown = page.locator(".bars .name")
    assert sorted(shown.evaluate_all("all => all.map(each => each.title)")) == sorted(map(line, UGLY))
    assert all(text == line(text) for text in shown.all_inner_texts())
    assert page.locator("#facts .name").count() == len(UGLY)
    heights = shown.evaluate_all("all => all.map(each => each.getClientRects().length)")
    assert max(heights) <= 6  # a long name takes some lines, and a line end none
    opened.classify("\n".join(WORDS))
    expect(opened.rows).to_have_count(len(WORDS))
    page.get_by_role("button", name="Copy as CSV").click()
    expect(page.get_by_role("status")).to_contain_text(f"{len(WORDS)} lines copied as CSV.")
    copied = io.StringIO(page.evaluate("() => navigator.clipboard.readText()"), newline="")
    header, *rows = list(csv.reader(copied, strict=True))
    assert header[:4] == ["line", "text", "label", "probability"]
    # JavaScript puts keys that are whole numbers first; the names say which column is whose.
    assert sorted(header[4:]) == sorted(f"probability_{name}" for name in UGLY)
    predictions = Predictor(ugly_server.folder)(WORDS)
    assert len({prediction.label for prediction in predictions}) > 1
    for row, prediction in zip(rows, predictions, strict=True):
        assert row[2] == ("'" if prediction.label[0] in "=+-@\t\r" else "") + prediction.label
        for name, cell in zip(header[4:], row[4:], strict=True):
            assert float(cell) == pytest.approx(prediction.probabilities[name.removeprefix("probability_")])
    assert page.locator("main img, main script, main a").count() == 0
    assert opened.seen.problems == []


@pytest.mark.parametrize("width", [360, 1280])
def test_ugly_names_do_not_widen_the_page(visit, ugly_server: Server, width: int) -> None:
    opened = visit(ugly_server.url, viewport={"width": width, "height": 900})
    opened.classify("happy\nsad")
    expect(opened.rows).to_have_count(2)
    opened.rows.first.click()
    expect(opened.page.locator(".open .bars").first).to_be_visible()
    opened.page.get_by_text(f"{len(UGLY) - 10} more", exact=True).click()
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_documentation_shows_ugly_names_as_text(visit, ugly_server: Server) -> None:
    opened = visit(f"{ugly_server.url}/docs")
    page = opened.page
    schema = page.locator("pre").filter(has_text="What the model says of a text.")
    prediction = schema.first.inner_text()
    assert json.loads(prediction)["properties"]["label"]["enum"] == UGLY
    assert page.locator("script, img, iframe").count() == 0
    assert opened.seen.problems == []


def test_formulas_are_copied_as_text(visit) -> None:
    opened = visit(permissions=["clipboard-read", "clipboard-write"])
    lines = ["=1+1", "+cmd|' /C calc'!A0", "-2", "-2 happy", "@SUM(A1)", "happy", "+1.5e3"]
    opened.classify("\n".join(lines))
    expect(opened.rows).to_have_count(len(lines))
    opened.page.get_by_role("button", name="Copy as CSV").click()
    expect(opened.page.get_by_role("status")).to_have_text(
        "7 lines copied as CSV. 4 cells that a spreadsheet would compute got a leading apostrophe."
    )
    copied = list(csv.DictReader(io.StringIO(opened.page.evaluate("() => navigator.clipboard.readText()"))))
    assert [row["text"] for row in copied] == [
        *("'=1+1", "'+cmd|' /C calc'!A0", "-2", "'-2 happy", "'@SUM(A1)", "happy", "+1.5e3")
    ]


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"validation": None},
        {"validation": {"macro_f1": None, "by_class": {"joy": None}}},
        {"validation": {"macro_f1": {"value": "0.5", "low": [], "high": None}}},
        {"<b>": {"f1": {"value": 0.5, "low": 0.25, "high": 0.75}, "rows": "many", "used_for": 5}},
        None,
        [],
        "high",
    ],
)
def test_a_folder_without_a_usable_score_is_introduced_all_the_same(
    visit, server: Server, scores: object
) -> None:
    opened = visit("about:blank")
    page = opened.page

    def changed(route: sync_api.Route) -> None:
        route.fulfill(json={**route.fetch().json(), "scores": scores})

    page.route("**/info", changed)
    page.goto(server.url)
    expect(page.locator("#lead")).to_contain_text("Sorts texts into 3 classes: ")
    expect(page.locator("#about")).to_be_visible()
    assert ("Macro F1" in page.locator("#lead").inner_text()) == ("<b>" in (scores or {}))
    assert opened.seen.problems == []


def test_a_label_is_shown_where_finding_the_words_takes_too_long(visit) -> None:
    opened = visit()
    page = opened.page
    error = {"error": {"code": "too_slow", "message": "There was no answer."}}
    page.route("**/predict", lambda route: route.fulfill(status=504, json=error), times=1)
    opened.classify("happy")
    opened.label()
    expect(page.get_by_text("To find them took longer than the server allows")).to_be_visible()


def test_a_text_longer_than_the_model_reads_gets_a_note(visit) -> None:
    opened = visit()
    opened.classify("happy " * 400)
    expect(opened.page.get_by_text("a part of it was left out")).to_be_visible()


# --- many lines


def test_each_line_is_classified_and_a_row_opens_to_its_words(visit) -> None:
    opened = visit()
    page = opened.page
    opened.classify("i am happy\n\n  this is sad  \nangry <b>dog</b>")
    expect(opened.rows).to_have_count(3)
    assert page.get_by_role("columnheader").all_inner_texts() == ["Line", "Text", "Label", "Probability"]
    cells = [row.split("\t") for row in opened.rows.all_inner_texts()]
    assert [cell[0].strip() for cell in cells] == ["1", "3", "4"]
    assert page.get_by_role("rowheader").all_inner_texts() == [
        "i am happy",
        "this is sad",
        "angry <b>dog</b>",
    ]
    opened.rows.nth(1).click()
    expect(page.locator(".open .words")).to_have_text("this is sad")
    opened.rows.nth(1).click()
    expect(page.locator(".open")).to_be_hidden()


def test_the_table_is_copied_as_csv_that_other_programs_read(visit) -> None:
    opened = visit(permissions=["clipboard-read", "clipboard-write"])
    lines = ['she said "happy", twice', "sad;rain", "späti, 'late'"]
    opened.classify("\n".join(lines))
    expect(opened.rows).to_have_count(3)
    opened.page.get_by_role("button", name="Copy as CSV").click()
    expect(opened.page.get_by_role("status")).to_have_text("3 lines copied as CSV.")
    copied = list(csv.DictReader(io.StringIO(opened.page.evaluate("() => navigator.clipboard.readText()"))))
    assert [row["text"] for row in copied] == lines
    labels = [name.removeprefix("probability_") for name in list(copied[0])[4:]]
    for row in copied:
        probs = {label: float(row[f"probability_{label}"]) for label in labels}
        assert sum(probs.values()) == pytest.approx(1, abs=1e-4)
        assert row["label"] == max(probs, key=probs.__getitem__)


def test_a_long_paste_goes_in_parts_stops_when_asked_and_goes_on(visit) -> None:
    opened = visit()
    page = opened.page
    asked = []

    def hold_the_second(route: sync_api.Route) -> None:
        asked.append(route)
        if len(asked) != 2:
            route.continue_()

    page.route("**/predict", hold_the_second)
    opened.classify("\n".join(f"happy line {number}" for number in range(100)))
    expect(opened.rows).to_have_count(32)
    expect(page.get_by_role("progressbar", name="Lines classified")).to_be_visible()
    expect(page.get_by_text("32 of 100 lines")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("Stopped after 32 of 100 lines.")
    expect(page.get_by_role("button", name="Go on")).to_be_focused()
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(100)
    assert len(set(page.get_by_role("rowheader").all_inner_texts())) == 100
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_paste_of_many_lines_shows_the_first_and_more_on_demand(visit) -> None:
    opened = visit()
    page = opened.page
    opened.classify("\n".join(f"happy line {number}" for number in range(600)))
    expect(page.get_by_role("heading", name="600 lines")).to_be_visible()
    expect(opened.rows).to_have_count(500)
    page.get_by_role("button", name="Show more than these 500").click()
    expect(opened.rows).to_have_count(600)
    expect(page.get_by_role("button", name="happy line 500")).to_be_focused()
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_a_line_that_the_server_refuses_does_not_spoil_the_others(visit) -> None:
    opened = visit()
    opened.classify("happy\n" + "x" * 10_001 + "\nsad")
    expect(opened.rows).to_have_count(3)
    assert "10001 characters and 10000 are allowed" in opened.rows.nth(1).inner_text()
    assert "%" in opened.rows.nth(0).inner_text()
    assert "%" in opened.rows.nth(2).inner_text()


# --- other kinds of tasks


def of_kind(exported: Path, folder: Path, kind: str, names: list[str], **parameters: list[float]) -> Path:
    """An exported folder of a kind of task, of the same encoder with a head by which texts differ."""
    task = task_of(kind, names, parameters)
    settings = {"problem_type": task.problem_type, CONFIG_KEY: kind, PARAMETERS_KEY: parameters}
    scores = {"validation": {task.main: {"value": 0.512, "low": 0.25, "high": 0.75}}}
    return with_head(exported, folder, names, 40, settings, scores)


KINDS = {
    "multi_label": (["sun", "<b>rain</b>", "=1+1", "snow"], {"thresholds": [0.5, 0.6, 0.4, 0.5]}),
    "ordinal": (["1", "2", "10", "20"], {}),
    "regression": (["stars"], {"scale": [0.0, 30.0], "interval": [2.5]}),
}


@pytest.fixture(scope="module", params=KINDS)
def kind_server(request, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of a model of a kind of task."""
    names, parameters = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "model"
    started = serve(of_kind(exported, folder, request.param, names, **parameters))
    yield started
    started.stop()


# What stands where, by kind of task.
LEADS = {
    "multi_label": "Gives a text any number of 4 classes: sun, <b>rain</b>, =1+1, snow. Macro F1 0.512 on",
    "ordinal": "Sorts texts into 4 classes: 1, 2, 10, 20. Quadr. kappa 0.512 on",
    "regression": "Predicts a number for a text: stars. R² 0.512 on",
}
HEADS = {
    "multi_label": ["Line", "Text", "Labels"],
    "ordinal": ["Line", "Text", "Label", "Probability"],
    "regression": ["Line", "Text", "Value", "Interval"],
}


def test_the_page_answers_as_every_kind_does(visit, kind_server: Server) -> None:
    predictor = Predictor(kind_server.folder)
    kind = predictor.task.kind
    opened = visit(kind_server.url)
    page = opened.page
    expect(page.locator("#lead")).to_contain_text(LEADS[kind])
    for text in WORDS[:12]:
        (answer,) = predictor([text])
        page.get_by_label("Text", exact=True).fill(text)
        page.locator("#form .main").click()
        expect(page.locator("#result .words")).to_have_text(text)
        heading = " ".join(page.locator("#result h2").inner_text().split())
        if kind == "regression":
            assert heading == (
                f"Value: {answer.value:,.1f} {answer.low:,.1f} – {answer.high:,.1f}".replace("-", "−")
            )
            assert page.locator("#result .bars").count() == 0
            expect(page.locator("#result")).to_contain_text("raises stars")
            continue
        bars = page.locator("#result .bars li")
        given = page.locator("#result .bars li.given bdi").all_inner_texts()
        shown = dict(row.split("\n") for row in bars.all_inner_texts())
        for name, probability in answer.probabilities.items():
            percent = float(re.sub(r"[^\d.]", "", shown[name]))
            assert percent == pytest.approx(100 * probability, abs=0.11)
        if kind == "ordinal":
            assert heading.startswith(f"Label: {answer.label} ")
            assert list(shown) == ["1", "2", "10", "20"]  # their order, not that of probabilities
            assert given == [answer.label]
            expect(page.locator("#result")).to_contain_text(f"from {answer.low} to {answer.high}.")
        else:
            assert heading == f"Labels: {', '.join(answer.labels) or 'no label'}"
            assert given == answer.labels
            explained = predictor.task.explained(answer)["explained_label"]
            expect(page.locator("#result")).to_contain_text(f"pushes towards {explained}")
    assert opened.seen.problems == []


def test_lines_of_every_kind_are_listed_opened_and_copied(visit, kind_server: Server) -> None:
    predictor = Predictor(kind_server.folder)
    kind = predictor.task.kind
    opened = visit(kind_server.url, permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    page.get_by_label("Text", exact=True).fill("\n".join(WORDS))
    page.locator("#form .main").click()
    expect(opened.rows).to_have_count(len(WORDS))
    expect(page.get_by_role("heading", name=f"{len(WORDS)} lines")).to_be_visible()
    assert page.get_by_role("columnheader").all_inner_texts() == HEADS[kind]
    opened.rows.first.click()
    expect(page.locator(".open .words")).to_have_text(WORDS[0])
    page.get_by_role("button", name="Copy as CSV").click()
    expect(page.get_by_role("status")).to_contain_text(f"{len(WORDS)} lines copied as CSV.")
    content = page.evaluate("() => navigator.clipboard.readText()")
    copied = list(csv.DictReader(io.StringIO(content, newline="")))
    answers = predictor(WORDS)
    for row, answer in zip(copied, answers, strict=True):
        fields = answer._asdict()
        assert fields.pop("truncated") is False
        probabilities = fields.pop("probabilities", {})
        fields |= {f"probability_{name}": value for name, value in probabilities.items()}
        assert row.keys() == {"line", "text", *fields}
        for name, value in fields.items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value, rel=1e-5)
            else:
                assert row[name] == (json.dumps(value, separators=(",", ":")) if name == "labels" else value)
    if kind == "multi_label":
        assert len({tuple(answer.labels) for answer in answers}) > 1
        without = sum(not answer.labels for answer in answers)
        found = page.locator("#result .soft").first.inner_text()
        assert ("no label" in found) == bool(without)
    assert page.locator("main img, main script, main b b").count() == 0
    assert opened.seen.problems == []


@pytest.mark.parametrize("width", [360, 1280])
def test_no_kind_widens_the_page(visit, kind_server: Server, width: int) -> None:
    opened = visit(kind_server.url, viewport={"width": width, "height": 900})
    opened.page.get_by_label("Text", exact=True).fill("happy " + "w" * 100 + "\nsad")
    opened.page.locator("#form .main").click()
    expect(opened.rows).to_have_count(2)
    opened.rows.first.click()
    expect(opened.page.locator(".open .words")).to_be_visible()
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_answers_of_every_kind_are_as_the_document_says(kind_server: Server) -> None:
    from jsonschema import Draft202012Validator

    def asked(path: str, body: object = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        with urlopen(Request(kind_server.url + path, data, headers)) as response:
            return json.load(response)

    document, info = asked("/openapi.json"), asked("/info")
    task = Predictor(kind_server.folder).task
    assert (info["task"], info["label_form"]) == (task.kind, task.label_form)
    assert info["main_score"] == {"name": task.main, "title": task.main_title}
    schemas = document["components"]["schemas"]
    prediction = {
        **schemas["Prediction"],
        "additionalProperties": False,
        "components": document["components"],
    }
    validator = Draft202012Validator(prediction)
    said = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    for example in ("one", "explained"):
        validator.validate(said["examples"][example]["value"])
    for text in WORDS[:5]:
        explained = asked("/predict", {"text": text, "explain": True})
        validator.validate(explained)
        assert explained.keys() == schemas["Prediction"]["properties"].keys()
        assert ("explained_label" in explained) == (task.kind == "multi_label")
        plain = asked("/predict", {"text": text})
        validator.validate(plain)
        assert plain.items() <= explained.items()


# --- when something is wrong


def test_a_server_that_is_gone_is_told_and_the_text_kept(visit, exported: Path) -> None:
    own = serve(exported)
    port = own.url.rsplit(":", 1)[1]
    try:
        opened = visit(own.url)
        page = opened.page
        opened.classify(TEXT)
        opened.label()
        own.stop()
        opened.classify(f"{TEXT} today")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
        expect(page.get_by_label("Text", exact=True)).to_have_value(f"{TEXT} today")
        assert page.locator(".words").count() == 0  # not those of the text before
        own = serve(exported, "--port", port)
        page.get_by_role("button", name="Try again").click()
        opened.label()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.get_by_label("Text", exact=True)).to_be_focused()
    finally:
        own.stop()


def test_a_busy_server_is_asked_again_when_it_says_so(visit) -> None:
    opened = visit()
    page = opened.page
    busy = {
        "status": 429,
        "headers": {"Retry-After": "1"},
        "json": {"error": {"code": "x", "message": "Busy."}},
    }
    page.route("**/predict", lambda route: route.fulfill(**busy), times=1)
    opened.classify("happy\nsad")
    expect(page.get_by_role("status")).to_have_text("The server is busy; asking again in 1 s.")
    expect(opened.rows).to_have_count(2)


def test_an_error_of_the_server_is_shown_in_its_words(visit) -> None:
    opened = visit()
    opened.classify("x" * 10_001)
    expect(opened.page.get_by_role("alert")).to_contain_text("10001 characters and 10000 are allowed")
    assert len(opened.page.get_by_label("Text", exact=True).input_value()) == 10_001


def test_a_token_is_asked_for_and_kept_nowhere(visit, exported: Path) -> None:
    own = serve(exported, "--token", "schlüssel")
    try:
        page = visit(own.url).page
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        assert field.get_attribute("type") == "password"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("does not accept this token")
        field.fill("schlüssel")
        page.get_by_role("button", name="Use token").click()
        expect(page.get_by_text("Sorts texts into 3 classes")).to_be_visible()
        expect(field).to_be_hidden()
        expect(page.get_by_label("Text", exact=True)).to_be_focused()
        page.get_by_role("button", name="Good news").click()
        expect(page.get_by_role("heading", name="Label:")).to_be_visible()
        assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [
            0,
            0,
            "",
        ]
    finally:
        own.stop()


def test_nothing_is_sent_for_no_text(visit) -> None:
    opened = visit()
    opened.classify("  \n ")
    expect(opened.page.get_by_role("status")).to_have_text("There is no text yet.")
    expect(opened.page.get_by_label("Text", exact=True)).to_be_focused()
    assert not any(url.endswith("/predict") for url in opened.seen.requests)


# --- for everybody


def test_all_of_it_works_with_the_keyboard_alone(visit) -> None:
    opened = visit()
    page = opened.page
    expect(page.get_by_text("Sorts texts into")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Text", exact=True)).to_be_focused()
    page.keyboard.type("i am happy")
    page.keyboard.press("Control+Enter")
    opened.label()
    page.keyboard.press("Enter")
    page.keyboard.type("this is sad")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Classify")).to_be_focused()
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Enter")
    expect(opened.rows).to_have_count(2)
    for _ in range(6):  # five examples, and the button for CSV
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy as CSV")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    row = page.get_by_role("button", name="this is sad")
    expect(row).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".open .words")).to_have_text("this is sad")
    page.keyboard.press("Home")
    expect(page.get_by_role("button", name="i am happy")).to_be_focused()


def test_a_screen_reader_finds_names_and_landmarks(visit) -> None:
    opened = visit()
    page = opened.page
    opened.classify("happy")
    opened.label()
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1
    for role in ("main", "banner", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    expect(page.get_by_role("textbox", name="Text")).to_have_accessible_description(
        "Type or paste. With several lines, each gets a label of its own."
    )
    expect(page.locator(".bars")).to_match_aria_snapshot(
        """
        - list:
          - listitem: /\\w+ (< )?\\d+\\.\\d %/
          - listitem: /\\w+ (< )?\\d+\\.\\d %/
          - listitem: /\\w+ (< )?\\d+\\.\\d %/
        """
    )
    for control in page.locator("button, input, textarea, a, summary").all():
        if control.is_visible():
            assert control.evaluate("each => (each.labels?.[0] ?? each).textContent.trim()"), control


# Of all visible texts: [contrast to what is behind them, text].
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  canvas.canvas.width = canvas.canvas.height = 1;
  const painted = colours => {  // over each other, as the browser does it
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = colour => colour
    .map(value => value / 255).map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [.2126, .7152, .0722][place], 0);
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), holder = walk.currentNode.parentElement;
    if (!text || !holder.checkVisibility() || holder.closest("script, noscript")) continue;
    const behind = [];
    for (let each = holder; each; each = each.parentElement) {
      if (getComputedStyle(each).opacity !== "1") return [[0, "opacity at " + text]];
      behind.unshift(getComputedStyle(each).backgroundColor);
    }
    const pair = [painted([...behind, getComputedStyle(holder).color]), painted(behind)].map(luminance);
    found.push([(Math.max(...pair) + .05) / (Math.min(...pair) + .05), text]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_stand_out_from_what_is_behind_them(visit, scheme: str) -> None:
    opened = visit(color_scheme=scheme)
    opened.classify(f"{TEXT}\nangry")
    opened.rows.first.click()
    expect(opened.page.locator(".open .words")).to_be_visible()
    opened.page.get_by_text("Weights of all words").click()
    opened.page.evaluate("() => complain('Shown for its colours.')")
    contrasts = opened.page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert [each for each in contrasts if each[0] < 4.5] == []
    dark = opened.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(18, 22, 27)") == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 640])  # 640: 1280 at 200 %
def test_nothing_is_wider_than_a_phone(visit, width: int) -> None:
    opened = visit(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=width == 360)
    page = opened.page

    def overflow() -> int:
        return page.evaluate(
            "() => Math.max(...[document.documentElement, ...document.querySelectorAll('.scroll')]"
            ".map(each => each.scrollWidth - each.clientWidth))"
        )

    opened.classify("happy " + "w" * 200 + " and a https://example.org/" + "long" * 30)
    opened.label()
    assert overflow() == 0
    expect(page.get_by_role("heading", name="Label:")).to_be_in_viewport()
    opened.classify("happy " + "w" * 200 + "\nsad")
    expect(opened.rows).to_have_count(2)
    opened.rows.first.click()
    expect(page.locator(".open .words")).to_be_visible()
    assert overflow() == 0
    table = page.get_by_role("table").first
    widths = [
        each.evaluate("each => each.offsetWidth") for each in (page.get_by_role("rowheader").last, table)
    ]
    assert widths[0] > 0.35 * widths[1]
    assert page.locator(".open td").first.evaluate("each => each.offsetWidth") == widths[1]


def test_no_request_leaves_the_machine(visit, server: Server) -> None:
    opened = visit()
    opened.classify(TEXT)
    opened.label()
    opened.page.get_by_role("button", name="Five lines").click()
    expect(opened.rows).to_have_count(5)
    asked = [url for url in opened.seen.requests if not url.startswith("data:")]
    assert {url.removeprefix(server.url) for url in asked} == {"/", "/info", "/predict"}
    assert opened.seen.problems == []
