"""The tensors in a folder of weights: of one file or of several parts; test_sources.py has whole folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import stable_id
from safetensors.torch import save_file

from lit_bert import UserError
from lit_bert.sources.folder import read_values

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def folder_of(*parts: dict[str, torch.Tensor]) -> Path:
    """A folder with these tensors in as many files, which an index names."""
    place = Path("weights")
    place.mkdir()
    for name, tensors in zip(PARTS, parts, strict=False):
        save_file(tensors, place / name)
    names = {each: name for name, tensors in zip(PARTS, parts, strict=False) for each in tensors}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return place


def test_the_parts_of_a_folder_are_read_together() -> None:
    place = folder_of({"a": torch.tensor([1.0, 2.0])}, {"b": torch.tensor([3.0]).half()})
    found = read_values(place, expected=3)
    assert {name: value.tolist() for name, value in found.items()} == {"a": [1.0, 2.0], "b": [3.0]}


def test_one_file_comes_before_parts() -> None:
    place = folder_of({"a": torch.ones(2)}, {"b": torch.ones(1)})
    save_file({"c": torch.zeros(1)}, place / "model.safetensors")
    assert read_values(place, expected=1).keys() == {"c"}


def test_a_tensor_in_two_parts_is_refused() -> None:
    place = folder_of({"a": torch.ones(2)}, {"a": torch.zeros(2), "b": torch.ones(1)})
    index = {"weight_map": {"a": PARTS[0], "b": PARTS[1]}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="the weights in weights cannot be read: a is there twice"):
        read_values(place, expected=3)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn, torch.complex64])
def test_weights_that_are_stored_in_another_way_are_refused(dtype: torch.dtype) -> None:
    place = folder_of({"a": torch.ones(64).to(dtype)}, {"b": torch.ones(1)})
    with pytest.raises(UserError, match=rf"a is of type {dtype}; expected one of torch\.float16, "):
        read_values(place, expected=3)


def test_numbers_of_positions_are_no_weights_and_may_be_whole() -> None:
    place = folder_of({"embeddings.position_ids": torch.arange(4)}, {"b": torch.ones(1)})
    assert read_values(place, expected=1)["embeddings.position_ids"].tolist() == [0, 1, 2, 3]


def test_fewer_bytes_than_values_are_refused_before_they_are_read() -> None:
    place = folder_of({"a": torch.ones(2)}, {"b": torch.ones(1)})
    size = sum((place / name).stat().st_size for name in PARTS)
    assert len(read_values(place, expected=size)) == 2
    with pytest.raises(UserError, match=f"have {size:,} bytes, too few for the {size + 1:,} values"):
        read_values(place, expected=size + 1)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": [PARTS[0]]}, {"weight_map": {"a": 3}}], ids=stable_id
)
def test_an_index_that_names_no_files_is_refused(index: object) -> None:
    place = folder_of({"a": torch.ones(2)})
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names (no files|3; expected names such as model-00001-of-00002)"):
        read_values(place, expected=1)
