"""The entry point: one verb is run, and a person sees what is wrong.

    python -m lit_bert --help

Nothing heavy is imported here, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import os
import sys
import time
from importlib import import_module

from lit_bert import COMMAND, UserError, __version__
from lit_bert.verbs.table import VERBS

HELP = """usage: python -m lit_bert VERB [OPTIONS]

BERT text classification: labelled text in, a classifier with an honest score out.

{verbs}

  python -m lit_bert fit                             train on the emotion tweets
  python -m lit_bert fit --data.dataset reviews.csv  train on your own text (columns text and label)
  python -m lit_bert test                            score the best checkpoint of the newest fit
  python -m lit_bert predict "what a day" "oh no"    label texts with it
  python -m lit_bert export                          make a folder of it that other programs load
  python -m lit_bert serve                           the newest exported folder at http://127.0.0.1:8000
  tensorboard --logdir checkpoints                   look at the runs

`python -m lit_bert VERB --help` shows every option and its default."""


def help_text() -> str:
    """The page that `--help` prints."""
    return HELP.format(verbs="\n".join(f"  {name:10} {verb.help}" for name, verb in VERBS.items()))


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        The exit code: 0 done; 1 predict gave rows without a text an empty answer; 2 nothing was done, and one
        line on standard error says why.
    """
    arguments, COMMAND["started"] = sys.argv[1:] if argv is None else argv, time.monotonic()
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("--help", "-h", "--version"):
            print(__version__ if name == "--version" else help_text(), flush=True)
            return 0
        return _run(name, arguments[1:])
    except BrokenPipeError:  # the reader of standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        COMMAND["started"] = None


def _run(name: str, arguments: list[str]) -> int:
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return _say("", f"there is no verb '{name}'; {hint}Expected one of {', '.join(VERBS)}.")
    verb = VERBS[name]
    retain_freed_memory()
    try:
        return getattr(import_module(f"lit_bert.verbs.{verb.module}"), verb.function)(arguments)
    except UserError as error:
        return _say(name, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EROFS,
            errno.EACCES,
            errno.ENOTDIR,
        ):
            raise
        place = error.filename or "its results"
        return _say(name, f"cannot write {place}: {error.strerror}. Make room, or choose another folder.")


def retain_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step, in large pages, where it and the kernel can.

    Otherwise each step's tensors come as fresh pages, which the kernel has to find and clear one by one.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it is imported
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def _say(verb: str, message: str) -> int:
    print(f"lit_bert{' ' * bool(verb)}{verb}: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
