"""The models of one server: exported folders under names, of which as many are in memory as may be.

One folder is opened at the start and stays. Of several, each is opened once at the start, so that one that is
damaged is refused there and its memory is known, and then when a request comes for it. Where the limit is
reached, the model that was used least recently is closed.

    python -m lit_bert serve --models mood=runs/a/exported topic=runs/b/exported --memory_limit_mb 500
"""

from __future__ import annotations

import gc
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_bert import UserError, require_package
from lit_bert.io import escape
from lit_bert.product.folder import EXPORTED, facts, verify
from lit_bert.product.predictor import Predictor, give_back_memory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # a part of a path that needs no escapes
MB = 1_000_000


class Model:
    """One exported folder: what it says of itself, which is kept while its predictor is not.

    Args:
        name: under which it is served.
        predictor: of the folder, opened.
        sums: SHA-256 of the folder's files, by their names.
        memory: bytes that it takes while it is open.
    """

    def __init__(self, name: str, predictor: Predictor, sums: dict[str, str], memory: int) -> None:
        self.name, self.sums, self.memory = name, sums, memory
        self.folder, self.file = predictor.folder, predictor.file
        self.labels, self.task, self.form = predictor.labels, predictor.task, predictor.form
        self.max_length, self.truncation_side = predictor.max_length, predictor.truncation_side
        self.long_texts = predictor.long_texts
        self.scores: dict[str, Any] = facts(self.folder).get("scores", {})


def name_of(folder: Path) -> str:
    """The name of the run, as the folder itself is mostly named exported."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == EXPORTED and folder.parent.name else folder.name


class Models:
    """Models by their names.

    Args:
        several: whether they are opened when a request comes; else there is one, which stays open.
        limit: bytes that open models may take together; None is no limit.
    """

    def __init__(self, several: bool, limit: int | None = None) -> None:
        self.several, self.limit = several, limit
        self.on_load: Callable[[], None] = lambda: (
            None
        )  # called each time that a model was opened for a request
        self.by_name: dict[str, Model] = {}
        self._open: OrderedDict[str, Predictor] = OrderedDict()  # the least recently used first
        self._table = threading.Lock()  # of `_open`
        self._loading = threading.Lock()  # held while a model is opened, so that each is opened once

    def add(self, name: str, folder: Path, file: str | None) -> None:
        """Adds a folder, after its checksums were compared and it was opened.

        Args:
            name: under which it is served.
            folder: that was exported.
            file: the ONNX file of it; None takes the fastest.

        Raises:
            UserError: it is damaged, cannot be used, or takes more memory than there may be.
        """
        sums = verify(folder)
        require_package("onnxruntime", "serve")
        for library in ("onnxruntime", "tokenizers"):  # whose memory is no model's
            import_module(library)
        before = resident_bytes()
        predictor = Predictor(folder, file, threads=1)
        memory = max(resident_bytes() - before, (folder / predictor.file).stat().st_size)
        if self.limit is not None and memory > self.limit:
            raise UserError(
                f"{folder} takes {memory / MB:.0f} MB and --memory_limit_mb allows {self.limit / MB:.0f}; "
                "allow more, or leave it out."
            )
        self.by_name[name] = Model(name, predictor, sums, memory)
        if self.several:
            del predictor
            _collect()
        else:
            self._open[name] = predictor

    def predictor(self, model: Model) -> Predictor:
        """The predictor of a model, opened if it is not; called from several threads at a time.

        Raises:
            UserError: the folder is no longer as it was.
        """
        found = self._look_up(model.name)
        if found is None:
            with self._loading:
                found = self._look_up(model.name)  # another thread may have opened it meanwhile
                if found is None:
                    self._make_room(model.memory)
                    if verify(model.folder) != model.sums:
                        raise UserError(
                            f"{model.folder} has changed since the server started. Start it anew."
                        )
                    found = Predictor(model.folder, model.file, threads=1)
                    with self._table:
                        self._open[model.name] = found
                    self.on_load()
        return found

    def open_bytes(self) -> int:
        """What the open models take, by what each took at the start."""
        with self._table:
            return sum(self.by_name[name].memory for name in self._open)

    def is_open(self, name: str) -> bool:
        """Whether a model is in memory."""
        return name in self._open

    def _look_up(self, name: str) -> Predictor | None:
        with self._table:
            if name in self._open:
                self._open.move_to_end(name)
            return self._open.get(name)

    def _make_room(self, memory: int) -> None:
        """Closes models until one of so many bytes fits; a batch that is being computed keeps its own."""
        if self.limit is None:
            return
        closed = False
        while self._open and self.open_bytes() + memory > self.limit:
            with self._table:
                self._open.popitem(last=False)
            closed = True
        if closed:
            _collect()


def parse_name(value: str) -> tuple[str, Path]:
    """Name and folder of `NAME=FOLDER`.

    Raises:
        UserError: it is another text.
    """
    name, sign, folder = value.partition("=")
    if not sign or not folder:
        raise UserError(f"got --models {escape.line(value, 100)}; expected NAME=FOLDER.")
    return check_name(name), Path(folder)


def check_name(name: str) -> str:
    """The name.

    Raises:
        UserError: it cannot stand in the path of a request as it is.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"a model cannot be served as '{escape.line(name, 80)}'; expected up to 64 letters, digits, "
            "dots, _ and - of ASCII. Name it with --models NAME=FOLDER."
        )
    return name


def _collect() -> None:
    gc.collect()
    give_back_memory()


def resident_bytes() -> int:
    """Memory of this process, where the system tells (Linux); else 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
