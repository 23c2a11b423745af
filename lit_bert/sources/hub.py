"""The Hugging Face Hub, and where something really came from.

Every answer carries a `Source`, so that no score hides it. When the Hub cannot be asked (no network,
HF_HUB_OFFLINE=1, or no answer within `DECISION_S`) and nothing is cached, a named stand-in takes the place of
what was wanted; when the Hub answers that it has no such thing, that is the user's error.
"""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lit_bert import UserError
from lit_bert.io import escape
from lit_bert.io.files import READABLE_SUFFIXES

DECISION_S = 4.0  # seconds the Hub has to answer before a stand-in is taken


@dataclass(frozen=True)
class Source:
    """Where something really came from.

    Attributes:
        kind: `hub`, `folder`, `file`, `address`, `database`, `packaged`, `classes` (their
            names alone), `checkpoint` or `unknown`.
        name: Hub id, absolute path, address, or name of the package.
        config_name: configuration of a data set on the Hub.
        revision: commit on the Hub, when it is known.
        stand_in_for: what had been asked for, when this stands in for it.
        reason: why it stands in.
    """

    kind: str
    name: str
    config_name: str | None = None
    revision: str | None = None
    stand_in_for: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.kind == "unknown":
            return self.name
        text = f"{self.name} ({self.kind}" + (f", revision {self.revision[:12]})" if self.revision else ")")
        return f"{text}, STANDING IN for {self.stand_in_for}: {self.reason}" if self.stand_in_for else text

    @property
    def address(self) -> str:
        """What finds the same thing again: `name:configuration@revision` on the Hub, else the name."""
        config_name = f":{self.config_name}" if self.config_name else ""
        return f"{self.name}{config_name}" + (f"@{self.revision}" if self.revision else "")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


class HubAddress(NamedTuple):
    """`owner/name`, `owner/name:configuration`, `owner/name@revision`, or all three, taken apart."""

    name: str
    config_name: str | None
    revision: str | None

    @classmethod
    def parse(cls, text: str, expected: str) -> HubAddress:
        """Takes an address apart.

        Raises:
            UserError: `text` can only be meant as a path, and nothing is there.
        """
        match = re.fullmatch(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?::([\w.-]+))?(?:@([\w./-]+))?", text)
        suffix = Path(match[1]).suffix.lower() if match else ""
        if (
            not match
            or (suffix and "/" not in match[1])
            or suffix in (*READABLE_SUFFIXES, ".gz", ".bz2", ".xz", ".zst")
        ):
            raise UserError(f"no {text} here; expected {expected}, or a name on the Hub. Check the path.")
        return cls(*match.groups())


# --- the Hub ---

_hub_is_down: list[str] = []  # the first reason, kept for the process, so that the timeout passes once


def ask_hub(repo_id: str, revision: str | None, repo_type: str) -> tuple[str | None, str | None]:
    """(commit, None) when the Hub has it, (None, reason) when the Hub cannot be asked.

    Raises:
        UserError: the Hub says that it has no such repository or revision, or that it may not be read.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if _hub_is_down:
        return None, _hub_is_down[0]
    if constants.HF_HUB_OFFLINE:
        _hub_is_down.append("HF_HUB_OFFLINE is set")
        return None, _hub_is_down[0]
    answer: list[Any] = []

    def ask() -> None:
        try:
            info = HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=DECISION_S)
            answer.append(info.sha)
        except BaseException as error:
            answer.append(error)

    # In a thread, as a look-up of the host's address has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DECISION_S)
    found = answer[0] if answer else TimeoutError()
    if isinstance(found, str):
        return found, None
    what = repo_id + (f" at revision {revision}" if revision else "")
    if isinstance(found, GatedRepoError):
        raise UserError(f"the Hub keeps {what} behind an agreement; accept it there and run `hf auth login`.")
    if isinstance(found, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
        raise UserError(
            f"the Hub has no {repo_type} {what}, and no such file or folder is here; check the name."
        )
    if isinstance(found, TimeoutError):
        reason = f"the Hub did not answer within {DECISION_S:.0f} seconds"
    elif isinstance(found, HfHubHTTPError) and getattr(found, "response", None) is not None:
        status = found.response.status_code
        if 400 <= status < 500 and status != 429:
            raise UserError(f"the Hub refuses {what} with status {status}; check the name and your login.")
        reason = f"the Hub answered with status {status}"
    else:
        reason = "the Hub cannot be reached"
    _hub_is_down.append(reason)
    return None, reason


def failed_download(what: str, error: BaseException) -> UserError:
    return UserError(
        f"the Hub has {what}, but fetching it failed ({type(error).__name__}: "
        f"{escape.first_line(error)}). "
        "Run again; what has arrived is kept."
    )


def is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch("[0-9a-f]{40}", revision))
