"""What the report shows beside the scores where it is there: an old model compared, and new texts compared.

python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv && python -m lit_bert report
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.evaluate.drift import TITLES
from lit_bert.evaluate.drift_text import FOUND
from lit_bert.evaluate.update import MOST_SHOWN, UPDATE, verdicts
from lit_bert.io import escape, untrusted
from lit_bert.task.guarantee import percent

log = logging.getLogger(__name__)


def changes(folder: Path, sha256: Any) -> dict[str, Any]:
    """The values of the template for `update` and `drift`, None where there is none of this checkpoint.

    A file of another checkpoint is left out with a line, as is one that is damaged.

    Args:
        folder: with the predictions that the page is of.
        sha256: of their checkpoint.
    """
    return {
        "update": _read(folder / UPDATE, sha256, _update, "it cannot be made again without `fit --from`"),
        "drift": _read(folder / FOUND, sha256, _drift, "run `drift` again"),
    }


def _read(
    path: Path, sha256: Any, form: Callable[[dict[str, Any]], dict[str, Any]], remedy: str
) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        said = untrusted.read_object(path)
        if sha256 is None or said.get("checkpoint") != sha256:
            raise UserError(f"{escape.line(path)} is not of the checkpoint that was scored")
        return form(said)
    except UserError as error:
        why = str(error).rstrip(".")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = f"{escape.line(path)} is damaged ({escape.line(error, 100)})"
    log.info(f"left out: {why}; {remedy}")
    return None


def _update(said: dict[str, Any]) -> dict[str, Any]:
    """A comparison of `evaluate.update`."""
    parts = []
    for part in said["parts"]:
        names = escape.names([str(name) for name, *_ in part["scores"]], MOST_SHOWN)
        rows = [
            [name, f"{old:.3f}", f"{new:.3f}", f"{change:+.3f}", f"{low:+.3f} to {high:+.3f}"]
            for name, (_, old, new, change, low, high) in zip(names, part["scores"], strict=True)
        ]
        shown = {"title": _capital(part["title"]), "rows": int(part["rows"]), "table": rows}
        parts.append({**shown, "verdicts": " ".join(f"{_capital(each)}." for each in verdicts(part))})
    notes = [f"{_capital(note)}." for note in said["notes"]]
    return {"old": escape.line(said["old"]), "parts": parts, "notes": notes}


def _capital(said: str) -> str:
    return escape.line(f"{said[:1].upper()}{said[1:]}", 500)


def _drift(said: dict[str, Any]) -> dict[str, Any]:
    """What `drift` found last."""
    rate = float(said["rate"])
    findings = [
        [
            TITLES[each["name"]],
            "moved" if each["p_value"] <= rate else "same",
            escape.line(each["effect"], 300),
            f"{each['distance']:.2f}",
            f"{each['p_value']:.2g}",
        ]
        for each in said["findings"]
    ]
    return {
        "files": ", ".join(escape.line(each, 200) for each in said["files"]),
        "texts": int(said["texts"]),
        "rows": int(said["rows"]),
        "rate": percent(rate),
        "found": bool(said["drift"]),
        "findings": findings,
        "promises": [f"{_capital(each)}." for each in said["promises"]],
    }
