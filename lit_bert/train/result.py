"""How a run comes on and how it ended, as files: for the process that started it, and for anybody else.

`events.jsonl` has a line for each message and each validation, `result.json` the end: done, with checkpoint
and scores; refused, with the message for the user; failed. Nobody has to read what a run prints.

    python -m lit_bert fit --config configs/debug.yaml --result results
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from lit_bert import UserError
from lit_bert.io import files, untrusted
from lit_bert.io.escape import line
from lit_bert.io.ranks import is_first_process
from lit_bert.sources.schema import Count, Plain, Text, checked

RESULT, EVENTS = "result.json", "events.jsonl"
MAX_TEXT = 100_000  # characters of a message


class Message(Plain):
    """Something that a run says on standard error, without the end of its line."""

    event: Literal["message"] = "message"
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class Validation(Plain):
    """The scores of one validation by their names in the log, None where they are not finite."""

    event: Literal["validation"] = "validation"
    epoch: Count  # from 1
    step: Count
    scores: dict[Text, float | None]
    rows: Count
    chooses_epoch: bool

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}, step {self.step}: "
            + ", ".join(f"{name} {float('nan') if x is None else x:.4f}" for name, x in self.scores.items())
            + f" on {self.rows:,} row{'s' * (self.rows != 1)}"
            + ", which choose the epoch" * self.chooses_epoch
        )


_EVENT: TypeAdapter[Message | Validation] = TypeAdapter(
    Annotated[Message | Validation, Field(discriminator="event")]
)


class RunResult(Plain):
    """How a run ended.

    Attributes:
        message: why nothing was done, or with what error it ended; empty after a run that is done.
        checkpoint: the best one; None where none was kept.
        scores: of the validation rows, such as `macro_f1`; empty where there are none.
        main: the name and the value of the one that chooses between models.
        minutes: of the training.
    """

    status: Literal["done", "refused", "failed"]
    message: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    checkpoint: Text | None = None
    scores: dict[Text, float] = Field(default_factory=dict)
    main: Annotated[tuple[Text, float], Field(strict=False)] | None = None  # a list in JSON
    steps: Count = 0
    minutes: float = 0.0

    def __str__(self) -> str:
        shown = f", {self.main[0]} {self.main[1]:.4f}" if self.main else ""
        return f"took {self.minutes:.1f} minutes for {self.steps:,} optimizer steps{shown}"

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """What the run of a folder came to; None where it wrote no result.

        Raises:
            UserError: the file is damaged.
        """
        file = folder / RESULT
        return checked(cls, untrusted.read_object(file), str(file)) if file.is_file() else None


# --- written by the run ---


class EventFile(logging.Handler):
    """Appends events to a folder's `events.jsonl`, each as a line that is whole; log records are messages."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._stream = (folder / EVENTS).open("a", encoding="utf-8")

    def write(self, event: Message | Validation) -> None:
        self.acquire()  # other threads log, too
        try:
            self._stream.write(event.model_dump_json() + "\n")
            self._stream.flush()
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        self.write(Message(text=storable(record.getMessage())))

    def close(self) -> None:
        self._stream.close()
        super().close()


def fit_with_result(folder: Path, fit: Callable[[EventFile | None], RunResult | None]) -> None:
    """Runs a fit that writes its events and its end into a folder; errors are raised again.

    Args:
        fit: gives None on other devices than the first, which write nothing.
    """
    if not is_first_process():
        fit(None)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RESULT, EVENTS):  # of an earlier run
            (folder / name).unlink(missing_ok=True)
        events = EventFile(folder)
    except OSError as error:
        raise UserError(f"--result {folder}: {error.strerror}; expected a folder to write into.") from None
    logger = logging.getLogger("lit_bert")
    logger.addHandler(events)
    try:
        result = fit(events)
    except UserError as error:
        _write_end(folder, "refused", str(error))
        raise
    except Exception as error:
        _write_end(folder, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        logger.removeHandler(events)
        events.close()
    if result is not None:
        files.write_text(folder / RESULT, result.model_dump_json(indent=2) + "\n")


def _write_end(folder: Path, status: Literal["refused", "failed"], message: str) -> None:
    result = RunResult(status=status, message=storable(message))
    with contextlib.suppress(OSError):  # the error that ended the run is the one to show
        files.write_text(folder / RESULT, result.model_dump_json(indent=2) + "\n")


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: a file's name may have bytes that are none, which Python keeps."""
    return text.encode("utf-8", "backslashreplace").decode()[:MAX_TEXT]


# --- read by the process that started it ---


class EventReader:
    """Reads the events of a run while it writes them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / EVENTS
        self._offset = 0

    def new_events(self) -> Iterator[Message | Validation]:
        """Those since the last call; a line that is not whole yet comes with the next one.

        Raises:
            UserError: a line is no event.
        """
        if not self._file.is_file():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._offset)
            found = stream.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._offset += len(whole)
        for each in whole.splitlines():
            try:
                yield _EVENT.validate_python(json.loads(each))
            except ValueError:
                raise UserError(
                    f"{line(self._file)} has a line that is no event; expected those of a run."
                ) from None
