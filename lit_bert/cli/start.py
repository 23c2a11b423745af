"""What a process needs before its verb runs: logging, warnings, threads."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings

from lit_bert.io.ranks import is_first_process

log = logging.getLogger("lit_bert")  # of the whole package: each module logs to one below it


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Suppresses the traceback of an OSError, such as a full disk's: `__main__` reports it."""
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
    log.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
