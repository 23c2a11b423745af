"""What the frozen encoder makes of each text of a pool, computed once and kept in the cache.

A text takes 4 bytes for each of the encoder's values, on disk: 154 MB for 100,000 texts of MiniLM, which are
mapped into memory and not held there.

    python -m lit_bert label reviews.csv
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from lit_bert.data.cache import cache_key, cache_root, write_to_cache
from lit_bert.data.padding import padded_inputs
from lit_bert.encoders.table import encoder_of
from lit_bert.labelling.pool import texts_sha256
from lit_bert.model.pretrained import load_network
from lit_bert.sources.weights import Weights

log = logging.getLogger(__name__)

AT_ONCE = 4096  # texts tokenized, and sorted by their length
BATCH = 64
SAY_FROM = 2000  # texts, from which the wait is worth a line


class Embedder:
    """An encoder that gives texts the mean of its last states, with length 1.

    Args:
        weights: of the encoder.
        max_length: tokens of a text that are read.
        precision: bf16-mixed or 32-true.
        device: of torch.
    """

    def __init__(self, weights: Weights, max_length: int, precision: str, device: str = "cpu") -> None:
        network = load_network(weights, ["0", "1"])
        self.base = network.get_submodule(encoder_of(network).base).eval().to(device)
        self.tokenizer = weights.tokenizer(max_length)
        self.pad_token_id, self.device, self.precision = weights.pad_token_id, device, precision
        digest = hashlib.sha256()
        for value in self.base.state_dict().values():
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        self.key = (digest.hexdigest(), max_length, precision)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, F)."""
        encodings = [each.ids for each in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(texts)), key=lambda place: len(encodings[place]))
        found = [
            self._batch([encodings[each] for each in order[start : start + BATCH]])
            for start in range(0, len(order), BATCH)
        ]
        values = np.concatenate(found)
        values[order] = values.copy()
        return values

    def _batch(self, ids: list[list[int]]) -> np.ndarray:
        inputs = {
            name: torch.from_numpy(value).to(self.device)
            for name, value in padded_inputs(ids, self.pad_token_id).items()
        }
        kind = torch.device(self.device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16-mixed"),
        ):
            states = self.base(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1)
        return normalize(mean, dim=1).cpu().numpy()

    def cached(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (N, F), from the cache where these texts were there before."""
        name = cache_key(("embeddings", *self.key, texts_sha256(texts)))
        file = cache_root() / "embeddings" / f"{name}.npy"
        write_to_cache(file, lambda partial: self._write(texts, partial))
        return np.load(file, mmap_mode="r")

    def _write(self, texts: Sequence[str], path: Path) -> None:
        width = len(self(["."])[0])
        shape = (len(texts), width)
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(texts), AT_ONCE):
            if len(texts) > SAY_FROM:
                log.info(f"embeddings {start:,} of {len(texts):,} texts, once")
            some = texts[start : start + AT_ONCE]
            values[start : start + len(some)] = self(some)
        values.flush()
