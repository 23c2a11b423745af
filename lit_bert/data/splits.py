"""Which rows of a split are for training and which for validation."""

from __future__ import annotations

import numpy as np

from lit_bert.data.cache import TokenizedRows


def by_length(rows: TokenizedRows) -> TokenizedRows:
    """Longest first: like lengths share a batch, and the batch that needs most memory comes at once."""
    return rows.view(np.argsort(-rows.lengths, kind="stable"))


def carve(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and validation part, each in file order.

    Each class gives its share, rounded; a class of two rows or more gives and keeps at least one.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        of_class = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(of_class)), 1), len(of_class) - 1)
        chosen.append(of_class[:count])
    validation = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def assign_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, int64 (N,), 0 to `folds` - 1.

    Each class is shuffled and dealt out, and the next class goes on where the last one ended: the folds' rows
    of a class, and their rows altogether, differ by one at most.
    """
    generator = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    dealt = np.concatenate([generator.permutation(rows) for rows in of_class])
    found = np.empty(len(labels), dtype=np.int64)
    found[dealt] = np.arange(len(labels)) % folds
    return found
