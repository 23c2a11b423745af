"""From labelled text to batches: padding, order, the token cache, labels, splits, and what bad data gets."""

import csv
import hashlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import lit_bert
from lit_bert import UserError
from lit_bert.data import cache as token_cache
from lit_bert.data.batches import LengthGroupedSampler, PredictionBatches, collate
from lit_bert.data.cache import TokenizedRows
from lit_bert.data.cells import Numbered
from lit_bert.data.module import EmotionDataModule
from lit_bert.data.windows import LongTexts
from lit_bert.io.texts import TextForm
from lit_bert.sources.hub import Source
from lit_bert.sources.weights import Weights

WORDS = ("happy", "sad", "rain", "sun", "dog", "cat", "train", "late")
SCALE = 20_000
FILE_LIMIT = 64 * 1024  # bytes; less than the Arrow file of `many` takes

TWEET = TextForm("single", ("tweet",))


@pytest.fixture
def cache(tmp_path):
    """The token cache of the test (`own_place` names it)."""
    return tmp_path / "cache"


@pytest.fixture
def module(weights):
    """Makes data modules over the tiny BERT; a stand-in is never taken."""

    def make(dataset, **settings):
        return EmotionDataModule(
            **{"dataset": str(dataset), "stand_in": None, "weights": weights, **settings}
        )

    return make


@pytest.fixture
def ready(module):
    """A data module as `fit` has it before the first batch."""

    def make(dataset, **settings):
        made = module(dataset, **settings)
        made.prepare_data()
        made.setup("fit")
        return made

    return make


@pytest.fixture
def calls(monkeypatch):
    """The number of texts in every call of the real tokenizer, in order."""
    counts = []
    real_tokenizer = tokenizers.Tokenizer

    class Counting:
        def __init__(self, real):
            self.real = real

        @classmethod
        def from_str(cls, text):
            return cls(real_tokenizer.from_str(text))

        def __getattr__(self, name):
            found = getattr(self.real, name)
            if not name.startswith("encode"):
                return found

            def encode(texts, *rest, **more):
                counts.append(1 if isinstance(texts, str) else len(texts))
                return found(texts, *rest, **more)

            return encode

    monkeypatch.setattr(tokenizers, "Tokenizer", Counting)
    return counts


@pytest.fixture
def rank_of(monkeypatch):
    """Makes Lightning's trainer of one of two processes on the CPU, as torchrun would start it."""

    def make(rank):
        monkeypatch.setattr(rank_zero_only, "rank", rank)  # Trainer sets it; undone after the test
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", enable_model_summary=False, **quiet)
        assert (trainer.world_size, trainer.global_rank) == (2, rank)
        return trainer

    return make


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 generated rows of 3 to 14 tokens in one CSV."""
    file = tmp_path_factory.mktemp("many") / "many.csv"
    generator = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for number, count in enumerate(generator.integers(1, 13, SCALE)):
            writer.writerow([" ".join(generator.choice(WORDS, count)), f"class {number % 3}"])
    return file


def put(file, rows):
    """Writes rows as CSV or JSON Lines, by the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, list(rows[0]) if rows else ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    return file


def labelled(*labels):
    """A row for each label, with texts that differ."""
    return [
        {"text": f"i am {WORDS[n % 8]} {'so ' * (n % 5)}", "label": label} for n, label in enumerate(labels)
    ]


def folder_of(tmp_path, suffix="csv", name="texts", **splits):
    """A folder with a file for each split."""
    for split, rows in splits.items():
        put(tmp_path / name / f"{split}.{suffix}", rows)
    return tmp_path / name


def tokens(cache):
    """The tokenized splits in a cache: the file with the rows of each, by the name of its folder."""
    return {folder.name: folder / "rows.arrow" for folder in (cache / "tokens").glob("*") if folder.is_dir()}


def leftovers(cache):
    """What a failure may not leave: files and folders but for locks and the small notes about the text."""
    places = [*cache.glob("*/*"), *cache.glob("*/.*")]
    return [place for place in places if place.suffix != ".lock" and not is_note(place)]


def is_note(place):
    return (
        place.parent.name in ("columns", "labels", "splits", "duplicates", "audits")
        and json.loads(place.read_text()) is not None
    )


def refusal(call, *arguments):
    """The one line with which `call` refuses."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def batches_of(sampler, size):
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


def padding(batches, lengths):
    """Share of padding among all tokens, 0 to 1."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / padded


def rows_in(loader):
    return [row for batch in loader for row in batch["rows"].tolist()]


# --- collate -----------------------------------------------------------------------------------------------


