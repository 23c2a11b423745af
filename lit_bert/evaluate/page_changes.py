"""What the report shows beside the scores where it is there: an old model compared, and new texts compared.

python -m lit_bert drift checkpoints/version_0/best.ckpt new.csv && python -m lit_bert report
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_bert import UserError
from lit_bert.evaluate.drift import TITLES
from lit_bert.evaluate.drift_text import FOUND
from lit_bert.evaluate.update import UPDATE, verdicts
from lit_bert.io import escape, untrusted
from lit_bert.task.guarantee import percent


def changes(folder: Path, sha256: Any) -> dict[str, Any]:
    """The values of the template for `update` and `drift`, None where there is none of this checkpoint.

    Args:
        folder: with the predictions that the page is of.
        sha256: of their checkpoint.

    Raises:
        UserError: a file is damaged.
    """
    return {
        "update": _read(folder / UPDATE, sha256, _update),
        "drift": _read(folder / FOUND, sha256, _drift),
    }


def _read(path: Path, sha256: Any, form: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    said = untrusted.read_object(path)
    if said.get("checkpoint") != sha256:
        return None
    try:
        return form(said)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{escape.line(path)} is damaged ({escape.line(error, 100)}); remove it, and compare again."
        ) from None


def _update(said: dict[str, Any]) -> dict[str, Any]:
    """A comparison of `evaluate.update`."""
    parts = []
    for part in said["parts"]:
        names = escape.names([str(name) for name, *_ in part["scores"]])
        rows = [
            [name, f"{old:.3f}", f"{new:.3f}", f"{change:+.3f}", f"{low:+.3f} to {high:+.3f}"]
            for name, (_, old, new, change, low, high) in zip(names, part["scores"], strict=True)
        ]
        shown = {"title": str(part["title"]).capitalize(), "rows": int(part["rows"]), "table": rows}
        parts.append({**shown, "verdicts": verdicts(part)})
    notes = [f"{str(note)[:1].upper()}{str(note)[1:]}." for note in said["notes"]]
    return {"old": escape.line(said["old"]), "parts": parts, "notes": notes}


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
        "promises": [escape.line(each, 300) for each in said["promises"]],
    }
