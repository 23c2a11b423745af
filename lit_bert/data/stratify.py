"""Rows dealt out to parts so that each part has its share of every label, and no group is split. numpy only.

One label a text and no groups: each class by itself (`split_off`, `assign_folds`). Else iterative
stratification (Sechidis et al., 2011, https://doi.org/10.1007/978-3-642-23808-6_10): the label that fewest
units are left of goes first, each unit to the part that wants most of that label. Where no part wants a whole
row of it, the one that lacks most of its share of all rows gets it, so that rare labels alone do not leave a
small part empty. A number counts as the tenth of all rows that it is in.
"""

from __future__ import annotations

import numpy as np

TENTHS = 10


def split_off(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
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


def indicators(labels: np.ndarray) -> np.ndarray:
    """Labels in the form of several, uint8 (N, K): of classes, of one class, or of tenths of numbers."""
    if labels.ndim == 2:
        return labels
    if np.issubdtype(labels.dtype, np.floating):
        ends = np.unique(np.quantile(labels, np.linspace(0, 1, TENTHS + 1)[1:-1]))
        labels = np.searchsorted(ends, labels, side="right")
    return (labels[:, None] == np.unique(labels)).astype(np.uint8)


def assign_parts(
    labels: np.ndarray, shares: np.ndarray, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """The part of each row, int64 (N,), 0 to P - 1.

    Args:
        labels: as the rows store them.
        shares: of the rows for each part, (P,), which sum to 1.
        seed: of what is left to chance.
        groups: of each row, (N,); rows of one group come into one part. None: each row for itself.
    """
    generator = np.random.default_rng(seed)
    has = indicators(labels)
    _, unit_of = np.unique(groups, return_inverse=True) if groups is not None else (None, np.arange(len(has)))
    U = int(unit_of.max()) + 1
    # Of each unit, its rows with each label; the last column is all of its rows.
    counts = np.zeros((U, has.shape[1] + 1))
    np.add.at(counts, unit_of, np.concatenate([has, np.ones((len(has), 1), np.uint8)], axis=1))
    wanted = shares[:, None] * counts.sum(0)  # (P, K + 1), that each part still wants
    left = counts[:, :-1].sum(0)
    found = np.full(U, -1, dtype=np.int64)
    shuffled = generator.permutation(U)
    while (found < 0).any():
        waiting = shuffled[found[shuffled] < 0]
        label = int(np.where(left > 0, left, np.inf).argmin()) if (left > 0).any() else has.shape[1]
        units = waiting[counts[waiting, label] > 0]
        for unit in units[np.argsort(-counts[units, -1], kind="stable")]:  # the largest first
            want = wanted[:, label]
            if want.max() < 1:
                want = wanted[:, -1] / shares
            best = np.flatnonzero(want >= want.max() - 1e-9)
            part = int(generator.choice(best)) if len(best) > 1 else int(best[0])
            found[unit] = part
            wanted[part] -= counts[unit]
            left -= counts[unit, :-1]
    for part in range(len(shares)):  # of very few rows, too, each part has some
        sizes = np.bincount(found, minlength=len(shares))
        if not sizes[part] and sizes.max() > 1:
            found[shuffled[found[shuffled] == sizes.argmax()][0]] = part
    return found[unit_of]
