"""The predictions that a validation or test leaves: those of its rows, in the order of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer

from lit_bert import BertClassifier, EmotionDataModule
from lit_bert.evaluate.prediction_collector import PredictionCollector
from lit_bert.sources.weights import Weights


@pytest.fixture
def data(corpus: Path, weights: Weights) -> EmotionDataModule:
    return EmotionDataModule(str(corpus), eval_batch_size=5, max_length=16, weights=weights)


@pytest.fixture
def model(data: EmotionDataModule, weights: Weights) -> BertClassifier:
    torch.manual_seed(0)
    return BertClassifier(data.label_names, weights=weights)


def trainer(outputs: PredictionCollector, **settings: object) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", callbacks=[outputs], enable_model_summary=False, **quiet, **settings)


def test_rows_are_in_the_order_of_the_data_with_their_own_probabilities(
    data: EmotionDataModule, model: BertClassifier
) -> None:
    outputs = PredictionCollector()
    trainer(outputs).validate(model, data, verbose=False)
    found = outputs.predictions
    assert found.rows.tolist() == list(range(24))
    assert data.val_rows.rows.tolist() != list(range(24))  # batches are sorted by length
    texts = data.val_rows.texts(np.arange(24))
    assert found.texts == texts
    assert found.class_names == ["anger", "joy", "sadness"]
    assert found.labels.tolist() == [1] * 8 + [2] * 8 + [0] * 8  # as the file has them
    model.eval()
    for text, probs in zip(texts, found.outputs, strict=True):
        ids = torch.tensor([model.weights.tokenizer(16).encode(text).ids])
        with torch.inference_mode():
            wanted = model(ids, torch.ones_like(ids)).softmax(-1)[0]
        assert np.allclose(probs, wanted, atol=1e-5)


def test_the_counts_are_those_of_the_part_that_was_scored(
    data: EmotionDataModule, model: BertClassifier
) -> None:
    outputs = PredictionCollector()
    trainer(outputs, limit_val_batches=2).validate(model, data, verbose=False)
    counts = outputs.predictions.facts["row_counts"]
    assert (counts["split"], counts["read"], counts["scored"]) == ("validation", 24, 10)
    assert len(outputs.predictions.rows) == len(outputs.predictions.outputs) == 10
    trainer(outputs).test(model, data, verbose=False)
    counts = outputs.predictions.facts["row_counts"]
    assert (counts["split"], counts["read"], counts["scored"]) == ("test", 24, 24)


def test_loaders_without_a_data_module_have_no_counts(data: EmotionDataModule, model: BertClassifier) -> None:
    data.setup("validate")
    outputs = PredictionCollector()
    trainer(outputs).validate(model, data.val_dataloader(), verbose=False)
    assert len(outputs.predictions.rows) == 24
    assert outputs.predictions.facts == {}
