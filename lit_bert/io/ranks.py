"""Which process of a run this is."""

from __future__ import annotations

import os

RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")  # where Lightning, torchrun and SLURM say it


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
