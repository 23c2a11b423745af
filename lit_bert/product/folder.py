"""An exported folder: the names of its files, its facts, its checksums, the newest one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from lit_bert import RUNS, UserError
from lit_bert.io import escape, files, untrusted

QUICK, EXACT = "model.int8.onnx", "model.onnx"  # the first that is there is taken
CARD, FACTS = "README.md", "lit_bert.json"  # the model card; what it says, for programs
FILES = {  # all that `export` writes; a card that lists another one is not followed
    *("config.json", "model.safetensors", QUICK, EXACT, FACTS),
    *("tokenizer.json", "tokenizer_config.json"),
}
MOST_FILE_BYTES = 16 << 30  # that are hashed


def facts(folder: str | Path) -> dict[str, Any]:
    """What `export` wrote down of a folder, plain values: labels, scores with intervals, sources, command.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        found = untrusted.read_object(Path(folder) / FACTS)
        if not isinstance(found.get("scores", {}), dict) or not isinstance(found.get("labels", []), list):
            raise UserError("scores are no object, or labels no list")
    except UserError as error:
        raise UserError(
            f"{folder} has no readable {FACTS} ({error}); `python -m lit_bert export` writes it."
        ) from None
    return found


def verify(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, compared with the model card.

    Raises:
        UserError: a file differs or is missing, the card lists none, not all, or one that no export has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected one that `python -m lit_bert export` wrote.")
    try:
        card = untrusted.read_text(folder / CARD)
    except UserError:
        card = ""
    lines = re.findall(r"^([0-9a-f]{64})  (.+)$", card, re.MULTILINE)
    listed = {name: digest for digest, name in lines}
    if not listed:
        raise UserError(f"{folder / CARD} lists no files; expected a folder that `export` wrote.")
    for name in listed:
        if name not in FILES or len(lines) > len(listed):
            raise UserError(
                f"{folder / CARD} lists {escape.line(name, 80)}, which is no file of an export, or one "
                "twice. Export again."
            )
    for name in sorted(FILES - listed.keys()):
        if (folder / name).exists():
            raise UserError(f"{folder / CARD} does not list {name}, which is there. Export again.")
    for name, digest in listed.items():
        try:
            with untrusted.open_regular(folder / name, MOST_FILE_BYTES) as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror}. Export again.") from None
        if found != digest:
            raise UserError(
                f"{folder / name} is not the file that its card describes: its SHA-256 is {found[:12]}…, "
                f"expected {digest[:12]}…. Export or download it again."
            )
    return listed


def newest(root: Path = RUNS) -> Path:
    """The exported folder of the newest run below `root`."""
    needed = ("config.json", "tokenizer.json")
    found = files.newest(
        root, f"exported/{EXACT}", where=lambda file: all(file.with_name(name).is_file() for name in needed)
    )
    if found is None:
        raise UserError(
            f"there is no exported folder below {root}/. Run `python -m lit_bert export`, or name a folder."
        )
    return found.parent
