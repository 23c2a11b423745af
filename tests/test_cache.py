"""The parts of the token cache, by hand; test_data.py has the cache as a data module uses it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from lit_bert import EmotionDataModule, UserError
from lit_bert.data import cache
from lit_bert.sources.weights import Weights


def test_the_folder_is_the_given_one_else_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("LIT_BERT_CACHE", "~/tokens")
    assert cache.cache_root() == Path("/home/anna/tokens")
    monkeypatch.delenv("LIT_BERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/anna")
    assert cache.cache_root() == Path("/var/anna/lit_bert")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.cache_root() == Path("/home/anna/.cache/lit_bert")


def test_items_come_in_pieces_of_a_size_and_are_not_read_ahead() -> None:
    assert list(cache.chunked("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(cache.chunked("abcd", 2)) == [["a", "b"], ["c", "d"]]
    assert list(cache.chunked("", 2)) == []
    items = iter(range(5))
    assert next(cache.chunked(items, 2)) == [0, 1]
    assert next(items) == 2


def test_a_key_changes_with_each_part_its_place_and_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.cache_key(("a", 1, None))
    assert first == cache.cache_key(("a", 1, None))
    others = [("a", 1), (1, "a", None), ("a", "1", None), ("b", 1, None), ("a", 1, False)]
    keys = {first, *map(cache.cache_key, others)}
    monkeypatch.setattr(cache, "CACHE_FORMAT", cache.CACHE_FORMAT + 1)
    assert len({*keys, cache.cache_key(("a", 1, None))}) == 7
    assert all(len(key) == 32 and key.isalnum() for key in keys)  # a name for a folder


def test_the_hash_of_a_text_is_eight_bytes_of_blake2b() -> None:
    wanted = hashlib.blake2b("Ünï".encode(), digest_size=8).hexdigest()
    assert cache.text_hash("Ünï").to_bytes(8, "little").hex() == wanted


def test_values_are_found_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    asked: list[int] = []

    def find() -> dict[str, list[str | None]]:
        asked.append(1)
        return {"ü": ["a", None]}

    for _ in range(2):
        assert cache.cached_json(tmp_path / "new" / "note.json", find) == {"ü": ["a", None]}
    assert asked == [1]
    assert (tmp_path / "new" / "note.json").is_file()


def test_values_that_could_not_be_found_are_looked_for_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no such split")

    with pytest.raises(UserError, match="no such split"):
        cache.cached_json(tmp_path / "note.json", fail)
    assert cache.cached_json(tmp_path / "note.json", lambda: 3) == 3


def test_views_of_rows_differ_by_what_they_show(corpus: Path, weights: Weights) -> None:
    data = EmotionDataModule(str(corpus), weights=weights)
    data.setup("fit")
    rows = data.splits.train_split()
    first, turned = rows.view(np.array([0, 1, 2])), rows.view(np.array([2, 1, 0]))
    assert first.fingerprint == rows.view(np.arange(5)).view(np.arange(3)).fingerprint
    assert len({rows.fingerprint, first.fingerprint, turned.fingerprint}) == 3
    texts = list(rows.all_texts())
    assert list(turned.all_texts()) == texts[2::-1]
    assert turned.indices_of_texts([texts[0], "nowhere", texts[0], texts[1]]).tolist() == [1, 2]
    assert turned.indices_of_texts([]).tolist() == []