def test_collate_pads_on_the_right_to_the_longest_text_of_the_batch():
    items = [
        {"input_ids": np.array([2, 9, 3], dtype=np.int32), "labels": np.int64(1), "rows": np.int64(40)},
        {"input_ids": np.array([2, 5, 6, 10, 3], dtype=np.int32), "labels": np.int64(0), "rows": np.int64(7)},
        {"input_ids": np.array([2, 3], dtype=np.int32), "labels": np.int64(2), "rows": np.int64(8)},
    ]
    batch = collate(items)
    expected = {
        "input_ids": torch.tensor([[2, 9, 3, 0, 0], [2, 5, 6, 10, 3], [2, 3, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "labels": torch.tensor([1, 0, 2]),
        "rows": torch.tensor([40, 7, 8]),
    }
    assert batch.keys() == expected.keys()
    for key, tensor in expected.items():
        assert batch[key].dtype == torch.int64
        assert torch.equal(batch[key], tensor), key


def test_collate_pads_with_the_given_token_and_masks_by_length():
    # the padding token also stands inside a text, where it is not padding
    batch = collate([{"input_ids": [2, 4, 3]}, {"input_ids": [2, 4, 4, 3]}], pad_token_id=4)
    assert batch["input_ids"].tolist() == [[2, 4, 3, 4], [2, 4, 4, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_collate_adds_nothing_to_texts_of_one_length():
    batch = collate([{"input_ids": [2, 3]}, {"input_ids": [2, 3]}])
    assert batch["input_ids"].shape == (2, 2)
    assert batch["attention_mask"].all()


# --- the order of training ---------------------------------------------------------------------------------

LENGTHS = np.random.default_rng(1).integers(3, 100, 1003)


@pytest.mark.parametrize("batch_size", [1, 8, 1003, 5000])
def test_every_row_comes_once_per_epoch(batch_size):
    sampler = LengthGroupedSampler(LENGTHS, batch_size)
    assert len(sampler) == 1003
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(1003))


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = LengthGroupedSampler(LENGTHS, 8, seed)
        torch.manual_seed(len(orders))  # neither of these may matter
        np.random.seed(len(orders))
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        return orders[-1]

    orders = []
    assert order(0, 0) == order(0, 0)
    assert order(3, 5) == order(3, 5)
    different = [order(0, 0), order(0, 1), order(1, 0), order(1, 1), order(0, 2)]
    assert len({tuple(each) for each in different}) == 5


def test_going_over_an_epoch_twice_gives_the_same_order():
    sampler = LengthGroupedSampler(LENGTHS, 8)
    assert list(sampler) == list(sampler)


def test_like_lengths_share_a_batch_and_the_short_batch_comes_last():
    lengths = np.array([7, 1, 10, 4, 2, 9, 5, 8, 3, 6])
    sampler = LengthGroupedSampler(lengths, batch_size=4)
    starts = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        first, second, last = ({int(lengths[index]) for index in batch} for batch in batches_of(sampler, 4))
        assert last == {1, 2}
        assert {frozenset(first), frozenset(second)} == {frozenset({7, 8, 9, 10}), frozenset({3, 4, 5, 6})}
        starts.add(max(first))
    assert starts == {6, 10}  # the batches themselves come in random order


def test_rows_meet_other_rows_in_each_epoch():
    sampler = LengthGroupedSampler(np.random.default_rng(0).permutation(4000), batch_size=4)
    first = {frozenset(batch) for batch in batches_of(sampler, 4)}
    sampler.set_epoch(1)
    second = {frozenset(batch) for batch in batches_of(sampler, 4)}
    assert len(first & second) < 10  # of 1,000


def test_grouped_batches_pad_far_less_than_shuffled_ones():
    generator = np.random.default_rng(0)
    lengths = np.minimum(3 + generator.geometric(0.06, 16_000), 128)
    shuffled = generator.permutation(16_000).reshape(-1, 32)
    grouped = batches_of(LengthGroupedSampler(lengths, 32), 32)
    assert padding(shuffled, lengths) > 0.6
    assert padding(grouped, lengths) < 0.08


def test_two_ranks_train_on_each_row_once_and_on_like_lengths(ready, rank_of, tmp_path):
    rows = [{"text": "so " * (1 + n % 37), "label": f"{n % 2}"} for n in range(160)]
    made = ready(folder_of(tmp_path, train=rows, validation=rows), batch_size=4)
    seen, batches = [], []
    for rank in range(2):
        made.trainer = rank_of(rank)
        loader = made.trainer._data_connector._prepare_dataloader(
            made.train_dataloader(), shuffle=False, mode=RunningStage.TRAINING
        )
        assert type(loader.sampler).__name__ == "DistributedSamplerWrapper"
        _set_sampler_epoch(loader, 3)
        mine = [batch["rows"].tolist() for batch in loader]
        assert [len(batch) for batch in mine] == [4] * 20
        batches.append(mine)
        seen += itertools.chain(*mine)
    assert sorted(seen) == list(range(160))
    lengths = made.train_rows.lengths
    together = [first + second for first, second in zip(*batches, strict=True)]  # an optimizer step's rows
    assert padding(together, lengths) < 0.08
    # 160 rows are one group of 8 × 50: each step is a run of the rows sorted by length
    ends = sorted((min(lengths[step]), max(lengths[step])) for step in together)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))


def test_lightning_tells_wrapped_ranks_the_epoch(ready, rank_of, corpus):
    made = ready(corpus, batch_size=4)
    made.trainer = rank_of(1)
    loader = made.trainer._data_connector._prepare_dataloader(
        made.train_dataloader(), shuffle=False, mode=RunningStage.TRAINING
    )
    orders = []
    for epoch in (0, 1, 0):
        _set_sampler_epoch(loader, epoch)
        orders.append(rows_in(loader))
    assert orders[0] == orders[2] != orders[1]


def test_training_batches_hold_each_row_once_with_its_own_tokens_and_label(ready, corpus):
    made = ready(corpus, batch_size=8)
    loader = made.train_dataloader()
    source = list(csv.DictReader((corpus / "train.csv").open()))
    tokenizer = made.weights.tokenizer(128)
    keys = ("rows", "input_ids", "attention_mask", "labels")
    sizes, seen = [], []
    for batch in loader:
        sizes.append(len(batch["rows"]))
        assert batch["input_ids"].shape[1] == int(batch["attention_mask"].sum(1).max())
        for row, ids, mask, label in zip(*(batch[key] for key in keys), strict=True):
            expected = source[int(row)]
            assert ids[mask.bool()].tolist() == tokenizer.encode(expected["text"]).ids
            assert made.label_names[label] == expected["label"]
            seen.append(int(row))
    assert sizes == [8] * 7 + [4]
    assert sorted(seen) == list(range(60))


def test_order_seed_decides_the_order_of_training_and_nothing_else(ready, corpus):
    first, same, other = (ready(corpus, order_seed=seed, batch_size=8) for seed in (0, 0, 1))
    assert rows_in(first.train_dataloader()) == rows_in(same.train_dataloader())
    assert rows_in(first.train_dataloader()) != rows_in(other.train_dataloader())
    assert rows_in(first.val_dataloader()) == rows_in(other.val_dataloader())


def test_padding_token_is_that_of_the_architecture(ready, tiny_bert, corpus, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 4}))
    made = ready(corpus, weights=Weights(str(folder), stand_in=None), eval_batch_size=24)
    (batch,) = made.val_dataloader()
    outside = batch["input_ids"][batch["attention_mask"] == 0]
    assert len(outside) > 0
    assert set(outside.tolist()) == {4}


# --- the order of evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_gives_each_row_once_longest_first(module, corpus, split):
    made = module(corpus, eval_batch_size=5)
    made.prepare_data()
    made.setup("test" if split == "test" else "validate")
    batches = list(made.test_dataloader() if split == "test" else made.val_dataloader())
    assert [len(batch["rows"]) for batch in batches] == [5, 5, 5, 5, 4]
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 2
    rows = torch.cat([batch["rows"] for batch in batches]).tolist()
    labels = torch.cat([batch["labels"] for batch in batches]).tolist()
    source = list(csv.DictReader((corpus / f"{split}.csv").open()))
    assert sorted(rows) == list(range(24))
    assert [made.label_names[label] for label in labels] == [source[row]["label"] for row in rows]


def test_two_ranks_score_each_row_once_where_shares_are_unequal(module, rank_of, tmp_path):
    folder = folder_of(tmp_path, train=labelled(*"abababa"), validation=labelled(*"ababababa"))
    made = module(folder, eval_batch_size=2)
    made.prepare_data()
    made.setup("validate")
    seen = []
    for rank in range(2):
        made.trainer = rank_of(rank)
        loader = made.trainer._data_connector._prepare_dataloader(
            made.val_dataloader(), shuffle=False, mode=RunningStage.VALIDATING
        )
        seen.append(rows_in(loader))
    assert [len(rows) for rows in seen] == [5, 4]
    assert sorted(seen[0] + seen[1]) == list(range(9))


# --- prediction --------------------------------------------------------------------------------------------


def stream(counts, read=None):
    """Numbered rows with texts of that many words; notes in `read` when each is taken."""
    for number, count in enumerate(counts, 1):
        if read is not None:
            read.append(number)
        yield Numbered(number, 0, {"id": number, "tweet": " ".join(["so"] * count)})


def prediction_batches(rows, weights, max_length):
    """Batches of two texts, cut at that many tokens."""
    tokenizer = weights.tokenizer(max_length)
    tokenizer.no_truncation()
    return PredictionBatches(rows, TWEET, tokenizer, LongTexts("cut", max_length), 2, 0)


