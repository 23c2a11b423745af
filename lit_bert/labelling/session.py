"""What one process that labels a pool does: gives texts out, keeps answers, fits a head to them.

python -m lit_bert label reviews.csv
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lit_bert.io import files
from lit_bert.labelling.choose import next_texts
from lit_bert.labelling.estimate import Estimate, Stopped, estimate, fitted, probabilities
from lit_bert.labelling.pool import Pool
from lit_bert.labelling.store import RANDOM, Lease, Store, stored_facts
from lit_bert.model.head import Head

RANDOM_EVERY = 5  # one text of so many is drawn at random, for an honest score
AT_ONCE = 50  # texts chosen at a time
POLL_S = 1.0
REFIT = 10  # new labels after which a head is fitted, or a tenth of them all


class Labelled(NamedTuple):
    """The texts with a label, in the order of their answers; those of the file come first.

    Attributes:
        labels: the class of each.
        is_scored: whether the sample drawn at random has it.
    """

    texts: np.ndarray
    labels: np.ndarray
    is_scored: np.ndarray


class Progress(NamedTuple):
    """How far a pool is.

    Attributes:
        left: texts that nobody has labelled or skipped.
        counts: labels of each class.
    """

    labelled: int
    skipped: int
    left: int
    counts: list[int]


class Session:
    """Gives texts of a pool out, and keeps what people say.

    Args:
        features: of the texts, float32 (N, F), of length 1.
        seed: of what is drawn at random: the same for everybody at one pool.
        chooses: whether texts are chosen by the classifier; else all are drawn at random.
    """

    def __init__(
        self,
        pool: Pool,
        classes: list[str],
        store: Store,
        features: np.ndarray,
        seed: int = 0,
        chooses: bool = True,
    ) -> None:
        self.pool, self.classes, self.store, self.features = pool, classes, store, features
        self.seed = seed
        self.random_every = RANDOM_EVERY if chooses else 1
        free = np.flatnonzero([label is None for label in pool.labels])
        self.drawn = np.random.default_rng(seed).permutation(free).tolist()
        self.estimate: Estimate | None = None
        self.head: Head | None = None
        self.queue: list[int] = []
        self._scored_at = -1  # labels
        self._wakes = threading.Event()
        self._stops = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)

    # --- texts and answers ---

    def lend(self, person: str) -> Lease | None:
        """The next text for a person; None where all have an answer or are with others."""
        return self.store.lend(person, self.queue, self.drawn, self.random_every)

    def answer(self, person: str, text: int, label: int | None) -> None:
        """Keeps the class of a text, by its place; None skips it.

        Raises:
            Taken: the text is not with the person.
        """
        self.store.answer(person, text, None if label is None else self.classes[label])

    def labelled(self) -> Labelled:
        """What is labelled so far; classes that somebody has added meanwhile are classes then."""
        self.classes = stored_facts(self.store.path).get("classes", self.classes)
        place = {name: index for index, name in enumerate(self.classes)}
        known = [(text, place[name], False) for text, name in enumerate(self.pool.labels) if name is not None]
        answers = self.store.answers()
        # The sample is all of the random order up to the last text that was drawn for it: a text of it that
        # was chosen before its turn came belongs to it, and to leave it out would leave the easy ones.
        asked = {answer.text for answer in answers if answer.share == RANDOM}
        last = max((turn for turn, text in enumerate(self.drawn) if text in asked), default=-1)
        sample = set(self.drawn[: last + 1])
        known += [(each.text, place[each.label], each.text in sample) for each in answers if each.label]
        columns = list(zip(*known, strict=True)) or [(), (), ()]
        kinds = (np.int64, np.int64, bool)
        return Labelled(*(np.array(each, dtype=kind) for each, kind in zip(columns, kinds, strict=True)))

    def progress(self) -> Progress:
        """How far the pool is."""
        found = self.labelled()
        skipped = sum(each.label is None for each in self.store.answers())
        counts = np.bincount(found.labels, minlength=len(self.classes)).tolist()
        left = len(self.pool.texts) - len(found.texts) - skipped
        return Progress(len(found.texts), skipped, left, counts)

    # --- the classifier ---

    def start(self) -> None:
        """Chooses the first texts; then has a thread that fits a head whenever there are new labels."""
        self.choose(self.labelled())
        self._worker.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stops.set()
        self._wakes.set()
        if self._worker.is_alive():
            self._worker.join()

    def wake(self) -> None:
        """Says that there is a new answer."""
        self._wakes.set()

    def _work(self) -> None:
        while not self._stops.is_set():
            found = self.labelled()
            if self._is_due(len(found.texts)):
                self.choose(found)
                self.score(found)
            else:
                self._wakes.wait(POLL_S)  # others label, too
                self._wakes.clear()

    def _is_due(self, count: int) -> bool:
        new = abs(count - self._scored_at)
        return count >= REFIT and (self._scored_at < 0 or new >= max(REFIT, count // 10))

    def choose(self, found: Labelled) -> None:
        """Fits a head to the labels, and chooses the next texts by it."""
        generator = np.random.default_rng((self.seed, len(found.texts)))
        answers = self.store.answers()
        # What was drawn at random changes nothing here: fewer texts near it would be chosen then, and it
        # would be scored as worse than a new text is.
        drawn = [each.text for each in answers if each.share == RANDOM]
        own = ~np.isin(found.texts, drawn)
        chosen, labels = found.texts[own], found.labels[own]
        self.head = fitted(self.features[chosen], labels, len(self.classes))
        outputs = None if self.head is None else probabilities(self.head, self.features)
        free = np.array(sorted(set(self.drawn) - {each.text for each in answers}), dtype=np.int64)
        self.queue = next_texts(self.features, outputs, chosen, free, AT_ONCE, generator).tolist()

    def score(self, found: Labelled) -> None:
        """Estimates how good the head is."""
        self._scored_at = len(found.texts)
        features = np.asarray(self.features[found.texts])
        classes, stops = len(self.classes), self._stops.is_set
        with contextlib.suppress(Stopped):
            self.estimate = estimate(features, found.labels, found.is_scored, classes, self.seed, stops)

    # --- what `fit` takes ---

    def write(self, path: Path) -> int:
        """Writes the labelled texts as JSON Lines, and gives their number."""
        found = self.labelled()
        lines = [
            json.dumps(
                {
                    "text": self.pool.texts[text],
                    "label": self.classes[label],
                    "row": self.pool.rows[text],
                    "drawn_at_random": bool(drawn),
                },
                ensure_ascii=False,
            )
            for text, label, drawn in zip(*(each.tolist() for each in found), strict=True)
        ]
        files.write_text(path, "".join(f"{each}\n" for each in lines))
        return len(lines)
