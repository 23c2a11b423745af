"""Labelling in a terminal: a text, one key for its class, the next text.

python -m lit_bert label reviews.csv --data.label_names refund,delivery,praise
printf '1\\n2\\n' | python -m lit_bert label reviews.csv    # a key a line where there is no terminal
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

from lit_bert.io.escape import names
from lit_bert.labelling.pool import KEYS
from lit_bert.labelling.session import Session
from lit_bert.labelling.show import curve_lines, nothing_left, shown_text, summary
from lit_bert.labelling.store import Taken

SKIP, UNDO, CURVE, FIT, QUIT = "-", ",", "=", "+", "."
COMMANDS = f"{SKIP} skip   {UNDO} undo   {CURVE} curve   {FIT} quit and fit   {QUIT} quit"
WIDTH = 100  # characters of a line of keys


def label_in_terminal(session: Session, person: str, keys: Callable[[], str], out: TextIO) -> bool:
    """Shows texts and keeps answers until the person quits or no text is left.

    Args:
        keys: the next key; "" at the end of the input.

    Returns:
        Whether the person wants a whole fit.
    """

    def say(text: str) -> None:
        print(text, file=out, flush=True)

    said, wants_fit = session.estimate, False
    try:
        while lease := session.lend(person):
            done, shown = session.progress(), names(session.classes)
            if session.estimate is not said:
                said = session.estimate
                say(f"\n{summary(said, done.labelled)}")
            known = [*KEYS[: len(shown)], SKIP, UNDO, CURVE, FIT, QUIT]
            legend = _legend([f"{key} {name}" for key, name in zip(KEYS, shown, strict=False)])
            say(f"\n── {done.labelled:,} labelled, {done.left:,} left " + "─" * 20)
            say(f"\n{shown_text(session.pool.texts[lease.text])}\n")
            say(f"{legend}\n{COMMANDS}")
            key = keys()
            while key and key not in known:
                say(f"that is no key here; expected one of {' '.join(known)}")
                key = keys()
            if key in ("", QUIT, FIT):
                wants_fit = key == FIT
                break
            if key == UNDO:
                say(
                    "taken back"
                    if session.store.undo(person) is not None
                    else "there is nothing to take back"
                )
            elif key == CURVE:
                found = session.estimate
                say("\n".join([summary(found, done.labelled), *(curve_lines(found) if found else [])]))
            else:
                try:
                    session.answer(person, lease.text, None if key == SKIP else KEYS.index(key))
                    say("skipped" if key == SKIP else f"→ {shown[KEYS.index(key)]}")
                except Taken:
                    say("this text went to somebody else meanwhile; your answer was not kept")
            session.wake()
        else:
            say(f"\n{nothing_left(session.progress().left)}")
    except KeyboardInterrupt:
        say("")
    finally:
        session.store.release(person)
    return wants_fit


def _legend(parts: list[str]) -> str:
    lines = [""]
    for part in parts:
        if len(lines[-1]) + len(part) > WIDTH:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "") + part
    return "\n".join(lines)


def key_source() -> Callable[[], str]:
    """What gives the next key: of a terminal as it is pressed, of anything else a line at a time."""
    if not sys.stdin.isatty():
        return _line_key
    import termios
    import tty

    descriptor = sys.stdin.fileno()

    def pressed() -> str:
        before = termios.tcgetattr(descriptor)
        try:
            tty.setcbreak(descriptor)  # Ctrl-C still interrupts
            found = os.read(descriptor, 32).decode(errors="replace")
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        # Ctrl-D ends; an arrow or a pasted text comes as several characters and is no key.
        return QUIT if found == "\x04" else found if len(found) == 1 else "" if not found else "\0"

    return pressed


def _line_key() -> str:
    found = sys.stdin.readline()
    return found.strip() or "\0" if found else ""
