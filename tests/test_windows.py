"""Long texts: windows that cover every token, pooled logits, and the same answers on the whole journey."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import CLASSES, Run, write_csv
from serving import servers

from lit_bert import UserError
from lit_bert.__main__ import main
from lit_bert.data.batches import collate
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.windows import LongTexts, chosen_mode, draw_windows, pooled
from lit_bert.io.texts import SINGLE, TextForm
from lit_bert.model.module import BertClassifier
from lit_bert.model.windows import WINDOW_TOKENS, text_logits
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.task.single import softmax

MAX_LENGTH, OVERLAP = 10, 2  # eight tokens of a text in a window, six of them new
FILLER = "i am so very about the dog cat train today tomorrow my your is was not and but it this that".split()


def long_text(label: str, words: int, seed: int) -> str:
    """Filler with one word of the class at a random place."""
    generator = np.random.default_rng(seed)
    some = generator.choice(FILLER, words).tolist()
    some[generator.integers(words)] = CLASSES[label][generator.integers(3)]
    return " ".join(some)


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits of a corpus of texts of 5 to 60 words; the answer is one of them."""
    folder = tmp_path_factory.mktemp("long")
    for start, (split, count) in enumerate({"train": 20, "validation": 8, "test": 8}.items()):
        rows: list[dict[str, object]] = [
            {"text": long_text(label, 5 + 7 * (n % 8), 1000 * start + 10 * n + k), "label": label}
            for k, label in enumerate(CLASSES)
            for n in range(count)
        ]
        write_csv(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture(scope="module")
def flags(tiny_bert: Path, long_corpus: Path) -> list[str]:
    return [
        *(f"--weights.pretrained={tiny_bert}", f"--data.dataset={long_corpus}", "--data.batch_size=8"),
        *(f"--data.max_length={MAX_LENGTH}", f"--data.window_overlap={OVERLAP}", "--trainer.accelerator=cpu"),
        *("--trainer.max_epochs=2", "--model.learning_rate=0.003", "--trainer.precision=32-true"),
    ]


@pytest.fixture(scope="module", params=["mean", "max"])
def fitted(
    request: pytest.FixtureRequest, flags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a fit on windows, by either pooling."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_BERT_CACHE", str(folder / "cache"))
        place = f"--trainer.logger.init_args.save_dir={folder / 'checkpoints'}"
        assert main(["fit", *flags, f"--data.window_pooling={request.param}", place]) == 0
    return folder / "checkpoints" / "version_0"


@pytest.fixture(scope="module")
def shipped(fitted: Path) -> Path:
    """The exported folder of that fit."""
    pytest.importorskip("onnxruntime")
    folder = fitted / "exported"
    flags = [f"--ckpt_path={fitted / 'best.ckpt'}", f"--to={folder}", "--max_f1_loss=100"]
    assert main(["export", *flags]) == 0
    return folder


def rows_of(file: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a CSV file."""
    lines = [line.rsplit(",", 1) for line in file.read_text().splitlines()[1:]]
    return [text for text, _ in lines], [label for _, label in lines]


# --- windows of token ids


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "albert"])
@pytest.mark.parametrize("overlap", [0, 3, 7])
def test_windows_are_those_of_the_tokenizers_library(family: str, overlap: int, tmp_path: Path) -> None:
    folder = tiny.write(family, tmp_path / "tiny")
    weights = Weights(str(folder), stand_in=None)
    whole = weights.tokenizer(MAX_LENGTH)
    whole.no_truncation()
    long_texts = LongTexts.of(whole, "windows", MAX_LENGTH, overlap)
    theirs = weights.tokenizer(MAX_LENGTH)
    theirs.enable_truncation(MAX_LENGTH, stride=overlap)
    for words in (0, 1, 7, 8, 9, 16, 50):
        text = long_text("joy", words, words) if words else ""
        encoding = theirs.encode(text)
        wanted = [each.ids for each in (encoding, *encoding.overflowing)]
        assert [each.tolist() for each in long_texts.parts(np.array(whole.encode(text).ids))] == wanted


@pytest.mark.parametrize("length", [*range(2, 40), 997])
@pytest.mark.parametrize("overlap", [0, 1, 2, 6, 7])
def test_windows_cover_every_token_with_the_overlap_and_special_tokens(length: int, overlap: int) -> None:
    ids = np.array([-1, *range(length - 2), -2])
    long_texts = LongTexts("windows", MAX_LENGTH, overlap)
    parts = long_texts.parts(ids)
    assert all(part[0] == -1 and part[-1] == -2 and len(part) <= MAX_LENGTH for part in parts)
    assert {token for part in parts for token in part} == set(ids)
    for before, after in itertools.pairwise(parts):
        assert len(before) == MAX_LENGTH
        shared = overlap + 1
        assert before[-shared:-1].tolist() == after[1:shared].tolist()
        assert after[-2] > before[-2]  # none lies within another
    lengths = np.array([length])
    assert long_texts.counts(lengths).tolist() == [len(parts)]
    assert long_texts.tokens(lengths).tolist() == [sum(map(len, parts))]
    assert long_texts.loses(lengths).tolist() == [0]


def test_a_cut_keeps_the_beginning_and_head_tail_both_ends() -> None:
    ids, lengths = np.array([-1, *range(20), -2]), np.array([22, 10, 5])
    cut, both = (LongTexts(mode, MAX_LENGTH) for mode in ("cut", "head_tail"))
    assert [each.tolist() for each in cut.parts(ids)] == [[-1, *range(8), -2]]
    assert [each.tolist() for each in both.parts(ids)] == [[-1, 0, 1, *range(14, 20), -2]]
    for each in (cut, both):
        assert each.loses(lengths).tolist() == [12, 0, 0]
        assert each.tokens(lengths).tolist() == [10, 10, 5]
        assert each.parts(ids[:10])[0] is not ids
        assert "loses 32.4% of the split's tokens" in each.described(lengths, SINGLE)  # 12 of 37


def test_an_encoding_does_not_depend_on_what_is_tokenized_with_it(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Weights(str(tiny_bert)).tokenizer(128)
    texts = [long_text("joy", words, words) for words in (3, 9, 1, 30, 2)] + [""]
    wanted = [tokenizer.encode(text).ids for text in texts]
    for characters in (1, 30, 10_000):
        monkeypatch.setattr("lit_bert.io.texts.TOKENIZED_CHARACTERS", characters)
        assert [each.ids for each in SINGLE.encode(tokenizer, texts, 128)] == wanted


def test_windows_to_train_on_are_drawn_by_seed_epoch_and_row_alone() -> None:
    windows = [np.array([number]) for number in range(50)]
    items: list[dict[str, Any]] = [
        {"rows": 7, "windows": windows},
        {"rows": 8, "windows": windows},
        {"rows": 9, "input_ids": windows[0]},
    ]

    def drawn(items: list[dict[str, Any]], *seeds: int) -> dict[int, list[int]]:
        found = draw_windows(items, 8, seeds)
        assert all("windows" not in each or len(each["windows"]) == 8 for each in found)
        return {each["rows"]: [int(window[0]) for window in each.get("windows", ())] for each in found}

    first = drawn(items, 0, 0)
    assert first == drawn(items[::-1], 0, 0)  # whatever stands beside it
    assert first[7] == sorted(first[7]) != first[8]
    assert first[7] != drawn(items, 0, 1)[7] != drawn(items, 1, 0)[7]
    assert first[9] == []
    seen = {place for epoch in range(40) for place in drawn(items, 0, epoch)[7]}
    assert seen == set(range(50))


def test_null_takes_windows_where_many_texts_are_long_or_a_setting_asks_for_them() -> None:
    unset: dict[str, Any] = {"long_texts": None, "max_length": 10, "window_overlap": None}
    unset |= {"window_pooling": "mean", "train_windows": 8}
    few, many = np.array([11] * 5 + [10] * 95), np.array([11] * 6 + [10] * 94)
    assert chosen_mode(unset, few) == "cut"
    assert chosen_mode(unset, many) == "windows"
    assert chosen_mode({**unset, "window_pooling": "max"}, few) == "windows"
    assert chosen_mode({**unset, "long_texts": "head_tail"}, many) == "head_tail"


# --- batches and logits


def test_a_batch_holds_the_windows_of_its_texts_and_one_of_short_texts_is_as_ever() -> None:
    items = [
        {"windows": [np.array([2, 5, 3]), np.array([2, 6, 7, 3])], "labels": 1, "rows": 4},
        {"input_ids": np.array([2, 3]), "labels": 0, "rows": 9},
    ]
    batch = collate(items, 0, "max")
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 6, 7, 3], [2, 3, 0, 0]]
    assert batch["text_index"].tolist() == [0, 0, 1]
    assert (batch["labels"].tolist(), batch["rows"].tolist(), batch["pooling"]) == ([1, 0], [4, 9], "max")
    assert collate(items[1:]).keys() == {"input_ids", "attention_mask", "labels", "rows"}


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_logits_are_pooled_by_text(pooling: str) -> None:
    logits = torch.tensor([[1.0, 4.0], [3.0, 0.0], [5.0, 6.0]])
    wanted = {"mean": [[2.0, 2.0], [5.0, 6.0]], "max": [[3.0, 4.0], [5.0, 6.0]]}[pooling]
    batch = {
        "input_ids": torch.zeros(3, 4, dtype=torch.int64),
        "attention_mask": torch.ones(3, 4, dtype=torch.int64),
        "text_index": torch.tensor([0, 0, 1]),
        "pooling": pooling,
    }
    assert text_logits(lambda input_ids, attention_mask: logits[: len(input_ids)], batch).tolist() == wanted
    assert pooled(logits.numpy(), [2, 1], pooling).tolist() == wanted


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_temperature_of_the_windows_is_one_of_the_text(pooling: str) -> None:
    logits = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(
        pooled(logits / 1.7, [2, 3, 4], pooling), pooled(logits, [2, 3, 4], pooling) / 1.7, rtol=1e-5
    )


def test_the_model_computes_a_bounded_number_of_windows_at_a_time() -> None:
    sizes: list[int] = []

    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        sizes.append(input_ids.numel())
        return input_ids[:, :3].float()

    W, T = 1000, 128
    ids = torch.arange(W * T).view(W, T)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch |= {"text_index": torch.arange(W) // 500, "pooling": "mean"}
    with torch.no_grad():
        found = text_logits(model, batch)
    assert max(sizes) <= WINDOW_TOKENS
    torch.testing.assert_close(found, ids[:, :3].float().view(2, 500, 3).mean(1))


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--data.long_texts=folded"], "long_texts"),
        ([f"--data.max_length={MAX_LENGTH}", "--data.window_overlap=8"], "window_overlap is 8; .* 0 to 7"),
        (["--data.window_overlap=-1"], "window_overlap is -1; .* expected 0 to"),
        (["--data.window_pooling=sum"], "window_pooling"),
        (["--data.train_windows=0"], "train_windows is 0; expected at least 1"),
        (
            ["--data.long_texts=cut", "--data.window_overlap=2"],
            "window_overlap is 2, but data.long_texts is cut",
        ),
        (["--data.long_texts=head_tail", "--data.window_pooling=max"], "window_pooling is max, but"),
    ],
)
def test_settings_that_say_nothing_or_contradict_each_other_are_refused(
    settings: list[str], message: str, quick: list[str], run: Run
) -> None:
    outcome = run("fit", *quick, *settings)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("lit_bert fit: ")]
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (None, r"of 60 texts of split train are read in windows of 10 tokens, 2 of them shared"),
        ("cut", r"are cut at 10 tokens \(--data.long_texts cut: the first\), which loses \d\d\.\d% of"),
        ("head_tail", r"\(--data.long_texts head_tail: the first 2 and the last, in all\), which loses"),
    ],
)
def test_fit_says_what_it_does_and_every_later_verb_does_it(
    mode: str | None, said: str, flags: list[str], run: Run, long_corpus: Path
) -> None:
    flags = [*flags, "--trainer.max_epochs=1"]
    if mode:
        flags = [each for each in flags if "window" not in each] + [f"--data.long_texts={mode}"]
    outcome = run("fit", *flags)
    assert outcome.code == 0, outcome.err
    assert re.search(said, outcome.err)
    checkpoint = Checkpoint.open("checkpoints/version_0/best.ckpt")
    assert checkpoint.data.settings.long_texts == (mode or "windows")
    validated = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    Path("checkpoints/version_0/validate.json").unlink()
    assert run("validate", "--trainer.precision=32-true").code == 0
    again = json.loads(Path("checkpoints/version_0/validate.json").read_text())
    assert again["scores"]["loss_nats"] == pytest.approx(validated["scores"]["loss_nats"], abs=1e-5)
    outcome = run("predict", "--input", long_corpus / "test.csv", "--output", "labelled.jsonl")
    assert outcome.code == 0
    assert ("were cut at 10 tokens" in outcome.err) == (mode is not None)
    config = "--config=checkpoints/version_0/config.yaml"  # which leaves it to the rows, if nothing was given
    outcome = run("fit", "--ckpt_path=last", config, "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err
    assert run("test", "--data.long_texts=null").code == 0
    outcome = run("export", "--to=shipped", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    from lit_bert import Predictor

    best = Checkpoint.open("checkpoints/version_0/best.ckpt")
    texts = rows_of(long_corpus / "test.csv")[0]
    answers = Predictor("shipped", file="model.onnx")(texts)
    wanted = probs_of(best, texts)
    np.testing.assert_allclose([list(each.probabilities.values()) for each in answers], wanted, atol=1e-4)
    is_long = [len(text.split()) > 8 for text in texts]
    assert [each.truncated for each in answers] == (is_long if mode else [False] * len(texts))


# --- the whole journey


def probs_of(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """Probabilities (N, C) of texts by a checkpoint."""
    return softmax(logits_of(checkpoint, texts))


def logits_of(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """Logits (N, C) of texts by a checkpoint, one at a time, pooled by hand."""
    model = BertClassifier.load_from_checkpoint(checkpoint.path).eval()
    settings = checkpoint.data.settings
    tokenizer = Weights(checkpoint=str(checkpoint.path)).tokenizer(MAX_LENGTH)
    tokenizer.no_truncation()
    long_texts = LongTexts.of_settings(tokenizer, settings)
    found = []
    for text in texts:
        parts = long_texts.parts(np.array(tokenizer.encode(text).ids))
        with torch.inference_mode():
            logits = [
                model(torch.from_numpy(part[None]), torch.ones(1, len(part), dtype=torch.int64))
                for part in parts
            ]
        each = torch.cat(logits).float()
        each = each.amax(0) if settings.window_pooling == "max" else each.mean(0)
        found.append(each.numpy())
    return np.array(found)


def test_validation_scores_texts_by_all_of_their_windows(fitted: Path, long_corpus: Path) -> None:
    from lit_bert.evaluate.predictions import Predictions

    checkpoint = Checkpoint.open(fitted / "best.ckpt")
    predictions = Predictions.read(fitted / "validate.parquet")
    texts, labels = rows_of(long_corpus / "validation.csv")
    assert predictions.texts == texts
    assert [predictions.class_names[label] for label in predictions.labels] == labels
    np.testing.assert_allclose(predictions.outputs, probs_of(checkpoint, texts), atol=1e-4)


def test_predict_and_predictor_give_the_answers_of_the_checkpoint(
    fitted: Path, shipped: Path, long_corpus: Path, run: Run
) -> None:
    from lit_bert import Predictor

    texts = [*rows_of(long_corpus / "test.csv")[0], "happy", long_text("joy", 700, 5)]
    wanted = probs_of(Checkpoint.open(fitted / "best.ckpt"), texts)
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    outcome = run(
        "predict", f"--ckpt_path={fitted / 'best.ckpt'}", "--input=texts.jsonl", "--output=out.jsonl"
    )
    assert outcome.code == 0, outcome.err
    assert "cut" not in outcome.err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    names = sorted(CLASSES)
    np.testing.assert_allclose(
        [[row[f"probability_{name}"] for name in names] for row in rows], wanted, atol=1e-4
    )
    answers = Predictor(shipped, file="model.onnx")(texts)
    np.testing.assert_allclose([list(each.probabilities.values()) for each in answers], wanted, atol=1e-4)
    assert not any(each.truncated for each in answers)
    config = json.loads((shipped / "config.json").read_text())["lit_bert_long_texts"]
    assert config["mode"] == "windows"
    assert (config["overlap"], config["pooling"]) == (
        OVERLAP,
        Checkpoint.open(fitted / "best.ckpt").data.settings.window_pooling,
    )
    card = (shipped / "README.md").read_text()
    assert "in windows of 10 tokens" in card
    assert "transformers knows nothing of this" in card


def test_a_folder_whose_windows_are_none_is_refused(shipped: Path, tmp_path: Path) -> None:
    from lit_bert import Predictor

    folder = shutil.copytree(shipped, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    for wrong in (
        5,
        {"mode": "windows"},
        {"mode": "x", "overlap": 1, "pooling": "mean"},
        *(
            {"mode": "windows", "overlap": overlap, "pooling": "mean"}
            for overlap in (-1, 8, 10**9, True, "2")
        ),
    ):
        (folder / "config.json").write_text(json.dumps({**config, "lit_bert_long_texts": wrong}))
        with pytest.raises(UserError, match=r"cannot be used \((config.json says|data.window_overlap is)"):
            Predictor(folder)


def test_an_explanation_is_of_the_windows_that_speak_for_the_label(shipped: Path) -> None:
    from lit_bert import Predictor
    from lit_bert.product.predictor import EXPLAINED_WINDOWS

    predictor = Predictor(shipped, file="model.onnx")
    text = long_text("joy", 30, 3)
    found = predictor.explain(text)
    assert [text[word.start : word.end] for word in found] == text.split()  # few windows: all of them
    assert any(word.weight for word in found)
    ids = np.array(predictor._tokenizer.encode(text).ids)
    label = predictor.labels.index(predictor([text])[0].label)
    whole = float(predictor.probs([text])[0, label])
    place = 4  # a word of the first window alone
    parts = predictor.long_texts.parts(ids)
    parts[0] = np.delete(parts[0], place + 1)
    logits = pooled(predictor._logits(parts), [len(parts)], predictor.long_texts.pooling)
    without = float(softmax(logits)[0, label])
    odds = [np.log(p / (1 - p)) for p in (whole, without)]
    assert found[place].weight == pytest.approx(odds[0] - odds[1], abs=1e-3)
    longer = long_text("joy", 400, 4)
    words = predictor.explain(longer)
    assert 0 < len(words) <= EXPLAINED_WINDOWS * 8
    assert {longer[word.start : word.end] for word in words} <= set(longer.split())


def test_attributions_point_into_the_whole_text_and_add_up(fitted: Path) -> None:
    pytest.importorskip("captum")
    from lit_bert.evaluate.attribution import Explainer, Question

    explainer = Explainer.of(Checkpoint.open(fitted / "best.ckpt"))
    assert explainer.long_texts is not None
    text = long_text("sadness", 40, 11)
    short = "i am so sad"
    questions = [Question(each, label) for each in (text, short) for label in range(3)]
    found = explainer.explain(questions)
    for question, each in zip(questions, found, strict=True):
        assert [question.text[start:end] for start, end in each.spans] == question.text.split()
        parts = explainer.long_texts.parts(np.array(explainer.tokenizer.encode(question.text).ids))
        base = [np.array([part[0], *[explainer.baseline_id] * (len(part) - 2), part[-1]]) for part in parts]
        weights = explainer._weights(parts, question.label)
        gain = ((explainer._logits(parts) - explainer._logits(base)) * weights).sum()
        assert each.scores.sum() + each.gap == pytest.approx(gain, abs=1e-3)
        logits = pooled(explainer._logits(parts), [len(parts)], explainer.long_texts.pooling)[0]
        centred = logits[question.label] - logits.mean()
        assert (explainer._logits(parts) * weights).sum() == pytest.approx(centred, abs=1e-4)


def test_report_and_audit_take_long_texts(fitted: Path, flags: list[str], run: Run) -> None:
    outcome = run("report", fitted)
    assert outcome.code == 0, outcome.err
    outcome = run("audit", *flags)
    assert outcome.code == 0, outcome.err
    assert "are read in windows" in outcome.err


def test_short_texts_give_the_batches_and_weights_that_they_gave(
    corpus: Path, quick: list[str], run: Run
) -> None:
    """A corpus whose texts all fit: with windows or without, bit for bit the same."""
    states = []
    for mode in ("windows", "cut"):
        outcome = run("fit", *quick, f"--data.long_texts={mode}", "--trainer.max_epochs=1")
        assert outcome.code == 0, outcome.err
    for version in (0, 1):
        states.append(Checkpoint.open(f"checkpoints/version_{version}/best.ckpt").state_dict)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_rest_of_an_epoch_has_the_windows_that_the_whole_would_have_had(
    long_corpus: Path, weights: Weights
) -> None:
    def batches(epoch: int, skip: int) -> list[torch.Tensor]:
        data = EmotionDataModule(
            str(long_corpus), max_length=MAX_LENGTH, train_windows=2, batch_size=8, weights=weights
        )
        data.setup("fit")
        data.skip_batches = skip
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        return [batch["input_ids"] for batch in loader]

    whole, rest, other = batches(1, 0), batches(1, 5), batches(2, 0)
    assert len(whole) == 8
    assert all(torch.equal(one, same) for one, same in zip(whole[5:], rest, strict=True))
    assert not all(torch.equal(one, same) for one, same in zip(whole, other, strict=True))
    assert max(len(each) for each in whole) == 16  # windows


def test_the_server_answers_for_the_whole_of_a_text(shipped: Path) -> None:
    from lit_bert import Predictor
    from lit_bert.product.predictor import label_cost

    text = long_text("joy", 100, 9)
    with servers() as start:
        server = start(shipped)
        assert server.ask("GET", "/info").json["long_texts"] == "windows"
        answer = server.predict(text, explain=True).json
    predictor = Predictor(shipped)
    assert {**answer, "words": []} == {**predictor([text])[0]._asdict(), "words": []}
    assert [word["start"] for word in answer["words"]] == [word.start for word in predictor.explain(text)]
    windows = -(-100 // (8 - OVERLAP))
    assert label_cost(predictor, [text]) <= windows < label_cost(predictor, [text], explain=True)
    assert label_cost(predictor, ["happy"] * 3) == 3


def test_an_exported_folder_gives_its_weights_to_another_fit(
    shipped: Path, flags: list[str], run: Run
) -> None:
    rest = [each for each in flags if "pretrained" not in each]
    outcome = run("fit", f"--weights.pretrained={shipped}", *rest, "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert "lit_bert_long_texts" not in outcome.err


# --- memory


def test_memory_of_evaluation_does_not_grow_with_the_length_of_texts(
    tiny_bert: Path, tmp_path: Path, weights: Weights
) -> None:
    """The largest tensors are those of a bounded number of windows, for texts of any length."""
    model = BertClassifier(["a", "b"], weights=weights)
    model.configure_model()
    model.eval()
    peaks = []
    for words in (400, 6400):
        rows: list[dict[str, object]] = [
            {"text": long_text("joy", words, n), "label": "ab"[n % 2]} for n in range(8)
        ]
        file = write_csv(tmp_path / f"{words}.csv", rows)
        data = EmotionDataModule(
            str(file), max_length=32, long_texts="windows", weights=weights, val_fraction=0.5
        )
        data.setup("validate")
        largest = 0

        def watch(module: Any, inputs: Any, output: Any) -> None:
            nonlocal largest
            largest = max(largest, output.numel())

        hooks = [
            each.register_forward_hook(watch)
            for each in model.network.modules()
            if isinstance(each, torch.nn.Linear)
        ]
        model.fast_operations = False
        with torch.inference_mode():
            for batch in data.val_dataloader():
                text_logits(model, batch)
        peaks.append(largest)
        for hook in hooks:
            hook.remove()
    most = WINDOW_TOKENS * 64
    assert peaks[0] <= most
    assert peaks[1] <= most


# --- every kind of task, and texts of several columns

LABELS: dict[str, dict[str, object]] = {
    "multi_label": {"anger": "", "joy": "joy|calm", "sadness": "sadness"},
    "ordinal": {"anger": 2, "joy": 3, "sadness": 1},
    "regression": {"anger": 4.0, "joy": 10.5, "sadness": -2.25},
}


@pytest.mark.parametrize(
    ("kind", "pooling"), [("multi_label", "max"), ("ordinal", "mean"), ("regression", "mean")]
)
def test_each_kind_of_task_reads_windows_from_weighted_rows_to_the_server(
    kind: str, pooling: str, flags: list[str], run: Run
) -> None:
    from lit_bert import Predictor
    from lit_bert.evaluate.attribution import Explainer, Question
    from lit_bert.evaluate.predictions import Predictions

    Path("data").mkdir()
    for split, count in {"train": 12, "validation": 6}.items():
        rows: list[dict[str, object]] = [
            {"text": long_text(name, 5 + 9 * (n % 6), n), "label": LABELS[kind][name], "weight": n % 3 + 0.5}
            for n in range(count)
            for name in CLASSES
        ]
        write_csv(Path("data") / f"{split}.csv", rows)
    flags = [each for each in flags if "dataset" not in each]
    flags += ["--data.dataset=data", "--data.weight_column=weight", f"--data.window_pooling={pooling}"]
    flags += [f"--data.task={kind}", "--data.train_windows=3"]
    flags += ["--data.label_separator=|"] * (kind == "multi_label")
    outcome = run("fit", *flags)
    assert outcome.code == 0, outcome.err
    assert "are read in windows of 10 tokens" in outcome.err
    best = Checkpoint.open("checkpoints/version_0/best.ckpt")
    assert (best.model.task, best.data.settings.long_texts) == (kind, "windows")
    kept = Predictions.read(Path("checkpoints/version_0/validate.parquet"))
    wanted = best.task.outputs(logits_of(best, [str(text) for text in kept.texts]))
    np.testing.assert_allclose(kept.outputs, wanted, atol=1e-4 * best.task.unit)
    outcome = run("export", "--to=shipped", "--max_f1_loss=100")
    assert outcome.code == 0, outcome.err
    config = json.loads(Path("shipped/config.json").read_text())
    assert (config["lit_bert_task"], config["lit_bert_long_texts"]["pooling"]) == (kind, pooling)
    predictor = Predictor("shipped", file="model.onnx")
    np.testing.assert_allclose(predictor.probs(kept.texts), wanted, atol=1e-3 * best.task.unit)
    text = long_text("joy", 30, 3)
    assert [text[word.start : word.end] for word in predictor.explain(text)] == text.split()
    explainer = Explainer.of(best)
    (found,) = explainer.explain([Question(text, 0)])
    assert [text[start:end] for start, end in found.spans] == text.split()
    base = " ".join([explainer.tokenizer.id_to_token(explainer.baseline_id)] * len(text.split()))
    gain = (logits_of(best, [text]) - logits_of(best, [base]))[0]
    gain = gain - gain.mean() if kind == "ordinal" else gain * best.task.unit
    if pooling == "mean":  # with a maximum, other windows have it at the baseline
        assert found.scores.sum() + found.gap == pytest.approx(gain[0], abs=1e-3 * best.task.unit)
    assert run("report", "checkpoints/version_0").code == 0


@pytest.mark.parametrize("columns", ["text,other", "text,other,label"])
@pytest.mark.parametrize(
    "setting", ["long_texts=windows", "long_texts=head_tail", "window_overlap=2", "train_windows=3"]
)
def test_texts_of_several_columns_are_cut_and_nothing_else(
    columns: str, setting: str, quick: list[str], run: Run
) -> None:
    rows: list[dict[str, object]] = [
        {"text": long_text(name, 30, n), "other": long_text(name, 3, n), "label": name}
        for n in range(4)
        for name in CLASSES
    ]
    write_csv(Path("rows.csv"), rows)
    flags = [*quick, "--data.dataset=rows.csv", f"--data.text_column={columns}", "--data.label_column=label"]
    outcome = run("fit", *flags, f"--data.{setting}")
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("lit_bert fit: ")]
    name, value = setting.split("=")
    assert f"data.{name} is {value}, but the texts are" in line
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("columns", "kept"),
    [("text,other", "the first, fewer of the longer text"), ("text,other,label", "the first of each column")],
)
def test_a_cut_of_texts_of_several_columns_says_what_it_loses(
    columns: str, kept: str, weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, object]] = [
        {"text": long_text(name, 10 * n, n), "other": long_text(name, 3, n), "label": name}
        for n in range(1, 9)
        for name in CLASSES
    ]
    file = write_csv(tmp_path / "rows.csv", rows)
    data = EmotionDataModule(
        str(file), text_column=columns, label_column="label", max_length=32, weights=weights
    )
    caplog.set_level("INFO")
    data.setup("fit")
    assert data.state_dict()["hyper_parameters"]["long_texts"] == "cut"
    found = data.tokenized.rows("train_split")
    lengths = found.whole_lengths
    if columns == "text,other":
        words = [len(f"{row['text']} {row['other']}".split()) for row in rows]
        assert lengths.tolist() == [3 + each for each in words]
    assert found.lengths.tolist() == np.minimum(lengths, 32).tolist()
    assert [len(found[index]["input_ids"]) for index in range(len(rows))] == found.lengths.tolist()
    assert found.truncated.tolist() == (lengths > 32).tolist()
    share = np.maximum(lengths - 32, 0).sum() / lengths.sum()
    assert share > 0.1
    assert f"cut: {kept}), which loses {share:.1%} of the split's tokens" in caplog.text


def test_two_long_texts_take_no_more_than_their_tokens(weights: Weights) -> None:
    """The tokenizers library would return each piece of one beside each piece of the other."""
    tokenizer = weights.tokenizer(16)
    tokenizer.no_truncation()
    pair = (long_text("joy", 20_000, 0), long_text("sadness", 20_000, 1))
    form = TextForm("pair", ("text", "other"))
    (found,) = form.encode(tokenizer, [pair], 16)
    assert (len(found.ids), found.whole, found.overflowing) == (16, 40_003, True)


def test_windows_of_pairs_are_refused_wherever_they_are_read(
    shipped: Path, fitted: Path, tmp_path: Path
) -> None:
    from lit_bert import Predictor

    folder = shutil.copytree(shipped, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["lit_bert_text"] = {"form": "pair", "columns": ["one", "two"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot be used \(.* read long texts by windows"):
        Predictor(folder)
    settings = Checkpoint.open(fitted / "best.ckpt").data.settings
    with pytest.raises(ValueError, match="texts of several columns are cut"):
        type(settings).model_validate({**settings.model_dump(), "text_column": "one,two"})
