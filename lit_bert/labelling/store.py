"""The answers of people, in one SQLite file: each is on disk before the next text is shown.

A row is lent to one person at a time, so two never get the same one, and a lease that is not answered ends.
The file of the pool is never written.

    python -m lit_bert label reviews.csv
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.io.escape import line

FORMAT = 1
LEASE_S = 900.0  # for which a row that is shown is nobody else's
WAIT_S = 60.0  # for another process that writes
CHOSEN, RANDOM = "chosen", "random"
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE answers (id INTEGER PRIMARY KEY, text INTEGER NOT NULL, label TEXT, share TEXT NOT NULL,
    person TEXT NOT NULL, at REAL NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX one_answer ON answers (text) WHERE undone = 0;
CREATE TABLE leases (text INTEGER PRIMARY KEY, share TEXT NOT NULL, person TEXT NOT NULL UNIQUE,
    until REAL NOT NULL);
"""


class Taken(Exception):
    """The row that is answered is not lent to who answers."""


class Lease(NamedTuple):
    """A text that is lent to a person; `share` says whether it was drawn at random."""

    text: int
    share: str


class Answer(NamedTuple):
    """What a person said of a text; label None: nothing, it was skipped."""

    text: int
    label: str | None
    share: str


class Store:
    """The answers for one pool.

    Args:
        path: of the SQLite file, made where there is none.
        facts: what it is for; it has to hold the same, but for further `classes` behind those it has.
        clock: seconds, by which leases end.
    """

    def __init__(self, path: Path, facts: dict[str, Any], clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = path, clock
        wanted = {"format": FORMAT, **facts}
        with self._writing() as db:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                rows = [(name, json.dumps(value)) for name, value in wanted.items()]
                db.executemany("INSERT INTO facts VALUES (?, ?)", rows)
        found = stored_facts(path)
        for name, value in wanted.items():
            if name != "classes" and found.get(name) != value:
                raise UserError(
                    f"{line(path)} has answers for another pool ({name} differs: the file changed, or is "
                    "read in another way). Give the same one, or name another file with --labels."
                )
        if found.get("classes") != wanted.get("classes"):
            self._change_classes(wanted["classes"])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process writes beside; on disk when it ends."""
        with _connected(self.path) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _change_classes(self, names: list[str]) -> None:
        """Puts further classes behind those that there are; others in their place while nobody has answered.

        Raises:
            UserError: they are others, and have answers or are shown to somebody.
        """
        with self._writing() as db:
            (said,) = db.execute("SELECT value FROM facts WHERE name = 'classes'").fetchone()
            before = json.loads(said)
            used = (
                "SELECT 1 FROM answers WHERE undone = 0 AND label IS NOT NULL UNION "
                "SELECT 1 FROM leases WHERE until >= ?"
            )
            if names[: len(before)] != before and db.execute(used, (self.clock(),)).fetchone():
                raise UserError(
                    f"{line(self.path)} is for the classes {line(', '.join(before), 200)}. Give these in "
                    "this order, with new ones behind, or name another file with --labels."
                )
            db.execute("UPDATE facts SET value = ? WHERE name = 'classes'", (json.dumps(names),))

    def lend(
        self, person: str, chosen: Iterable[int], drawn: Iterable[int], random_every: int
    ) -> Lease | None:
        """The text that a person has, or is lent now: the first that is free; None where none is.

        Args:
            chosen: texts in the order in which they are wanted.
            drawn: all texts in their random order, for one of `random_every`, and when no chosen one is free.
        """
        now = self.clock()
        with self._writing() as db:
            db.execute("DELETE FROM leases WHERE until < ?", (now,))
            own = db.execute("SELECT text, share FROM leases WHERE person = ?", (person,)).fetchone()
            if own:
                db.execute("UPDATE leases SET until = ? WHERE person = ?", (now + LEASE_S, person))
                return Lease(*own)
            query = "SELECT text FROM answers WHERE undone = 0 UNION SELECT text FROM leases"
            taken = {text for (text,) in db.execute(query)}
            ways = [(CHOSEN, chosen), (RANDOM, drawn)]
            for share, texts in ways[::-1] if len(taken) % random_every == 0 else ways:
                text = next((each for each in texts if each not in taken), None)
                if text is not None:
                    db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (text, share, person, now + LEASE_S))
                    return Lease(text, share)
        return None

    def answer(self, person: str, text: int, label: str | None) -> None:
        """Keeps an answer.

        Raises:
            Taken: the text is not lent to the person: it has an answer, or the lease ended.
        """
        with self._writing() as db:
            query = "DELETE FROM leases WHERE text = ? AND person = ? RETURNING share"
            found = db.execute(query, (text, person)).fetchall()
            if not found:
                raise Taken
            row = (text, label, found[0][0], person, self.clock())
            db.execute("INSERT INTO answers (text, label, share, person, at) VALUES (?, ?, ?, ?, ?)", row)

    def undo(self, person: str) -> int | None:
        """Takes back a person's last answer, whose text is lent to them again; None where there is none."""
        with self._writing() as db:
            query = (
                "UPDATE answers SET undone = 1 WHERE id = (SELECT max(id) FROM answers WHERE person = ? AND "
                "undone = 0) RETURNING text, share"
            )
            found = db.execute(query, (person,)).fetchall()
            if not found:
                return None
            db.execute("DELETE FROM leases WHERE person = ?", (person,))
            db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (*found[0], person, self.clock() + LEASE_S))
            return found[0][0]

    def release(self, person: str) -> None:
        """Ends the lease of a person who goes."""
        with self._writing() as db:
            db.execute("DELETE FROM leases WHERE person = ?", (person,))

    def answers(self) -> list[Answer]:
        """Those that hold, in their order."""
        with _connected(self.path) as db:
            query = "SELECT text, label, share FROM answers WHERE undone = 0 ORDER BY id"
            return [Answer(*row) for row in db.execute(query)]


def stored_facts(path: Path) -> dict[str, Any]:
    """What a file of answers is for.

    Raises:
        UserError: it is none.
    """
    with _connected(path) as db:
        rows = dict(db.execute("SELECT name, value FROM facts"))
    try:
        found = {name: json.loads(value) for name, value in rows.items()}
    except (TypeError, ValueError, RecursionError):
        found = {}
    classes = found.get("classes", [])
    if "format" not in found or not (isinstance(classes, list) and all(type(n) is str for n in classes)):
        raise UserError(f"{line(path)} is damaged; name another file with --labels.")
    return found


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as db:
            yield db
    except sqlite3.Error as error:
        raise UserError(
            f"cannot keep answers in {line(path)}: {line(error, 200)}. Name another file with --labels."
        ) from None
