"""What became of the rows of a split: read, skipped, left out, used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Skipped:
    """Rows of a split that were skipped for one reason: how many, and the numbers of the first from 1."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,} (row{'s' * (self.count > 1)} {', '.join(self.first)}{more})"


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of a split in one part of a run. The numbers add up.

    Attributes:
        split: its name.
        read: rows it has.
        skipped: those that could not be used, by reason.
        left_out: those that a setting leaves to another part or to none, by that setting.
        used: the others: trained on, validated on, or scored.
    """

    split: str
    read: int
    skipped: dict[str, Skipped]
    left_out: dict[str, int]
    used: int

    def __post_init__(self) -> None:
        lost = sum(each.count for each in self.skipped.values()) + sum(self.left_out.values())
        assert self.read == lost + self.used, f"rows do not add up: {self}"

    def __str__(self) -> str:
        parts = [f"{self.read:,} read"]
        parts += [f"{each} {reason} skipped" for reason, each in self.skipped.items()]
        parts += [f"{count:,} left out by {why}" for why, count in self.left_out.items()]
        return ", ".join([*parts, f"{self.used:,} used"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a record."""
        return asdict(self)
