"""An exported folder: the names of its files, its facts, its checksums, the newest one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from lit_bert import RUNS, UserError
from lit_bert.evaluate.drift import REFERENCE
from lit_bert.io import escape, files, untrusted
from lit_bert.product.formats import FORMATS, predictor_files

EXPORTED = "exported"  # the folder in that of the run, unless another is named
CARD, FACTS = "README.md", "lit_bert.json"  # the model card; what it says, for programs
CHECKSUMS = "SHA256SUMS"  # of the other files but the card, which may be edited, such as on the Hub
FILES = {  # all that `export` writes beside these two; a list that names another file is not followed
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", FACTS, REFERENCE),
    *(each.file for each in FORMATS),
}
MAX_FILE_BYTES = 16 << 30  # that are hashed


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


def write_checksums(folder: Path) -> None:
    """Writes the SHA-256 of every file but the card, in the form that `sha256sum --check` reads."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (CARD, CHECKSUMS))
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def verify(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, compared with the folder's list.

    Raises:
        UserError: a file differs or is missing, the list names none, not all, or one that no export has.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected one that `python -m lit_bert export` wrote.")
    list_file = folder / CHECKSUMS
    if list_file.exists():
        entries = _read_checksums(list_file)
    else:
        list_file = folder / CARD
        entries = _read_card_checksums(list_file)
        if not entries:
            raise UserError(
                f"{folder} has no {CHECKSUMS}; expected a folder that `export` wrote. One of transformers "
                f"becomes that by `python -m lit_bert export --ckpt_path {escape.line(folder)}`."
            )
    if not entries:
        raise UserError(f"{list_file} lists no files. Export again.")
    listed = {name: digest for digest, name in entries}
    for name in listed:
        if name not in FILES or len(entries) > len(listed):
            raise UserError(
                f"{list_file} lists {escape.line(name, 80)}, which is no file of an export, or one "
                "twice. Export again."
            )
    for name in sorted(FILES - listed.keys()):
        if (folder / name).exists():
            raise UserError(f"{list_file} does not list {name}, which is there. Export again.")
    for name, expected in listed.items():
        digest = _sha256(folder / name)
        if digest != expected:
            raise UserError(
                f"{folder / name} is not the file that {list_file.name} lists: its SHA-256 is "
                f"{digest[:12]}…, expected {expected[:12]}…. Export or download it again."
            )
    return listed


def _read_checksums(path: Path) -> list[tuple[str, str]]:
    """SHA-256 and name of each file that `write_checksums` listed."""
    lines = untrusted.read_text(path).splitlines()
    entries = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if None in entries:
        number = entries.index(None)
        raise UserError(
            f"{path} has the line {escape.line(lines[number], 80)}; expected a SHA-256 and the name of a "
            "file in each, as `export` writes it. Export or download it again."
        )
    return [(match[1], match[2]) for match in entries if match]


def _read_card_checksums(path: Path) -> list[tuple[str, str]]:
    """SHA-256 and name of each file that the model card lists, as `export` did before it wrote SHA256SUMS."""
    try:
        card = untrusted.read_text(path)
    except UserError:
        return []
    return re.findall(r"^([0-9a-f]{64})  (.+)$", card, re.MULTILINE)


def _sha256(path: Path) -> str:
    """The SHA-256 of an ordinary file of bounded size.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        with untrusted.open_regular(path, MAX_FILE_BYTES) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Export again.") from None


def newest(root: Path = RUNS) -> Path:
    """The exported folder of the newest run below `root`."""

    def has_all(facts_file: Path) -> bool:
        found = {path.name for path in facts_file.parent.iterdir() if path.is_file()}
        return found >= {"config.json", "tokenizer.json"} and not found.isdisjoint(predictor_files())

    found = files.newest(root, f"{EXPORTED}/{FACTS}", where=has_all)
    if found is None:
        raise UserError(
            f"there is no exported folder below {root}/. Run `python -m lit_bert export`, or name a folder."
        )
    return found.parent
