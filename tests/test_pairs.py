"""Pairs of texts, and several columns joined to one: tokens, logits and the way through every verb."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tiny
import torch
from conftest import CLASSES, Run, texts_of, write_csv
from hypothesis import given
from hypothesis import strategies as st
from serving import JSON, error_of, servers

from lit_bert import EmotionDataModule, Predictor, UserError, Weights
from lit_bert.data.batches import collate
from lit_bert.data.cells import text_in
from lit_bert.encoders.table import encoder_of, graph_of
from lit_bert.evaluate.attribution import STEPS, Explainer, Question
from lit_bert.evaluate.audit import find_dataset_issues
from lit_bert.evaluate.predictions import Predictions
from lit_bert.io.texts import CONFIG_KEY, TextForm, display, shares, text_cells, whole_length
from lit_bert.model.bert import CpuBert
from lit_bert.model.logits import exact_logits, inputs_of
from lit_bert.model.pretrained import load_network
from lit_bert.task.kinds import task_of

PAIR = TextForm("pair", ("premise", "hypothesis"))
JOINED = TextForm("joined", ("title", "body", "stars"))
LONG = "i am so happy about the sun and the dog today"
PAIRS = [
    ("i am so happy", "it was not sad"),
    ("sad", LONG),
    (LONG, "sad"),
    (LONG, LONG),
    ("it was late", "it was late"),
]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Any]:
    """Weights of lit_bert and the tokenizer of transformers, of one folder."""
    from transformers import AutoTokenizer

    folder = tiny.write(request.param, tmp_path_factory.mktemp(request.param))
    return Weights(str(folder), stand_in=None), AutoTokenizer.from_pretrained(folder)


# --- tokens ---


def encoded(
    form: TextForm, weights: Weights, most: int, texts: list[Any], offsets: bool = False
) -> list[Any]:
    tokenizer = weights.tokenizer(most)
    tokenizer.no_truncation()
    return list(form.encode(tokenizer, texts, most, offsets))


@pytest.mark.parametrize("most", [64, 15, 12])
def test_pairs_are_encoded_as_by_the_tokenizer_of_transformers(family: Any, most: int) -> None:
    weights, theirs = family
    for pair, own in zip(PAIRS, encoded(PAIR, weights, most, PAIRS), strict=True):
        wanted = theirs(*pair, truncation="longest_first", max_length=most, return_token_type_ids=True)
        assert own.ids == wanted["input_ids"]
        assert own.type_ids == wanted["token_type_ids"]
        whole = len(theirs(*pair)["input_ids"])
        assert whole_length(own) == whole
        assert bool(own.overflowing) == (whole > most)


def test_the_longer_text_of_a_pair_is_cut_first(family: Any) -> None:
    weights, theirs = family
    (found,) = encoded(PAIR, weights, 12, [("sad", LONG)])
    first = theirs("sad", add_special_tokens=False)["input_ids"]
    assert found.ids[1 : 1 + len(first)] == first
    assert len(found.ids) == 12


def test_only_architectures_with_segments_are_told_them(family: Any) -> None:
    weights, _ = family
    has_types = PAIR.token_types(weights.tokenizer(64), weights.type_vocab_size)
    assert has_types == (weights.described.model_type == "bert")
    assert not TextForm().token_types(weights.tokenizer(64), 2)
    assert not JOINED.token_types(weights.tokenizer(64), 2)


def test_swapped_order_is_another_input(family: Any) -> None:
    weights, _ = family
    one, other = encoded(PAIR, weights, 64, [PAIRS[0], PAIRS[0][::-1]])
    assert one.ids != other.ids
    assert len(one.ids) == len(other.ids)


def test_joined_columns_are_what_transformers_makes_of_lines_and_separators(family: Any) -> None:
    weights, theirs = family
    text = JOINED.text_of(["so happy", "it was late today", "5"])
    assert text == "title: so happy\nbody: it was late today\nstars: 5"
    (own,) = encoded(JOINED, weights, 64, [text])
    assert own.ids == theirs(theirs.sep_token.join(text.split("\n")))["input_ids"]
    assert not own.overflowing


@pytest.mark.parametrize("most", [64, 30])
def test_each_column_is_cut_by_its_share_and_all_names_stay(family: Any, most: int) -> None:
    weights, theirs = family
    texts = [JOINED.text_of(cells) for cells in (["so sad", LONG * 9, "5"], [LONG * 9, "so sad", None])]
    for _, own in zip(texts, encoded(JOINED, weights, most, texts), strict=True):
        assert len(own.ids) <= most
        assert own.overflowing
        read = theirs.decode(own.ids).replace(theirs.sep_token, "|")
        for name in ("title", "body", "stars", "so sad"):
            assert "".join(name.split()) in "".join(read.split())


def test_shares_give_on_what_is_not_needed() -> None:
    assert shares([1, 100, 1], 30) == [1, 28, 1]
    assert shares([100, 100], 31) == [15, 16]
    assert shares([3, 4], 30) == [3, 4]
    assert shares([0, 5, 9], 6) == [0, 3, 3]


def test_a_value_with_line_ends_cannot_pose_as_another_column() -> None:
    honest = JOINED.text_of(["a", "b", "c"])
    posing = JOINED.text_of(["a\nbody: b\nstars: c", None, None])
    assert posing != honest
    assert JOINED.parts(posing) == ["a body: b stars: c", "", ""]
    assert JOINED.parts(honest) == ["a", "b", "c"]
    assert JOINED.of_parts(JOINED.parts(honest)) == honest


@pytest.mark.fuzz
@given(st.lists(st.text(max_size=40), min_size=3, max_size=3))
def test_any_cells_come_apart_again_and_fit(family: Any, cells: list[str]) -> None:
    weights, _ = family
    text = JOINED.of_parts(cells)
    assert JOINED.parts(text) == [cell.replace("\r", " ").replace("\n", " ") for cell in cells]
    (found,) = encoded(JOINED, weights, 40, [text], offsets=True)
    assert len(found.ids) == len(found.offsets) == len(found.word_ids) == len(found.special_tokens_mask) <= 40
    assert all(0 <= start <= end <= len(text) for start, end in found.offsets)
    pair = (cells[0], cells[1])
    (found,) = encoded(PAIR, weights, 12, [pair], offsets=True)
    assert PAIR.parts(pair) == list(pair)
    assert all(0 <= start <= end <= len(display(pair)) for start, end in found.offsets)


def test_too_few_tokens_for_the_columns_are_refused(family: Any) -> None:
    weights, _ = family
    with pytest.raises(UserError, match=r"max_length is 4; expected at least .* premise, hypothesis"):
        encoded(PAIR, weights, 4, PAIRS)
    with pytest.raises(UserError, match=r"max_length is 9; expected at least .* title, body, stars"):
        encoded(JOINED, weights, 9, [JOINED.text_of("abc")])


def test_a_row_without_one_of_a_pair_has_no_text_and_a_joined_one_needs_any() -> None:
    assert text_in({"premise": "a", "hypothesis": " "}, PAIR) is None
    assert text_in({"premise": "a", "hypothesis": 7}, PAIR) == ("a", "7")
    assert text_in({"title": None, "stars": 4.5}, JOINED) == "title: \nbody: \nstars: 4.5"
    assert text_in({"title": "", "body": " "}, JOINED) is None


# --- networks ---


@pytest.mark.parametrize("kind", [each for each in tiny.WHOLE if each != "distilbert"])
def test_logits_of_pairs_are_those_of_transformers_by_every_path(kind: str, tmp_path: Path) -> None:
    """Own operations, the modules of transformers, and the graph that is exported."""
    weights = Weights(str(tiny.write(kind, tmp_path / kind)), stand_in=None)
    network = load_network(weights, ["a", "b", "c"]).eval()
    with torch.no_grad():
        for parameter in encoder_of(network).logits_of(network).parameters():
            parameter.normal_()
    tokenizer = weights.tokenizer(40)
    encodings = encoded(PAIR, weights, 40, PAIRS)
    items = [{"input_ids": each.ids} for each in encodings]
    has_types = PAIR.token_types(tokenizer, weights.type_vocab_size)
    if has_types:
        items = [
            {**item, "token_type_ids": each.type_ids} for item, each in zip(items, encodings, strict=True)
        ]
    batch = inputs_of(collate(items, weights.pad_token_id))
    assert ("token_type_ids" in batch) == (kind in ("bert", "electra", "albert"))
    with torch.inference_mode():
        wanted = network(**batch).logits
        torch.testing.assert_close(exact_logits(network, **batch), wanted)
        if CpuBert.can_run(network):
            torch.testing.assert_close(CpuBert(network)(**batch), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(graph_of(network)(**batch), wanted, rtol=1e-4, atol=1e-5)
        if has_types:  # which matter
            alone = {**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}
            assert not torch.allclose(network(**alone).logits, wanted, atol=1e-3)


def test_segments_get_the_gradient_that_transformers_gives_them(tiny_bert: Path) -> None:
    network = load_network(Weights(str(tiny_bert), stand_in=None), ["a", "b"]).eval()
    ids = torch.randint(5, 30, (3, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": ids % 2}
    table = network.bert.embeddings.token_type_embeddings.weight
    network(**batch).logits.square().sum().backward()
    wanted, table.grad = table.grad, None
    CpuBert(network)(**batch).square().sum().backward()
    torch.testing.assert_close(table.grad, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", [PAIR, JOINED])
def test_words_of_all_columns_are_explained_and_add_up(tiny_bert: Path, form: TextForm) -> None:
    weights = Weights(str(tiny_bert), stand_in=None)
    explainer = Explainer(load_network(weights, ["a", "b"]), weights.tokenizer(32), form)
    text = form.of_parts(["happy", "sad"] if form is PAIR else ["happy", "sad", "late"])
    (found,) = explainer.explain([Question(text, 1)])
    words = [display(text)[start:end] for start, end in found.spans]
    assert words == (["happy", "sad"] if form is PAIR else ["happy", "sad", "late"])
    assert abs(found.gap) < 1e-3
    assert explainer.within_budget([[Question(text, 1)]], budget=4 * STEPS * 1e9) == 1


# --- the way through every verb ---


def rows_of(form: str, count: int = 60) -> list[dict[str, object]]:
    classes = list(CLASSES)
    rows: list[dict[str, object]] = []
    for n in range(count):
        first, second = classes[n % 3], classes[n // 3 % 3]
        one, other = texts_of(first, 36)[n % 36], texts_of(second, 36)[n * 7 % 36]
        if form == "pair":
            label = "same" if first == second else "other"
            rows.append({"hypothesis": other, "id": n, "label": label, "premise": one})
        else:
            rows.append({"title": one, "body": other * 9, "stars": n % 5, "label": first})
    return rows


@pytest.fixture(scope="module", params=["pair", "joined"])
def journey(
    request: Any, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[str]]:
    """A form, the folder of a run on such rows that was resumed and exported, and its flags."""
    from lit_bert.__main__ import main

    folder = tmp_path_factory.mktemp(request.param)
    file = write_csv(folder / "rows.csv", rows_of(request.param))
    flags = [f"--data.dataset={file}", f"--weights.pretrained={tiny_bert}", "--data.max_length=40"]
    flags += ["--data.text_column=title,body,stars"] * (request.param == "joined")
    fit = [
        *flags,
        *(
            "--data.val_fraction=0.4",
            "--data.batch_size=8",
            "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu",
        ),
        f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}",
    ]
    run = folder / "checkpoints" / "version_0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        assert main(["fit", *fit]) == 0
        assert main(["fit", f"--ckpt_path={run / 'last.ckpt'}", "--trainer.max_epochs=2"]) == 0
        assert main(["export", f"--ckpt_path={run / 'best.ckpt'}", "--max_f1_loss=100"]) == 0
    return request.param, run, flags


def texts(form: str) -> list[Any]:
    if form == "pair":
        return [("i am so happy", "it was sad"), ("it was sad", "i am so happy")]
    return [
        {"title": "so happy", "body": "it was sad", "stars": "5"},
        {"title": "", "body": "glad", "stars": ""},
    ]


def test_test_report_and_audit_show_both_texts(journey: Any, run: Run) -> None:
    form, folder, flags = journey
    best = f"--ckpt_path={folder / 'best.ckpt'}"
    assert run("test", best, "--data.test_split=validation").code == 0
    table = pyarrow.parquet.read_table(folder / "test.parquet")
    assert ("text_pair" in table.column_names) == (form == "pair")
    stored = Predictions.read(folder / "test.parquet")
    row, text = int(stored.rows[0]), stored.texts[0]
    source = rows_of(form)[row]
    if form == "pair":
        assert text == (source["premise"], source["hypothesis"])
    else:
        assert text == f"title: {source['title']}\nbody: {source['body']}\nstars: {source['stars']}"
    report = run("report", folder)
    assert report.code == 0, report.err
    data = json.loads(
        (folder / "report.html")
        .read_text()
        .split('<script type="application/json" id="data">')[1]
        .split("</script>")[0]
    )
    by_number = {each["n"]: each for each in data["rows"]}
    segments = by_number[row + 1]["t"]
    assert "".join(each if isinstance(each, str) else each[0] for each in segments) == display(text)
    assert any(isinstance(each, list) for each in segments)
    audit = run("audit", *flags, "--folds=2", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
                "--output=suspects.csv")  # fmt: skip
    assert audit.code == 0, audit.err
    assert run("report", folder, folder, "--output=apart.csv").code == 0


def test_predict_takes_files_and_the_command_line(journey: Any, run: Run, refused: Any) -> None:
    form, folder, _ = journey
    best = f"--ckpt_path={folder / 'best.ckpt'}"
    rows = rows_of(form, 6)
    rows[2] = dict.fromkeys(rows[2], "")
    write_csv(Path("in.csv"), rows)
    outcome = run("predict", best, "--input=in.csv", "--output=out.csv")
    assert outcome.code == 1
    assert "no text in columns '" in outcome.err
    with Path("out.csv").open(newline="") as stream:
        out = list(csv.DictReader(stream))
    assert [row["predicted_label"] != "" for row in out] == [True, True, False, True, True, True]
    predictor = Predictor(folder / "exported", file="model.onnx")
    given = [
        (row["premise"], row["hypothesis"])
        if form == "pair"
        else {name: str(row[name]) for name in JOINED.columns}
        for row in (rows[0], rows[1])
    ]
    for row, answer in zip(out, predictor(given), strict=False):
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=2e-2)  # bf16 beside 32 bits
    words = ["so happy", "it was sad", "5"][: 2 if form == "pair" else 3]
    outcome = run("predict", *words, *words, best)
    assert len(outcome.out.splitlines()) == 2, outcome.err
    assert "expected" in refused("predict", "one", best)
    Path("texts.txt").write_text("so happy\n")
    assert "texts alone" in refused("predict", best, "--input=texts.txt")
    other = "--data.text_column=label,title" if form == "joined" else "--data.text_column=label"
    why = "was trained on" if form == "joined" else "names 1 column (label); expected two"
    assert why in refused("predict", best, "--input=in.csv", other)
    assert why in refused("test", best, "--data.test_split=validation", other)


def test_a_model_of_single_texts_refuses_pairs(trained: Path, refused: Any) -> None:
    write_csv(Path("in.csv"), rows_of("pair", 4))
    line = refused("predict", f"--ckpt_path={trained / 'best.ckpt'}", "--input=in.csv",
                   "--data.text_column=premise,hypothesis")  # fmt: skip
    assert "was trained on texts of the column 'text', and these are pairs" in line


def test_the_exported_folder_labels_as_the_checkpoint_does(journey: Any) -> None:
    """By both ONNX files and by transformers; swapped pairs get other answers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    form, folder, _ = journey
    exported = folder / "exported"
    config = json.loads((exported / "config.json").read_text())
    columns = ["premise", "hypothesis"] if form == "pair" else list(JOINED.columns)
    assert config[CONFIG_KEY] == {"form": form, "columns": columns}
    network = AutoModelForSequenceClassification.from_pretrained(exported).eval()
    theirs = AutoTokenizer.from_pretrained(exported)
    for text in texts(form):
        if form == "pair":
            inputs = theirs(*text, return_tensors="pt")
        else:
            lines = [f"{name}: {text[name]}".strip() for name in columns]
            inputs = theirs(theirs.sep_token.join(lines), return_tensors="pt")
        with torch.inference_mode():
            wanted = network(**inputs).logits.softmax(-1).numpy()
        np.testing.assert_allclose(Predictor(exported, file="model.onnx").probs([text]), wanted, atol=1e-5)
        np.testing.assert_allclose(
            Predictor(exported, file="model.int8.onnx").probs([text]), wanted, atol=0.05
        )
    exact = Predictor(exported, file="model.onnx")
    words = exact.explain(texts(form)[0])
    assert {word.part for word in words} == set(range(len(columns)))
    if form == "pair":
        one, swapped = exact.probs(texts(form))
        assert not np.array_equal(one, swapped)
    card = (exported / "README.md").read_text()
    assert ('"text_pair": "how nice"' in card) == (form == "pair")
    assert all(column in card for column in columns)


