"""What a process needs before its verb runs: logging, warnings, threads."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings

log = logging.getLogger("lit_bert")  # of the whole package: each module logs to one below it


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Keeps quiet of a full disk: TensorBoard's thread hands the error on, and the front door says it."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def prepare_process() -> None:
    """Keeps off the screen what a user can do nothing about, and says the rest on standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.warnoptions:
        warnings.filterwarnings(
            "ignore",
            module=r"(lightning|torch|torchmetrics|transformers|datasets|jsonargparse|multiprocess)\b",
        )
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    threading.excepthook = _thread_failed
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
    log.setLevel(logging.INFO if first else logging.ERROR)
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