def test_prediction_sorts_each_window_by_length_and_keeps_all_rows(weights, monkeypatch):
    monkeypatch.setattr("lit_bert.data.batches.PREDICT_ROWS", 5)
    counts = [1, 4, 2, 9, 3, 1, 1, 7, 2, 5, 8, 6]
    batches = list(prediction_batches(stream(counts), weights, 8))
    numbers = [[each.number for each in batch["numbered"]] for batch in batches]
    assert numbers == [[4, 2], [5, 3], [1], [8, 10], [9, 6], [7], [11, 12]]
    assert [batch["window"] for batch in batches] == [0, 0, 0, 1, 1, 1, 2]
    assert [batch["truncated"] for batch in batches] == [1, 0, 0, 1, 0, 0, 1]  # 9, 7 and 8 words
    assert [batch["input_ids"].shape for batch in batches[:2]] == [(2, 8), (2, 5)]
    assert batches[1]["input_ids"].tolist() == [[2, 7, 7, 7, 3], [2, 7, 7, 3, 0]]
    assert batches[1]["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batches[0]["numbered"][0].row["id"] == 4  # the other columns ride along


def test_prediction_reads_one_window_ahead_at_most(weights, monkeypatch):
    monkeypatch.setattr("lit_bert.data.batches.PREDICT_ROWS", 4)
    read = []
    batches = iter(prediction_batches(stream([1] * 12, read), weights, 8))
    next(batches)
    assert read == [1, 2, 3, 4]
    next(batches)
    assert len(read) == 4
    next(batches)
    assert len(read) == 8


def test_prediction_of_nothing_is_no_batch(weights):
    assert list(prediction_batches([], weights, 8)) == []


def test_prediction_loader_needs_no_corpus(module, tmp_path):
    made = module(tmp_path / "gone.csv", text_column="tweet", max_length=6, eval_batch_size=3)
    made.predict_from(stream([1, 9, 2, 3]))
    made.prepare_data()
    made.setup("predict")
    first, second = made.predict_dataloader()
    assert [each.number for each in first["numbered"]] == [2, 4, 3]
    assert [each.number for each in second["numbered"]] == [1]
    assert (first["truncated"], tuple(first["input_ids"].shape)) == (1, (3, 6))


# --- tokenized once ----------------------------------------------------------------------------------------


def test_second_module_never_calls_the_tokenizer(module, corpus, calls):
    first = module(corpus)
    first.prepare_data()
    first.setup("fit")
    assert sum(calls) == 60 + 24
    first.setup("test")
    assert sum(calls) == 60 + 24 + 24
    calls.clear()
    second = module(corpus, weights=Weights(first.weights.request["pretrained"], stand_in=None))
    second.prepare_data()
    for stage in ("fit", "validate", "test"):
        second.setup(stage)
    assert calls == []
    for split in ("train_rows", "val_rows", "test_rows"):
        mine, theirs = getattr(second, split), getattr(first, split)
        assert mine.texts(mine.rows) == theirs.texts(theirs.rows)
        assert all((a["input_ids"] == b["input_ids"]).all() for a, b in zip(mine, theirs, strict=True))


def test_what_does_not_change_the_tokens_tokenizes_nothing(module, corpus, cache, calls):
    module(corpus).prepare_data()
    before, _ = tokens(cache), calls.clear()
    for settings in (
        {"batch_size": 3, "eval_batch_size": 7},
        {"train_rows": 10, "val_rows": 5, "subset_seed": 1, "order_seed": 9},
        {"max_length": 100},
        {"val_fraction": 0.4, "test_split": "other"},
        {"label_names": ["anger", "joy", "sadness"]},  # those that the data has anyway
    ):
        made = module(corpus, **settings)
        made.prepare_data()
        made.setup("fit")
    assert calls == []
    assert tokens(cache) == before
    assert len(before) == 2


@pytest.mark.parametrize("change", ["text", "label", "label column", "text column", "label names"])
def test_what_changes_the_tokens_makes_a_new_cache_entry(module, tmp_path, cache, calls, change):
    rows = [
        {"text": "i am happy", "other": "i am sad", "label": label, "mood": mood}
        for label, mood in ("aa", "ba", "bb", "ab")
    ]
    file = put(tmp_path / "rows.csv", rows)
    module(file).prepare_data()
    before = tokens(cache)
    assert len(before) == 1
    settings = {
        "label column": {"label_column": "mood"},
        "text column": {"text_column": "other"},
        "label names": {"label_names": ["b", "a"]},
    }.get(change, {})
    if change == "text":
        put(file, [{**rows[0], "text": "i am glad"}, *rows[1:]])
    if change == "label":
        put(file, [rows[0], {**rows[1], "label": "a"}, *rows[2:]])
    calls.clear()
    made = module(file, **settings)
    made.prepare_data()
    assert sum(calls) == 4
    assert len(tokens(cache)) == 2
    made.setup("fit")
    both = TokenizedRows(next(tokens(cache)[name] for name in tokens(cache).keys() - before.keys()))
    labels = {"label": [0, 0, 1, 0], "label column": [0, 0, 1, 1], "label names": [1, 0, 0, 1]}
    assert both.labels.tolist() == labels.get(change, [0, 1, 1, 0])
    first = {"text": [2, 5, 6, 10, 3], "text column": [2, 5, 6, 11, 3]}
    assert both[0]["input_ids"].tolist() == first.get(change, [2, 5, 6, 9, 3])


def test_text_of_the_same_size_and_time_is_still_seen_to_have_changed(ready, tmp_path):
    file = put(tmp_path / "rows.jsonl", labelled("a", "b", "a", "b"))
    status = file.stat()
    assert ready(file).train_rows.texts([0]) == ["i am happy "]
    file.write_text(file.read_text().replace("happy", "angry"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ready(file).train_rows.texts([0]) == ["i am angry "]


def test_another_tokenizer_makes_a_new_cache_entry(module, tiny_bert, corpus, cache, tmp_path):
    module(corpus).prepare_data()
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"happy"', '"merry"'))
    other = Weights(str(folder), stand_in=None)
    assert len(tokens(cache)) == 2
    module(corpus, weights=other).prepare_data()
    assert len(tokens(cache)) == 4


def test_same_text_at_another_place_shares_the_cache(ready, corpus, cache, calls, tmp_path):
    ready(corpus)
    calls.clear()
    ready(shutil.copytree(corpus, tmp_path / "copy"))
    assert calls == []


def test_cache_follows_its_environment_variable(ready, corpus, monkeypatch, tmp_path):
    monkeypatch.delenv("LIT_BERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    ready(corpus)
    assert len(tokens(tmp_path / "xdg" / "lit_bert")) == 2


def test_tokens_are_cut_at_max_length_and_the_cuts_counted(ready, tmp_path, cache):
    rows = [
        {"text": "i am so very happy", "label": "a"},
        {"text": "i am sad", "label": "b"},
        {"text": "i am happy", "label": "a"},
        {"text": "sun", "label": "b"},
    ]
    folder = folder_of(tmp_path, train=rows, validation=rows)
    made = ready(folder, max_length=5, long_texts="cut")
    assert [row["input_ids"].tolist() for row in made.train_rows] == [
        [2, 5, 6, 7, 3],
        [2, 5, 6, 11, 3],
        [2, 5, 6, 9, 3],
        [2, 18, 3],
    ]
    assert made.train_rows.lengths.tolist() == [5, 5, 5, 3]
    assert made.train_rows.truncated.tolist() == [True, False, False, False]
    assert made.train_rows.texts([0]) == ["i am so very happy"]  # the text itself is kept whole
    facts = json.loads((next(iter(tokens(cache).values())).parent / "split.json").read_text())
    assert facts == {"rows": 4, "read": 4, "skipped": {}, "order": None, "notes": []}


def test_parallel_modules_make_one_whole_cache(module, many, cache, calls):
    barrier = threading.Barrier(4)
    found, errors = [], []

    def prepare():
        made = module(many)
        barrier.wait(timeout=60)
        try:
            made.prepare_data()
            made.setup("fit")
            rows = made.train_rows
            found.append((len(rows), int(rows.lengths.sum()), rows.texts([rows.rows[-1]])[0]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert errors == []
    assert len(found) == 4
    assert len(set(found)) == 1
    assert found[0][0] == 17_999  # 6,667 and 6,667 and 6,666 rows gave 667 each
    assert sum(calls) == SCALE  # the others waited instead of doing it again
    assert len(tokens(cache)) == 1
    assert [place.name for place in leftovers(cache)] == list(tokens(cache))


PREPARE = """
import hashlib, sys
from lit_bert.data.module import EmotionDataModule
from lit_bert.sources.weights import Weights
made = EmotionDataModule(dataset=sys.argv[1], stand_in=None, weights=Weights(sys.argv[2], stand_in=None))
made.weights.tokenizer_files
print("ready", flush=True)
sys.stdin.readline()
made.prepare_data()
made.setup("fit")
rows = made.train_rows
tokens = b"".join(row["input_ids"].tobytes() for row in rows)
print(len(rows), rows.lengths.sum(), hashlib.sha256(tokens).hexdigest())
"""


def test_two_processes_make_one_whole_cache(module, many, tiny_bert, cache):
    """This process and a fresh one."""
    command = [sys.executable, "-c", PREPARE, str(many), str(tiny_bert)]
    environment = {**os.environ, "PYTHONPATH": str(Path(lit_bert.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        other.stdin.flush()
        made = module(many)
        made.prepare_data()
        made.setup("fit")
        answer, _ = other.communicate(timeout=120)
    assert other.returncode == 0
    rows = made.train_rows
    digest = hashlib.sha256(b"".join(row["input_ids"].tobytes() for row in rows)).hexdigest()
    assert answer == f"{len(rows)} {rows.lengths.sum()} {digest}\n"
    assert len(tokens(cache)) == 1
    assert [place.name for place in leftovers(cache)] == list(tokens(cache))


def test_whoever_finishes_first_wins_where_locks_do_nothing(tmp_path):
    final = tmp_path / "tokens" / "key"

    def write(partial):
        # another machine finishes in the meantime, on a file system that ignores locks
        final.mkdir()
        (final / "rows.arrow").write_text("theirs")
        partial.mkdir()
        (partial / "rows.arrow").write_text("ours")

    token_cache.write_to_cache(final, write)
    assert (final / "rows.arrow").read_text() == "theirs"
    assert [place.name for place in final.parent.iterdir() if place.suffix != ".lock"] == ["key"]


def test_failure_in_the_middle_leaves_nothing(tmp_path):
    final = tmp_path / "tokens" / "key"

    def write(partial):
        partial.mkdir()
        (partial / "rows.arrow").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_cache.write_to_cache(final, write)
    assert [place.name for place in final.parent.iterdir() if place.suffix != ".lock"] == []


def test_full_disk_is_an_error_that_names_the_cache_and_leaves_nothing(module, many, cache):
    made = module(many)
    assert made.label_names == ["class 0", "class 1", "class 2"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    try:
        message = refusal(made.prepare_data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(cache / "tokens") in message
    assert "File too large" in message
    assert "LIT_BERT_CACHE" in message
    assert leftovers(cache) == []
    made.prepare_data()
    assert len(tokens(cache)) == 1


def test_cache_that_cannot_be_made_is_an_error_that_names_its_variable(module, corpus, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "file"))
    message = refusal(module(corpus).prepare_data)
    assert str(tmp_path / "file") in message
    assert "LIT_BERT_CACHE" in message


# --- rows from the file ------------------------------------------------------------------------------------


def test_view_shows_chosen_rows_in_the_given_order(ready, corpus):
    rows = ready(corpus).train_rows
    source = list(csv.DictReader((corpus / "train.csv").open()))
    some = rows.view(np.array([40, 3, 25]))
    assert (len(some), some.rows.tolist()) == (3, [40, 3, 25])
    assert some.texts(some.rows) == [source[number]["text"] for number in (40, 3, 25)]
    assert some.labels.tolist() == [0, 1, 2]  # anger, joy, sadness
    assert some.lengths.tolist() == [len(rows[number]["input_ids"]) for number in (40, 3, 25)]
    again = some.view(np.array([2, 0]))
    assert again.rows.tolist() == [25, 40]
    assert (again[1]["rows"], again[1]["labels"]) == (40, some.labels[0])
    assert again[1]["input_ids"].tolist() == rows[40]["input_ids"].tolist()
    assert len(rows) == 60  # the view it was taken from is as it was


def test_texts_come_back_as_they_were(ready, tmp_path):
    texts = ["  two  spaces ", "ÄRGER\nline", "😀 مرحبا", "zero \x00 byte"]
    rows = [{"text": text, "label": n % 2} for n, text in enumerate(texts)]
    made = ready(folder_of(tmp_path, "jsonl", train=rows, validation=rows))
    assert made.train_rows.texts(range(4)) == texts


def test_the_cache_keeps_what_an_audit_needs(ready, tmp_path):
    texts = ["i am so very happy", "i am sad", "sun", "i am sad"]
    rows = [{"text": text, "label": n % 2} for n, text in enumerate(texts)]
    folder = folder_of(tmp_path, "jsonl", train=rows, validation=rows)
    made = ready(folder, max_length=5, long_texts="cut")
    train = made.train_rows
    assert train.truncated.tolist() == [True, False, False, False]
    assert train.hashes.tolist() == [token_cache.text_hash(text) for text in texts]
    assert token_cache.text_hash("i am sad") == 12537103988817765666  # in every process and on every machine
    assert train.view(np.array([2, 0])).truncated.tolist() == [False, True]
    assert list(train.all_texts()) == texts
    assert train.indices_of_texts(iter(["i am sad", "i am", "i am sad"])).tolist() == [1, 3]
    assert train.view(np.array([3, 2])).indices_of_texts(["i am sad"]).tolist() == [0]


def test_twenty_thousand_rows_stay_in_the_file(module, many, cache):
    made = module(many)
    made.prepare_data()
    (file,) = tokens(cache).values()
    TokenizedRows(file)  # imports are no part of what is measured
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    rows = TokenizedRows(file)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == SCALE
    assert used / SCALE < 100
    arrays = [value for value in vars(rows).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) / SCALE < 100
    assert file.stat().st_size > 60 * SCALE
    assert pa.total_allocated_bytes() - arrow < 20 * SCALE  # the tokens and texts are mapped, not read
    source = csv.reader(many.open())
    next(source)
    tokenizer = made.weights.tokenizer(128)
    for number, (text, label) in enumerate(source):
        if number % 997 == 0:  # in every chunk of the file
            assert rows[number]["input_ids"].tolist() == tokenizer.encode(text).ids
            assert made.label_names[rows.labels[number]] == label


# --- labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "labels", "names", "indices"),
    [
        ("csv", ["joy", "anger", "sad", "joy"], ["anger", "joy", "sad"], [1, 0, 2, 1]),
        ("csv", ["10", "9", "2", "10"], ["2", "9", "10"], [2, 1, 0, 2]),
        ("csv", ["joy", " joy", "sad ", "sad"], ["joy", "sad"], [0, 0, 1, 1]),
        ("jsonl", ["joy", "anger", "sad", "joy"], ["anger", "joy", "sad"], [1, 0, 2, 1]),
        ("jsonl", [10, 9, 2, 10], ["2", "9", "10"], [2, 1, 0, 2]),
        ("jsonl", [0, 1, 1, 0], ["0", "1"], [0, 1, 1, 0]),
        ("jsonl", [1, -1, 0, -1], ["-1", "0", "1"], [2, 0, 1, 0]),
        ("jsonl", [2.0, 10.0, 1.0, 2.0], ["1", "2", "10"], [1, 2, 0, 1]),
        ("jsonl", [True, False, False, True], ["false", "true"], [1, 0, 0, 1]),
        ("jsonl", ["²", "³", "²", "³"], ["²", "³"], [0, 1, 0, 1]),  # digits that are no numbers
        ("csv", ["--1", "2", "--1", "2"], ["--1", "2"], [0, 1, 0, 1]),
        ("csv", ["1", "01", "0001", "001"], ["0001", "001", "01", "1"], [3, 2, 0, 1]),
        ("parquet", [10, 9, 2, 10], ["2", "9", "10"], [2, 1, 0, 2]),
        ("parquet", ["joy", "anger", "sad", "joy"], ["anger", "joy", "sad"], [1, 0, 2, 1]),
        ("parquet", [True, False, False, True], ["false", "true"], [1, 0, 0, 1]),
    ],
)
def test_labels_of_any_kind_become_indices_of_sorted_names(ready, tmp_path, suffix, labels, names, indices):
    rows = labelled(*labels)
    if suffix == "parquet":
        for split in ("train", "validation"):
            datasets.Dataset.from_list(rows).to_parquet(tmp_path / "texts" / f"{split}.parquet")
        folder = tmp_path / "texts"
    else:
        folder = folder_of(tmp_path, suffix, train=rows, validation=rows)
    made = ready(folder)
    assert made.label_names == names
    assert made.train_rows.labels.tolist() == indices


def test_fractions_are_classes_where_the_task_says_so(ready, tmp_path):
    rows = labelled(0.5, 1.5, 0.5, 2.0)
    made = ready(folder_of(tmp_path, "jsonl", train=rows, validation=rows), task="single")
    assert made.label_names == ["0.5", "1.5", "2"]
    assert made.train_rows.labels.tolist() == [0, 1, 0, 2]


def class_labelled(file, column, names, labels):
    """A file with that ClassLabel column, as `datasets` writes it."""
    texts = [row["text"] for row in labelled(*labels)]
    kinds = {"text": datasets.Value("string"), column: datasets.ClassLabel(names=names)}
    made = datasets.Dataset.from_dict({"text": texts, column: labels}, features=datasets.Features(kinds))
    made.to_parquet(file) if file.suffix == ".parquet" else made.to_json(file)
    return file


@pytest.mark.parametrize("names", [["sad", "joy", "anger"], ["1", "2", "3"], ["2", "0", "1"]])
def test_class_label_column_names_the_classes_and_keeps_their_order(ready, tmp_path, names):
    for split in ("train", "validation"):
        class_labelled(tmp_path / "set" / f"{split}.parquet", "mood", names, [0, 1, 2, 1])
    made = ready(tmp_path / "set", label_column="mood")
    assert made.label_names == names
    assert made.train_rows.labels.tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("given", "indices"),
    [(["joy", "sad"], [1, 0, 0, 1]), (["sad", "joy"], [0, 1, 1, 0]), (["grief", "delight"], [0, 1, 1, 0])],
    ids=["other order", "same order", "renamed"],
)
def test_class_label_column_meets_given_names_by_name(ready, tmp_path, given, indices):
    for split in ("train", "validation"):
        class_labelled(tmp_path / "set" / f"{split}.parquet", "label", ["sad", "joy"], [0, 1, 1, 0])
    made = ready(tmp_path / "set", label_names=given)
    assert made.label_names == given
    assert made.train_rows.labels.tolist() == indices


def test_checkpoint_scores_other_class_label_data_by_name(ready, module, corpus, tmp_path):
    state = ready(corpus).state_dict()  # anger, joy, sadness
    for split, order in (("train", ["a", "b", "c"]), ("test", ["sadness", "joy", "anger"])):
        class_labelled(tmp_path / "set" / f"{split}.parquet", "label", order, [0, 0, 1, 2])
    made = module(**{**state["hyper_parameters"], "dataset": str(tmp_path / "set")})
    made.setup("test")
    assert made.test_rows.view(np.argsort(made.test_rows.rows)).labels.tolist() == [2, 2, 1, 0]


def test_class_label_minus_one_means_no_label(ready, module, tmp_path, cache):
    file = class_labelled(tmp_path / "set.parquet", "label", ["a", "b"], [0, 1, -1, 0, 1])
    made = module(file, missing="refuse")
    message = refusal(made.prepare_data)
    assert "row 3" in message
    assert "without a label (column 'label')" in message
    assert leftovers(cache) == []
    whole = ready(file).splits.train_split()
    assert (whole.rows.tolist(), whole.labels.tolist()) == ([0, 1, 3, 4], [0, 1, 0, 1])
    assert str(whole.skipped["without a label"]) == "1 (row 3)"


def test_class_label_written_as_json_lines_is_named_by_flag(ready, tmp_path):
    for split in ("train", "validation"):
        class_labelled(tmp_path / "set" / f"{split}.jsonl", "label", ["sad", "joy"], [0, 1, 1, 0])
    assert ready(tmp_path / "set").label_names == ["0", "1"]
    made = ready(tmp_path / "set", label_names=["sad", "joy"])
    assert made.label_names == ["sad", "joy"]
    assert made.train_rows.labels.tolist() == [0, 1, 1, 0]


def test_given_label_names_decide_the_order_and_may_have_no_rows(ready, tmp_path):
    rows = labelled("joy", "sad", "joy", "sad")
    made = ready(folder_of(tmp_path, train=rows, validation=rows), label_names=["sad", "fear", "joy"])
    assert made.label_names == ["sad", "fear", "joy"]
    assert made.train_rows.labels.tolist() == [2, 0, 2, 0]


def test_other_column_names_by_flag(ready, tmp_path):
    rows = [
        {"text": "rain", "label": "wrong", "review": "i am happy", "stars": 5},
        {"text": "rain", "label": "wrong", "review": "i am sad", "stars": 1},
    ] * 2
    folder = folder_of(tmp_path, "jsonl", train=rows, validation=rows)
    made = ready(folder, text_column="review", label_column="stars")
    assert made.label_names == ["1", "5"]
    assert made.train_rows.labels.tolist() == [1, 0, 1, 0]
    assert made.train_rows.texts([0, 1]) == ["i am happy", "i am sad"]
    assert made.train_rows[0]["input_ids"].tolist() == [2, 5, 6, 9, 3]


@pytest.mark.parametrize("classes", [2, 6, 77])
def test_any_number_of_classes(ready, tmp_path, classes):
    rows = labelled(*(n % classes for n in reversed(range(classes * 3))))
    made = ready(put(tmp_path / "rows.jsonl", rows))
    assert made.label_names == [str(n) for n in range(classes)]
    assert np.bincount(made.train_rows.labels).tolist() == [2] * classes
    assert np.bincount(made.val_rows.labels).tolist() == [1] * classes


# --- splits and subsets ------------------------------------------------------------------------------------

COUNTS = {"a": 50, "b": 30, "c": 20, "d": 1}


@pytest.fixture
def single(tmp_path):
    """One file of 101 rows in mixed order: 50 a, 30 b, 20 c, 1 d."""
    labels = [label for label, count in COUNTS.items() for _ in range(count)]
    return put(tmp_path / "single.csv", labelled(*np.random.default_rng(0).permutation(labels)))


def test_carved_validation_takes_its_share_of_each_class(ready, single):
    made = ready(single)  # a tenth
    assert np.bincount(made.val_rows.labels, minlength=4).tolist() == [5, 3, 2, 0]
    assert np.bincount(made.train_rows.labels, minlength=4).tolist() == [45, 27, 18, 1]
    more = ready(single, val_fraction=0.5)
    assert np.bincount(more.val_rows.labels, minlength=4).tolist() == [25, 15, 10, 0]
    least = ready(single, val_fraction=0.001)
    assert np.bincount(least.val_rows.labels, minlength=4).tolist() == [1, 1, 1, 0]
    most = ready(single, val_fraction=0.999)
    assert np.bincount(most.train_rows.labels, minlength=4).tolist() == [1, 1, 1, 1]


def test_carved_parts_are_disjoint_and_whole(ready, single):
    made = ready(single, val_fraction=0.25)
    train, val = made.train_rows.rows.tolist(), made.val_rows.rows.tolist()
    assert sorted(train + val) == list(range(101))


def test_carving_depends_on_subset_seed_alone(ready, single):
    def carved(**settings):
        return frozenset(ready(single, **settings).val_rows.rows.tolist())

    assert carved() == carved(subset_seed=42, order_seed=5, batch_size=4)
    assert len({carved(subset_seed=seed) for seed in range(5)}) == 5


def test_carving_that_leaves_no_validation_row_is_refused(module, tmp_path):
    made = module(put(tmp_path / "two.csv", labelled("a", "b")))

    def prepare():
        made.prepare_data()
        made.setup("fit")

    message = refusal(prepare)
    assert "validation" in message
    assert "--data." in message or "data.val" in message


@pytest.mark.parametrize("train_rows", [1, 7, 59])
def test_subset_is_that_of_datasets_shuffle_and_select(ready, corpus, train_rows):
    made = ready(corpus, train_rows=train_rows, val_rows=7)
    theirs = datasets.Dataset.from_csv(str(corpus / "train.csv"), cache_dir=str(Path.cwd()))
    expected = theirs.shuffle(seed=42).select(range(train_rows))["text"]
    assert made.train_rows.texts(made.train_rows.rows) == list(expected)
    theirs = datasets.Dataset.from_csv(str(corpus / "validation.csv"), cache_dir=str(Path.cwd()))
    expected = theirs.shuffle(seed=42).select(range(7))["text"]
    assert sorted(made.val_rows.texts(made.val_rows.rows)) == sorted(expected)


def test_subset_follows_its_seed_and_takes_all_where_it_asks_for_more(ready, corpus):
    first, other = (ready(corpus, train_rows=20, subset_seed=seed).train_rows.rows for seed in (42, 43))
    assert set(first.tolist()) != set(other.tolist())
    assert sorted(ready(corpus, train_rows=61).train_rows.rows) == list(range(60))


def test_subset_of_carved_data_never_mixes_the_parts(ready, single):
    whole, part = ready(single), ready(single, train_rows=30, val_rows=4)
    assert (len(part.train_rows), len(part.val_rows)) == (30, 4)
    assert set(part.train_rows.rows) <= set(whole.train_rows.rows)
    assert set(part.val_rows.rows) <= set(whole.val_rows.rows)


def test_test_split_is_scored_whole_whatever_the_subset(module, corpus):
    made = module(corpus, train_rows=5, val_rows=5)
    made.setup("test")
    assert len(made.test_rows) == 24


def test_fit_never_reads_the_rows_of_the_test_split(ready, corpus, tmp_path, calls):
    folder = shutil.copytree(corpus, tmp_path / "texts")
    (folder / "test.csv").write_bytes(b'text,label\n"broken\n\xff,\n,,,\n')
    made = ready(folder)
    assert (len(made.train_rows), len(made.val_rows), sum(calls)) == (60, 24, 84)
    assert len(rows_in(made.train_dataloader())) == 60
    message = refusal(made.setup, "test")
    assert "row 1 (line 2) of split test" in message


def test_fit_opens_no_test_file_for_class_names(ready, tmp_path):
    class_labelled(tmp_path / "set" / "train.parquet", "label", ["sad", "joy"], [0, 1] * 4)
    (tmp_path / "set" / "test.parquet").write_bytes(b"PAR1, and then nothing")
    assert ready(tmp_path / "set").label_names == ["sad", "joy"]


def test_test_on_data_without_test_split_names_the_flag_and_a_sound_choice(ready, tmp_path):
    rows = labelled("a", "b", "a", "b")
    for folder in (
        folder_of(tmp_path, name="both", train=rows, validation=rows),
        put(tmp_path / "alone.csv", labelled(*"ab" * 20)),
    ):
        made = ready(folder)
        message = refusal(made.setup, "test")
        assert "no split 'test'" in message
        assert "--data.test_split validation" in message  # to score the training rows would be no test


def test_test_split_validation_scores_the_carved_rows(ready, module, single):
    fit = ready(single)
    made = module(single, test_split="validation", val_rows=3)
    made.setup("test")
    assert made.test_rows.rows.tolist() == fit.val_rows.rows.tolist()
    assert len(made.test_rows) == 10


def test_other_split_names_by_flag(module, corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "texts")
    (folder / "train.csv").rename(folder / "first.csv")
    (folder / "test.csv").rename(folder / "held_out.csv")
    message = refusal(module(folder).prepare_data)
    assert "no split 'train'" in message
    assert "--data.train_split first" in message
    made = module(folder, train_split="first", test_split="held_out")
    made.prepare_data()
    made.setup("fit")
    made.setup("test")
    assert (len(made.train_rows), len(made.val_rows), len(made.test_rows)) == (60, 24, 24)


# --- folds -------------------------------------------------------------------------------------------------


def fold_rows(ready, dataset, folds, **settings):
    """The validation rows of every fold."""
    return [
        ready(dataset, folds=folds, fold=fold, **settings).val_rows.rows.tolist() for fold in range(folds)
    ]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_training_row_is_in_one_fold_and_the_others_train_for_it(ready, single, folds):
    seen = []
    for fold in range(folds):
        made = ready(single, folds=folds, fold=fold)
        train, val = made.train_rows.rows.tolist(), made.val_rows.rows.tolist()
        assert sorted(train + val) == list(range(101))
        seen += val
    assert sorted(seen) == list(range(101))


def test_folds_have_like_shares_of_every_class(ready, single):
    counts = np.array(
        [np.bincount(ready(single, folds=4, fold=fold).val_rows.labels, minlength=4) for fold in range(4)]
    )
    assert counts.sum(0).tolist() == list(COUNTS.values())
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1


@pytest.mark.parametrize("classes", [2, 6, 77])
def test_folds_of_any_number_of_classes(ready, tmp_path, classes):
    file = put(tmp_path / "rows.jsonl", labelled(*(n % classes for n in range(classes * 3))))
    for fold in range(3):
        made = ready(file, folds=3, fold=fold)
        assert np.bincount(made.val_rows.labels).tolist() == [1] * classes
        assert np.bincount(made.train_rows.labels).tolist() == [2] * classes


def test_folds_follow_subset_seed_alone(ready, single):
    first = fold_rows(ready, single, 3)
    assert fold_rows(ready, single, 3, order_seed=5, batch_size=4, val_fraction=0.4) == first
    assert fold_rows(ready, single, 3, subset_seed=1) != first


def test_folds_leave_the_validation_split_unread(ready, corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "texts")
    for split in ("validation", "test"):
        (folder / f"{split}.csv").write_bytes(b'text,label\n"broken\n\xff,\n,,,\n')
    made = ready(folder, folds=3, fold=1)
    assert (len(made.train_rows), len(made.val_rows)) == (40, 20)
    assert made.splits.val_name == "fold 1 of 3 of train"


def test_a_checkpoint_validates_on_its_own_fold(ready, module, corpus):
    fit = ready(corpus, folds=3, fold=2)
    again = module(**fit.state_dict()["hyper_parameters"])
    again.setup("validate")
    assert again.val_rows.rows.tolist() == fit.val_rows.rows.tolist()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"folds": 1}, ["data.folds is 1", "at least 2"]),
        ({"folds": 0}, ["data.folds is 0", "at least 2"]),
        ({"folds": 3, "fold": 3}, ["data.fold is 3", "0 to 2"]),
        ({"folds": 3, "fold": -1}, ["data.fold is -1", "0 to 2"]),
        ({"fold": 1}, ["data.fold is 1", "--data.folds"]),
    ],
)
def test_folds_that_are_none_are_refused(module, corpus, settings, parts):
    message = refusal(lambda: module(corpus, **settings))
    for part in parts:
        assert part in message


def test_more_folds_than_rows_and_folds_that_leave_one_class_are_refused(module, tmp_path):
    made = module(put(tmp_path / "four.csv", labelled(*"abab")), folds=5)
    assert "4 rows" in refusal(made.prepare_data)
    file = put(tmp_path / "lonely.csv", labelled(*"aaab"))
    lonely = [fold for fold in range(2) if 3 in module(file, folds=2, fold=fold).splits.validation().rows]
    message = refusal(module(file, folds=2, fold=lonely[0]).prepare_data)
    assert "less than two classes" in message
    assert "--data.folds" in message
    module(file, folds=2, fold=1 - lonely[0]).prepare_data()


# --- texts that stand in several splits --------------------------------------------------------------------


@pytest.fixture
def leaky(tmp_path):
    """Two of the validation texts and one of the test texts stand in train, the first of them twice."""
    train = [
        *labelled(*"abababab"),
        {"text": "sun dog", "label": "a"},
        {"text": "sun cat", "label": "b"},
        {"text": "sun dog", "label": "b"},
        {"text": "sun rain", "label": "a"},
        {"text": "sun dog ", "label": "a"},
    ]
    validation = [{"text": text, "label": label} for text, label in (("sun dog", "b"), ("sun cat", "b"))]
    return folder_of(
        tmp_path,
        train=train,
        validation=[*validation, {"text": "late", "label": "a"}],
        test=[{"text": "sun rain", "label": "no label"}, {"text": "late dog"}, {"text": " ", "label": "a"}],
    )


def test_deduplicate_leaves_out_texts_of_validation_and_test_whatever_the_labels(ready, leaky, caplog):
    caplog.set_level("INFO")
    made = ready(leaky, deduplicate=True)  # the labels of its test split could not be read
    assert made.train_rows.rows.tolist() == [*range(8), 12]
    assert len(made.val_rows) == 3
    assert [record.message for record in caplog.records if "left out" in record.message] == [
        "4 of 13 rows of split train are left out of training: their texts also stand in validation or test "
        "(--data.deduplicate)"
    ]
    assert made.state_dict()["hyper_parameters"]["deduplicate"] is True


def test_without_deduplicate_all_rows_train(ready, leaky):
    assert len(ready(leaky).train_rows) == 13


def test_deduplicate_without_a_test_split_looks_at_validation_alone(ready, leaky):
    (leaky / "test.csv").unlink()
    assert ready(leaky, deduplicate=True).train_rows.rows.tolist() == [*range(8), 11, 12]


def test_deduplicate_compares_texts_where_hashes_collide(ready, leaky, monkeypatch):
    for place in ("cache", "token_file"):
        monkeypatch.setattr(f"lit_bert.data.{place}.text_hash", lambda text: len(text) % 2)
    assert ready(leaky, deduplicate=True).train_rows.rows.tolist() == [*range(8), 12]


def test_deduplicate_looks_once_and_again_when_a_split_changed(ready, leaky, monkeypatch):
    def first():
        return ready(leaky, deduplicate=True).train_rows.rows.tolist()

    real, looked = TokenizedRows.indices_of_texts, []
    monkeypatch.setattr(TokenizedRows, "indices_of_texts", lambda *rest: looked.append(1) or real(*rest))
    assert first() == first() == [*range(8), 12]
    assert len(looked) == 1
    put(leaky / "test.csv", [{"text": "happy", "label": "a"}])
    assert first() == [*range(8), 11, 12]
    put(leaky / "validation.csv", labelled("a", "b"))
    assert first() == [*range(2, 13)]
    assert len(looked) == 3


def test_deduplicate_comes_before_the_subset(ready, leaky):
    made = ready(leaky, deduplicate=True, train_rows=9)
    assert sorted(made.train_rows.rows) == [*range(8), 12]


def test_deduplicate_of_folds_and_carved_rows_looks_at_their_own_validation_rows(ready, tmp_path):
    rows = [*labelled(*"ab" * 12), *({"text": "sun dog", "label": label} for label in "ab" * 8)]
    file = put(tmp_path / "rows.csv", rows)
    for settings in ({"folds": 2, "fold": 1}, {"val_fraction": 0.5}):
        made = ready(file, deduplicate=True, **settings)
        assert "sun dog" in made.val_rows.texts(made.val_rows.rows)
        assert "sun dog" not in made.train_rows.texts(made.train_rows.rows)


def test_deduplicate_that_leaves_nothing_is_refused(module, tmp_path):
    rows = labelled(*"abab")
    made = module(folder_of(tmp_path, train=rows, validation=rows), deduplicate=True)
    message = refusal(made.prepare_data)
    assert "less than two classes" in message
    assert "--data.deduplicate" in message


# --- errors ------------------------------------------------------------------------------------------------

GOOD = [{"text": "i am sad", "label": "a"}, {"text": "happy", "label": "b"}] * 4
NAN = float("nan")
REMEDY = ("--data.", "Correct", "run again", "Run ")

BAD_ROWS = {
    "no text column": (
        [{"tweet": "i am sad", "label": label} for label in "abab"],
        ["no column 'text'", "tweet, label", "--data.text_column"],
    ),
    "no label column": (
        [{"text": "i am sad", "mood": label} for label in "abab"],
        ["no column 'label'", "text, mood", "--data.label_column"],
    ),
    "list of labels": ([*GOOD, {"text": "sun", "label": ["a", "b"]}], ["row 9", "split {split}", "label"]),
    "other case": (
        [*GOOD, {"Text": "sun", "label": "a"}],
        ["row 9", "no column 'text', but a column 'Text'", "--data.text_column 'Text'"],
    ),
    "boolean text": (
        [*GOOD, {"text": True, "label": "a"}],
        ["row 9", "type boolean (True) in column 'text'"],
    ),
    "fraction as text": (
        [*GOOD, {"text": 0.5, "label": "a"}],
        ["row 9", "type float (0.5) in column 'text'"],
    ),
    "nested text": ([*GOOD, {"text": {"n": 1}, "label": "a"}], ["row 9", "nested value", "column 'text'"]),
    "infinite label": (
        [*GOOD, {"text": "sun", "label": float("inf")}],
        ["row 9", "type float (inf) in column 'label'"],
    ),
    "no rows": ([], ["{split}", "no rows"]),
    "only rows without a label": ([{"text": "sun", "label": " "}] * 3, ["{split}", "no rows"]),
}
SETTINGS = {  # without which other columns would be found, or several labels a text
    "no text column": {"text_column": "text"},
    "no label column": {"label_column": "label"},
    "list of labels": {"task": "single"},
}
MISSING = {
    "empty label": {"text": "sun", "label": ""},
    "blank label": {"text": "sun", "label": "  "},
    "null label": {"text": "sun", "label": None},
    "NaN label": {"text": "sun", "label": NAN},
    "lacking label": {"text": "sun"},
    "null text": {"text": None, "label": "a"},
    "empty text": {"text": "", "label": "a"},
    "blank text": {"text": " \t\n", "label": "a"},
    "lacking text": {"label": "a"},
    "neither": {"text": None, "label": None},
}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("problem", BAD_ROWS)
def test_bad_rows_are_refused_in_one_line_and_leave_nothing(module, tmp_path, cache, problem, split):
    rows, parts = BAD_ROWS[problem]
    splits = {"train": GOOD, "validation": GOOD, "test": GOOD, split: rows}
    folder = folder_of(tmp_path, "jsonl", **splits)
    settings = SETTINGS.get(problem, {})
    if split != "train":
        module(folder, val_split="train", **settings).prepare_data()
    made = module(folder, **{"text_column": "text", "label_column": "label", **settings})
    before = leftovers(cache)
    message = refusal(made.setup, "test") if split == "test" else refusal(made.prepare_data)
    for part in parts:
        assert part.format(split=split) in message
    assert str(folder) in message
    assert any(remedy in message for remedy in REMEDY)
    assert leftovers(cache) == before
    assert len(before) == (0 if split == "train" else 1)
    put(folder / f"{split}.jsonl", [*GOOD, {"text": "rain", "label": "a"}])
    mended = module(folder)
    mended.prepare_data()
    mended.setup("fit")
    mended.setup("test")
    assert len(mended.tokenized.rows(f"{split.replace('validation', 'val')}_split")) == 9


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("what", MISSING)
def test_a_row_without_text_or_label_is_skipped_counted_and_refused_on_request(
    module, tmp_path, caplog, what, split
):
    caplog.set_level("INFO")
    splits = {"train": GOOD, "validation": GOOD, "test": GOOD}
    splits[split] = [*GOOD[:3], MISSING[what], *GOOD[3:], MISSING[what]]
    folder = folder_of(tmp_path, "jsonl", **splits)
    for _ in range(2):  # the second time from the cache
        made = module(folder)
        made.prepare_data()
        made.setup("fit")
        made.setup("test")
        rows = getattr(made, f"{split.replace('validation', 'val')}_rows")
        assert sorted(rows.rows.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8]  # as they are numbered in the file
        texts = [GOOD[number - (number > 3)]["text"] for number in rows.rows]
        assert rows.texts(rows.rows) == texts
        reason = "without a text" if "text" in what or what == "neither" else "without a label"
        assert asdict(made.splits.counts[split]) == {
            "split": split,
            "read": 10,
            "skipped": {reason: {"count": 2, "first": ["4", "10"]}},
            "left_out": {},
            "used": 8,
        }
        assert f"10 read, 2 (rows 4, 10) {reason} skipped, 8 used" in str(made.splits.counts[split])
    for again in range(2):
        made = module(folder, missing="refuse", label_names=["b", "a"] if again else None)
        message = refusal(made.setup, "test" if split == "test" else "fit")
        assert "row 4" in message
        assert f"split {split}" in message
        assert reason in message
        assert "--data.missing skip" in message


def test_empty_label_in_csv_is_refused_with_its_line_on_request(module, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\ni am sad,a\nhappy,b\nsun,\n")
    assert "row 3 (line 4)" in refusal(module(file, missing="refuse").prepare_data)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"happy\n", "1 cells where the header has 2"),
        (b'"happy"ly,b\n', "broken quoting"),
        (b"happ\xff,b\n", "byte 0xff"),
    ],
)
def test_broken_row_is_refused_with_its_number(module, tmp_path, cache, line, problem):
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\ni am sad,a\n"sun",b\n' + line + b"rain,a\n")
    message = refusal(module(file).prepare_data)
    assert "row 3 (line 4)" in message
    assert problem in message
    assert "Correct" in message
    assert leftovers(cache) == []


def test_label_zero_and_false_are_no_empty_labels(ready, tmp_path):
    for number, labels in enumerate(((0, 1), (False, True), (0.0, 1.0))):
        rows = labelled(*labels, *labels)
        made = ready(folder_of(tmp_path, "jsonl", name=f"texts{number}", train=rows, validation=rows))
        assert made.train_rows.labels.tolist() == [0, 1, 0, 1]


UNSEEN = [
    pytest.param(["joy", "sad"], "fear", id="name"),
    pytest.param([1, 2, 3], 0, id="integer below"),
    pytest.param([1, 2, 3], 4, id="integer above"),
    pytest.param([0, 5, 9], 2, id="integer between"),
    pytest.param([-1, 0, 1], 2, id="integer beside negative ones"),
]


@pytest.mark.parametrize(("known", "unseen"), UNSEEN)
def test_label_seen_only_in_validation_is_refused(module, tmp_path, cache, known, unseen):
    train, validation = labelled(*known * 2), labelled(*known, unseen)
    folder = folder_of(tmp_path, "jsonl", train=train, validation=validation)
    message = refusal(module(folder).prepare_data)
    assert f"row {len(known) + 1}" in message
    assert "of split validation" in message
    assert f"'{unseen}'" in message
    assert ", ".join(map(str, known)) in message
    assert "--data.label_names" in message
    assert len(tokens(cache)) == len(leftovers(cache)) == 1  # that of train


@pytest.mark.parametrize(("known", "unseen"), UNSEEN)
def test_label_seen_only_in_test_is_refused(ready, module, tmp_path, cache, known, unseen):
    splits = {"train": labelled(*known * 2), "validation": labelled(*known), "test": labelled(*known, unseen)}
    trained = ready(folder_of(tmp_path, "jsonl", **splits))
    made = module(**trained.state_dict()["hyper_parameters"])  # as from a checkpoint
    before = leftovers(cache)
    message = refusal(made.setup, "test")
    assert f"row {len(known) + 1}" in message
    assert "of split test" in message
    assert f"'{unseen}'" in message
    assert ", ".join(map(str, known)) in message
    assert leftovers(cache) == before


@pytest.mark.parametrize("length", [-1, 0, 2, 129, 100_000])
def test_max_length_that_the_weights_cannot_take_is_refused(module, corpus, cache, tiny_bert, length):
    message = refusal(module(corpus, max_length=length).prepare_data)
    assert f"max_length is {length};" in message
    assert "3 to 128" in message
    assert str(tiny_bert) in message
    assert leftovers(cache) == []


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "train_rows", "val_rows"])
@pytest.mark.parametrize("value", [0, -5])
def test_sizes_below_one_are_refused(module, corpus, name, value):
    message = refusal(lambda: module(corpus, **{name: value}))
    assert f"{name} is {value};" in message
    assert "at least 1" in message


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_val_fraction_is_a_share(module, corpus, value):
    message = refusal(lambda: module(corpus, val_fraction=value))
    assert f"val_fraction is {value};" in message
    assert "between 0 and 1" in message