def test_other_texts_than_those_of_the_model_are_refused_by_the_predictor(journey: Any) -> None:
    form, folder, _ = journey
    predictor = Predictor(folder / "exported")
    other = texts("joined" if form == "pair" else "pair")
    for bad in (["a text"], "a text", other, [("a",)], [("a", "b", "c")], [{"title": "a"}], [(1, 2)]):
        with pytest.raises(TypeError, match="expected a list of"):
            predictor(bad)


def test_a_folder_whose_graph_and_config_differ_in_their_texts_is_refused(
    journey: Any, exported: Path, tmp_path: Path
) -> None:
    form, folder, _ = journey
    changed = shutil.copytree(folder / "exported", tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    for said in (
        None,
        {"form": "single"},
        {"form": form, "columns": ["a"]},
        {"form": form, "columns": ["a", "a"]},
        3,
    ):
        if said is None and form == "joined":
            continue  # the graph is that of single texts; SHA256SUMS tells
        (changed / "config.json").write_text(json.dumps({**config, CONFIG_KEY: said}))
        with pytest.raises(UserError, match="cannot be used"):
            Predictor(changed)


def test_the_server_takes_such_texts_and_says_so(journey: Any) -> None:
    form, folder, _ = journey
    given = [list(text) if form == "pair" else text for text in texts(form)]
    with servers() as start:
        server = start(folder / "exported")
        assert server.ask("GET", "/info").json["text"]["form"] == form
        one = server.predict(given[0], explain=True).json
        assert {word["part"] for word in one["words"]} == ({0, 1} if form == "pair" else {0, 1, 2})
        both = server.predict(given).json["predictions"]
        assert both[0]["probability"] == pytest.approx(one["probability"])
        assert Predictor(folder / "exported")(given)[1].probability == pytest.approx(both[1]["probability"])
        for bad in ("a text", [], ["a text"], {"title": "a"}, [[]], None, [["a", "b", "c"]]):
            error_of(server.predict(bad), 422)
        body = json.dumps({"inputs": given if form == "pair" else "a text"})
        scored = server.ask("POST", "/", body, JSON)
        if form == "joined":
            assert (scored.status, scored.json["error_type"]) == (422, "Validation")
        else:
            expected = [each["probabilities"] for each in both]
            assert [{each["label"]: each["score"] for each in row} for row in scored.json] == expected


def test_the_page_has_a_box_for_each_string(journey: Any, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the page needs Debian's chromium")
    form, folder, _ = journey
    names = list(PAIR.columns if form == "pair" else JOINED.columns)
    problems: list[str] = []
    with servers() as start, sync_api.sync_playwright() as playwright:
        address = f"http://127.0.0.1:{start(folder / 'exported').port}/"
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], env={**os.environ, "HOME": str(tmp_path)}
        )
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(address)
        page.get_by_label(names[-1], exact=True).fill("it was sad")
        if form == "pair":  # needs both
            page.get_by_role("button", name="Classify").click()
            sync_api.expect(page.get_by_text("There is no text yet.")).to_be_visible()
        page.get_by_label(names[0], exact=True).fill("so happy")
        page.get_by_role("button", name="Classify").click()
        sync_api.expect(page.get_by_role("heading", name="Label: ")).to_be_visible()
        shown = page.locator("p.words").all_inner_texts()
        assert shown == ["so happy", *[""] * (len(names) - 2), "it was sad"]
        assert page.locator("p.words span").all_inner_texts() == ["so", "happy", "it", "was", "sad"]
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert not problems


