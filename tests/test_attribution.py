"""Integrated gradients: they add up, they fall on the words that matter, and offsets point into the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_bert import UserError
from lit_bert.evaluate.attribution import (
    STEPS,
    Attribution,
    Explainer,
    Question,
    _batches,
    checkpoint_of,
    words,
)
from lit_bert.model.pretrained import load_network
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import task_of

pytest.importorskip("captum")

TEXTS = ["i am so happy today", "sad", "it was late but my dog is glad", "this is the rain, and i am angry"]


@pytest.fixture(scope="module")
def explainer(tiny_bert: Path) -> Explainer:
    """Of a random head over three classes, whose weights are large enough for classes to differ."""
    weights = Weights(str(tiny_bert))
    torch.manual_seed(0)
    network = load_network(weights, ["anger", "joy", "sadness"])
    torch.nn.init.normal_(network.classifier.weight, std=0.5)
    return Explainer(network, weights.tokenizer(32))


def logits_of(explainer: Explainer, ids: list[int]) -> torch.Tensor:
    """Logits (C,) of one text, less their mean."""
    logits = explainer.network(input_ids=torch.tensor([ids])).logits[0]
    return logits - logits.mean()


def test_scores_of_words_add_up_to_what_the_class_gains_over_the_baseline(explainer: Explainer) -> None:
    questions = [Question(text, label) for text in TEXTS for label in range(3)]
    for question, found in zip(questions, explainer.explain(questions), strict=True):
        ids = explainer.tokenizer.encode(question.text).ids
        baseline = [ids[0], *[explainer.baseline_id] * (len(ids) - 2), ids[-1]]
        gain = logits_of(explainer, ids)[question.label] - logits_of(explainer, baseline)[question.label]
        assert found.scores.sum() == pytest.approx(float(gain), abs=0.02 * abs(float(gain)) + 1e-3)
        assert found.scores.sum() + found.gap == pytest.approx(float(gain), abs=1e-4)


def test_scores_of_all_classes_cancel_out(explainer: Explainer) -> None:
    found = explainer.explain([Question(TEXTS[2], label) for label in range(3)])
    np.testing.assert_allclose(sum(each.scores for each in found), 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_several_labels_are_explained_by_their_own_logit_and_numbers_in_their_unit(
    kind: str, tiny_bert: Path
) -> None:
    scale = {"scale": (100.0, 20.0)} if kind == "regression" else {}
    task = task_of(kind, ["a", "b"] if kind == "multi_label" else ["stars"], scale)
    weights = Weights(str(tiny_bert))
    torch.manual_seed(0)
    network = load_network(weights, list(task.class_names), task.problem_type)
    torch.nn.init.normal_(network.classifier.weight, std=0.5)
    explainer = Explainer(network, weights.tokenizer(32), task=task)
    questions = [Question(text, label) for text in TEXTS for label in range(len(task.class_names))]
    for question, found in zip(questions, explainer.explain(questions), strict=True):
        ids = explainer.tokenizer.encode(question.text).ids
        baseline = [ids[0], *[explainer.baseline_id] * (len(ids) - 2), ids[-1]]
        logits = [network(input_ids=torch.tensor([each])).logits.numpy() for each in (ids, baseline)]
        of_text, of_baseline = task.outputs(np.concatenate(logits))
        if kind == "regression":
            gain = of_text[0] - of_baseline[0]
        else:
            gain = (logits[0] - logits[1])[0, question.label]
        assert found.scores.sum() + found.gap == pytest.approx(float(gain), abs=1e-3)
        assert found.scores.sum() == pytest.approx(float(gain), abs=0.02 * abs(float(gain)) + 1e-2)


def test_a_batch_gives_what_each_text_gives_alone(explainer: Explainer) -> None:
    questions = [Question(text, 1) for text in TEXTS]
    together = explainer.explain(questions)
    for question, found in zip(questions, together, strict=True):
        (alone,) = explainer.explain([question])
        assert found.spans == alone.spans
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)


def test_spans_are_the_words_of_the_text_and_pieces_are_summed(explainer: Explainer) -> None:
    text = "  Happy,  the DOG 😀 unknowable!"
    (found,) = explainer.explain([Question(text, 0)])
    assert [text[start:end] for start, end in found.spans] == [
        "Happy",
        ",",
        "the",
        "DOG",
        "😀",
        "unknowable",
        "!",
    ]
    encoding = explainer.tokenizer.encode(text)
    scores = np.arange(len(encoding.ids), dtype=np.float32)
    spans, sums = words(encoding, scores)
    assert len(spans) == len(sums)
    assert sums.sum() == scores[1:-1].sum()


def test_word_pieces_of_one_word_become_one_span() -> None:
    class Pieces:
        word_ids = (None, 0, 0, 1, None)
        offsets = ((0, 0), (0, 3), (3, 5), (6, 8), (0, 0))

    spans, sums = words(Pieces(), np.array([9.0, 1.0, 2.0, -0.5, 9.0]))  # type: ignore[arg-type]
    assert spans == [(0, 5), (6, 8)]
    assert sums.tolist() == [3.0, -0.5]


def test_a_long_text_is_explained_up_to_the_length_that_the_model_reads(explainer: Explainer) -> None:
    (found,) = explainer.explain([Question("happy " * 100, 1)])
    assert len(found.spans) == 30  # of 32 tokens, two are [CLS] and [SEP]


def test_a_text_of_no_tokens_has_no_words(explainer: Explainer) -> None:
    (found,) = explainer.explain([Question(" \n ", 1)])
    assert found == Attribution([], found.scores, found.gap)
    assert found.scores.shape == (0,)


def test_words_of_a_class_push_towards_it_in_a_trained_model(able: Path) -> None:
    explainer = Explainer.of(Checkpoint.open(able / "best.ckpt"))
    labels = ["anger", "joy", "sadness"]
    texts = {
        "anger": "this is angry today",
        "joy": "this is happy today",
        "sadness": "this is sad today",
    }
    found = explainer.explain([Question(text, labels.index(label)) for label, text in texts.items()])
    for each in found:
        assert each.scores.argmax() == 2  # angry, happy, sad
        assert each.scores[2] > 0


def test_no_more_is_asked_than_the_budget_pays(explainer: Explainer) -> None:
    groups = [[Question(text, 0), Question(text, 1)] for text in TEXTS]
    size = sum(parameter.numel() for parameter in explainer.network.bert.encoder.parameters())
    one = 4 * STEPS * size * 2 * len(explainer.tokenizer.encode(TEXTS[0]).ids)
    assert explainer.within_budget(groups, one) == 1
    assert explainer.within_budget(groups, one - 1) == 0
    assert explainer.within_budget(groups) == len(groups)
    assert explainer.within_budget([]) == 0


def test_batches_hold_no_more_than_they_may_when_padded() -> None:
    sizes = [1, 2, 3, 3, 9]
    assert list(_batches(range(5), sizes, 6)) == [[0, 1], [2, 3], [4]]


def test_a_checkpoint_is_the_one_that_was_scored_or_none(trained: Path, tmp_path: Path) -> None:
    best = trained / "best.ckpt"
    moved = checkpoint_of({"checkpoint": str(tmp_path / "gone.ckpt")}, trained / "validate.parquet")
    assert moved.path == best.resolve()
    with pytest.raises(UserError, match="written anew"):
        checkpoint_of({"checkpoint": str(best), "sha256": "0" * 64}, trained / "validate.parquet")
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint_of({}, tmp_path / "validate.parquet")


def test_no_checkpoint_of_another_folder_is_opened(trained: Path, tmp_path: Path) -> None:
    """Neither by a path, nor beside the predictions where it is not the one that they are of."""
    for name in (str(trained / "best.ckpt"), "../trained/best.ckpt", "", ".", "..", 5, None, "/dev/zero"):
        with pytest.raises(UserError, match=r"there is no checkpoint .*best\.ckpt"):
            checkpoint_of({"checkpoint": name}, tmp_path / "validate.parquet")
    (tmp_path / "best.ckpt").write_bytes(b"anything, which no loader must see")
    for digest in ("0" * 64, 5, ["x"]):
        with pytest.raises(UserError, match="written anew"):
            checkpoint_of({"checkpoint": "best.ckpt", "sha256": digest}, tmp_path / "validate.parquet")
    (tmp_path / "best.ckpt").unlink()
    (tmp_path / "best.ckpt").symlink_to(trained / "best.ckpt")
    with pytest.raises(UserError, match="is a link out of its folder"):
        checkpoint_of({}, tmp_path / "validate.parquet")


def test_the_checkpoint_beside_the_predictions_is_found_by_its_name(trained: Path) -> None:
    found = checkpoint_of({"checkpoint": "/moved/since/last.ckpt"}, trained / "validate.parquet")
    assert found.path == (trained / "last.ckpt").resolve()
