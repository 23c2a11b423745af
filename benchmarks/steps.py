"""The clock that all trainers carry, the work that a step is worth, and what the machine could do at most.

python -m benchmarks.train --only peak lit_bert
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """The sizes of a BERT that decide what a token costs."""

    layers: int
    hidden: int
    intermediate: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """From the config.json of a folder."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])


def training_flops(shape: Shape, lengths: Iterable[int]) -> int:
    """Floating-point operations to train once on texts of `lengths` real tokens; padding is worth nothing.

    Three times the forward pass: twice the matrix parameters of the encoder layers for each token, and
    4 · hidden · T² a layer for the two attention products. Embeddings, pooler and head are left out.
    """
    matrices = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    return 3 * sum(2 * matrices * T + 4 * shape.hidden * shape.layers * T * T for T in map(int, lengths))


class StepClock:
    """Times training steps from the end of step `warmup` to the end of step `warmup + steps`.

    Args:
        warmup: steps not counted, at least 1.
        steps: steps counted.
    """

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        self.times: list[float] = []
        self.lengths: list[Any] = []  # real tokens of each text: int (B,) for each step

    def step(self, lengths: Any) -> None:
        """Called at the end of each step with the real tokens of each of its texts, a tensor (B,)."""
        if lengths.is_cuda and len(self.times) + 1 in (self.warmup, self.warmup + self.steps):
            import torch

            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.lengths.append(lengths)

    def figures(self, shape: Shape) -> dict[str, float]:
        """Samples, real tokens and useful floating-point operations a second."""
        last = self.warmup + self.steps
        if len(self.times) < last:
            raise SystemExit(f"the run ended after {len(self.times)} steps; expected {last}.")
        seconds = self.times[last - 1] - self.times[self.warmup - 1]
        lengths = [int(T) for batch in self.lengths[self.warmup : last] for T in batch]
        return {
            "seconds": seconds,
            "samples_per_s": len(lengths) / seconds,
            "tokens_per_s": sum(lengths) / seconds,
            "gflops_per_s": training_flops(shape, lengths) / seconds / 1e9,
        }


def peak_gflops(dtype: str, sizes: Iterable[int] = (512, 1024, 2048), repeats: int = 30) -> float:
    """Best rate of square matrix products over `sizes`, each the median of `repeats`, in GFLOP/s."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = []
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        seconds = []
        for _ in range(repeats + 3):  # the first three warm up
            start = time.perf_counter()
            left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        rates.append(2 * size**3 / statistics.median(seconds[3:]) / 1e9)
    return max(rates)