def test_repeated_pairs_are_those_with_both_texts_the_same(weights: Weights) -> None:
    pairs = [("happy", "sad"), ("happy", "late"), ("happy", "sad"), ("sad", "happy"), ("happy sad", "x")]
    rows = [{"text": one, "text_pair": other, "label": "ab"[n % 2]} for n, (one, other) in enumerate(pairs)]
    write_csv(Path("rows.csv"), rows)
    data = EmotionDataModule("rows.csv", weights=weights)
    task = task_of("single", data.label_names)
    found = find_dataset_issues({"train": data.splits.train_split()}, task, examples=3)
    assert found.splits["train"].repeated == 1
    assert found.consistent[0].text == ("happy", "sad")


def test_deduplication_compares_both_texts(weights: Weights) -> None:
    rows = [
        {"text": "happy", "text_pair": each, "label": "ab"[n % 2]}
        for n, each in enumerate(["sad", "late"] * 4)
    ]
    Path("data").mkdir()
    write_csv(Path("data/train.csv"), rows)
    write_csv(Path("data/validation.csv"), [rows[0], rows[3] | {"text_pair": "sun"}])
    data = EmotionDataModule("data", weights=weights, deduplicate=True, missing="refuse")
    with pytest.raises(UserError, match="less than two classes"):  # all that is left is (happy, late)
        data.setup("fit")


def test_tables_have_a_column_for_each_text_of_a_pair() -> None:
    assert text_cells("a") == {"text": "a"}
    assert text_cells(("a", "b")) == {"text": "a", "text_pair": "b"}