@pytest.mark.parametrize(("names", "part"), [(["joy"], "two"), (["joy", "sadness", "joy"], "joy")])
def test_label_names_that_are_no_choice_are_refused(module, corpus, cache, names, part):
    message = refusal(module(corpus, label_names=names).prepare_data)
    assert part in message
    assert leftovers(cache) == []


def test_missing_dataset_is_refused(module, tmp_path):
    message = refusal(module(tmp_path / "gone.csv").prepare_data)
    assert str(tmp_path / "gone.csv") in message


# --- what a checkpoint keeps -------------------------------------------------------------------------------


def test_state_is_plain_values_and_finds_the_same_rows_again(
    ready, corpus, weights, tmp_path, monkeypatch, calls
):
    shutil.copytree(corpus, "texts")
    made = ready("texts", train_rows=9, label_names=["sadness", "joy", "anger"], max_length=9)
    made.setup("test")
    torch.save(made.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state == made.state_dict()
    assert state["label_names"] == ["sadness", "joy", "anger"]
    assert state["source"] == asdict(Source("folder", str(Path("texts").resolve())))
    assert state["tokenizer"] == weights.tokenizer_files
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    calls.clear()
    again = EmotionDataModule(**state["hyper_parameters"], weights=weights)
    again.setup("fit")
    again.setup("test")
    assert calls == [1]  # to find where the special tokens of a long text stand
    for split in ("train_rows", "val_rows", "test_rows"):
        assert getattr(again, split).rows.tolist() == getattr(made, split).rows.tolist()
    assert again.label_names == ["sadness", "joy", "anger"]


def test_state_holds_the_label_names_found_in_the_data(ready, module, corpus, tmp_path):
    state = ready(corpus).state_dict()
    assert state["hyper_parameters"]["label_names"] == ["anger", "joy", "sadness"]
    other = folder_of(tmp_path, test=labelled("sadness", "joy", "sadness"))
    made = module(**{**state["hyper_parameters"], "dataset": str(other)})
    made.setup("test")  # no training split here, and fewer classes: the names come from the state
    assert sorted(made.test_rows.labels.tolist()) == [1, 2, 2]


def test_resumed_module_remembers_what_its_text_stands_in_for(module, weights, corpus):
    first = EmotionDataModule(dataset="nobody/nothing", stand_in="sample", weights=weights)
    assert first.source.stand_in_for == "nobody/nothing"
    state = first.state_dict()
    resumed = module(**state["hyper_parameters"])
    assert resumed.source.stand_in_for is None
    resumed.load_state_dict(state)
    assert resumed.source == first.source
    other = module(corpus)
    other.load_state_dict(state)
    assert other.source == Source("folder", str(corpus.resolve()))


def test_a_validation_split_asked_for_by_name_is_not_carved(corpus, tiny_bert):
    module = EmotionDataModule(str(corpus), val_split="valdiation", weights=Weights(str(tiny_bert)))
    with pytest.raises(UserError, match=r"no split 'valdiation'.*test, train, validation.*--data\.val_split"):
        module.prepare_data()
