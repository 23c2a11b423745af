"""What a checkpoint may say: plain values of known keys, checked before anything else reads them.

A checkpoint may come from anybody. Whatever it holds beside tensors has to fit these models: a key that is
not here is an error with its name, and a value of another type is not converted. Nothing here is a path to
write to, a class, a function or a template: how a run is composed comes from the command line and from YAML
that its user wrote, and what a checkpoint says about that is compared, never used.

`Facts` is the JSON text of a checkpoint of format 2; `sources.checkpoint` says what stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lit_bert import UserError
from lit_bert.io.escape import line
from lit_bert.io.texts import TextForm
from lit_bert.io.untrusted import MAX_CLASSES
from lit_bert.sources.hub import Source
from lit_bert.sources.text_settings import form_in_settings

OLDEST_LIGHTNING = (2, 6)
MAX_CHARACTERS = 10_000  # of a class name, a path, an address

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Count = Annotated[int, Field(ge=0, le=2**62)]
ClassNames = Annotated[list[Text], Field(min_length=1, max_length=MAX_CLASSES)]
ClassValues = Annotated[list[float], Field(max_length=MAX_CLASSES)]  # one a class
TaskParameters = dict[Text, Annotated[list[float], Field(max_length=MAX_CLASSES)]]


class Plain(BaseModel):
    """Known keys, values of exactly these types, and no number that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class SourceFacts(Plain):
    """A `hub.Source`: shown beside scores, and compared; never opened because a checkpoint says so."""

    kind: Literal[
        "hub", "folder", "file", "address", "database", "packaged", "classes", "checkpoint", "unknown"
    ]
    name: Text
    config_name: Text | None = None
    revision: Text | None = None
    stand_in_for: Text | None = None
    reason: Text | None = None

    def as_source(self) -> Source:
        return Source(**self.model_dump())


class Lora(Plain):
    """Changes of low rank that train in the place of weights (Hu et al., 2021).

    Args:
        rank: of each change; 0 for none: the weights themselves train.
        alpha: the changes are multiplied by alpha / rank, so that another rank needs no other learning rate.
        targets: the linear layers that are changed: query_value (of ModernBERT, where one layer computes
            queries, keys and values, all three) or all of the transformer's layers.
    """

    model_config = ConfigDict(frozen=True)

    rank: int = 0
    alpha: float = 16.0
    targets: Literal["query_value", "all"] = "query_value"


NO_LORA = Lora()


class ModelSettings(Plain):
    """The arguments of `BertClassifier` that are plain values."""

    label_names: ClassNames
    learning_rate: float | None = None
    head_rate_factor: float = 5.0
    layer_decay: float = 1.0
    beta2: float = 0.98
    weight_decay: float = 0.01
    warmup_ratio: float = 0.05
    label_smoothing: float = 0.1
    class_weights: ClassValues | Literal["balanced"] | None = None
    focal_gamma: float = 0.0
    logit_adjustment: ClassValues | float = 0.0
    average_decay: float = 0.99
    adversarial_norm: float = 1.0
    adversarial_start: float = 1 / 3
    pooling: Literal["first", "mean"] = "first"
    head_start: bool = False
    lora: Lora = NO_LORA
    freeze: Text | None = None
    task: Text = "single"
    task_parameters: TaskParameters = {}

    @property
    def trains_part(self) -> bool:
        """Whether some of the weights stay as they were: a checkpoint has the others alone."""
        return bool(self.lora.rank) or self.freeze is not None

    @field_validator("label_names")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise ValueError("class names have to differ, and none may be blank")
        return names


class DataSettings(Plain):
    """The arguments of `EmotionDataModule` that are plain values, with the data set that was really read."""

    dataset: Text
    stand_in: Text | None = None
    text_column: Text = "text"
    label_column: Text = "label"
    text_form: Literal["auto", "pair", "joined"] = "auto"
    label_names: Annotated[list[Text], Field(max_length=MAX_CLASSES)] | None = None
    label_separator: Text | None = None
    task: Text = "single"
    weight_column: Text | None = None
    group_column: Text | None = None
    format: Text | None = None
    delimiter: Text | None = None
    encoding: Text | None = None
    header: bool | None = None
    quoting: Literal["auto", "csv", "none"] = "auto"
    sheet: Text | None = None
    query: Text | None = None
    missing: Literal["skip", "refuse"] = "skip"
    train_split: Text = "train"
    val_split: Text = "validation"
    test_split: Text = "test"
    guarantee_split: Text | None = None
    guarantee_fraction: float | None = None
    val_fraction: float | None = None
    train_rows: int | None = None
    val_rows: int | None = None
    subset_seed: int = 42
    deduplicate: bool = False
    folds: int | None = None
    fold: int = 0
    order_seed: int = 0
    balanced_sampling: float = 0.0
    max_length: int = 128
    long_texts: Literal["windows", "head_tail", "cut"] = "cut"  # as runs did that could not choose
    window_overlap: int | None = None
    window_pooling: Literal["mean", "max"] = "mean"
    train_windows: int = 8
    batch_size: int = 32
    eval_batch_size: int = 64

    @model_validator(mode="after")
    def _cut_unless_single(self) -> Self:
        if self.long_texts != "cut" and self.texts.kind != "single":
            raise ValueError(f"long_texts is {self.long_texts}, and texts of several columns are cut")
        return self

    @property
    def texts(self) -> TextForm:
        """Of the texts."""
        return form_in_settings(self.text_column, self.text_form)


class SkippedFacts(Plain):
    """Rows that were skipped for one reason."""

    count: int
    first: list[Text]


class RowFacts(Plain):
    """What became of the rows of one part, as `data.counts.RowCounts` has it."""

    split: Text
    read: int
    skipped: dict[Text, SkippedFacts]
    left_out: dict[Text, int]
    used: int


class DataFacts(Plain):
    """What the data module kept, to find the rows again.

    Attributes:
        fingerprint: of the rows to train on; None where none were read.
    """

    source: SourceFacts
    settings: DataSettings
    fingerprint: Text | None = None
    rows: dict[Literal["train", "validation", "test", "guarantee"], RowFacts] = {}


class WeightsRequest(Plain):
    """The arguments of `Weights` as they were given."""

    pretrained: Text
    stand_in: Text | None = None


class WeightsFacts(Plain):
    """Metadata of the weights; `sources.architecture` has the schema of `architecture`.

    Attributes:
        base_sha256: of the frozen weights, which `source` has and the checkpoint has not; None: it has all.
    """

    request: WeightsRequest
    architecture: dict[Text, Any]
    source: SourceFacts
    base_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class BestSettings(Plain):
    """Which epoch is the best one."""

    monitor: Text | None = "val/score"
    mode: Literal["min", "max"] = "max"
    save_top_k: int = 1
    save_weights_only: bool = True
    every_n_train_steps: int | None = None
    every_n_epochs: int | None = None
    save_on_train_epoch_end: bool | None = False


class StoppingSettings(Plain):
    """When a run ends early."""

    monitor: Text | None = "val/score"
    min_delta: float = 0.0
    patience: int | None = 3
    mode: Literal["min", "max"] = "max"
    strict: bool = True
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    check_on_train_epoch_end: bool | None = None


Share = int | float | None  # a number of batches, or a fraction of them


class TrainerSettings(Plain):
    """How long a run is, and what a step of it does."""

    precision: (
        Literal[
            "64-true",
            "64",
            "32-true",
            "32",
            "16-true",
            "16",
            "16-mixed",
            "bf16-true",
            "bf16",
            "bf16-mixed",
            16,
            32,
            64,
        ]
        | None
    ) = None
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    limit_train_batches: Share = None
    limit_val_batches: Share = None
    overfit_batches: int | float = 0.0
    val_check_interval: Share = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | Literal["warn"] | None = None


class RunSettings(Plain):
    """The settings of the run that wrote the checkpoint.

    Attributes:
        composition: classes, paths and templates by their setting's name, as text; only ever compared.
    """

    seed_everything: int | bool | None = 0
    calibrate: bool = True
    guarantee: Text | None = None
    want: Text | None = None
    costs: dict[Text, dict[Text, float]] | None = None
    checkpoint: BestSettings = BestSettings()
    early_stopping: StoppingSettings = StoppingSettings()
    trainer: TrainerSettings = TrainerSettings()
    composition: dict[Text, Text] = {}


class Calibration(Plain):
    """What the logits of each class were multiplied by, and what was then added to them."""

    scale: Annotated[list[float], Field(max_length=MAX_CLASSES)]
    shift: Annotated[list[float], Field(max_length=MAX_CLASSES)]


class Facts(Plain):
    """What a checkpoint says, beside the progress of its run, which is compared with the trainer's own.

    Attributes:
        lightning: version that trained it.
        epoch: counted from 0.
        global_step: optimizer steps.
        is_published: whether somebody else trained it (`train.published`): what of the run is here is none.
        method: how it was made of labelled rows, a key of `train.methods.METHODS`; None: by training alone.
        devices: that shared the batches of an epoch.
        learning_rate: the highest one in use; that of `model` may be unset.
        data: None where a Trainer was given loaders.
        settings: of the run; None where there was no command line.
        val_score: of the validation that chose the epoch, such as macro F1; None if there was none.
        temperature: that divided the logits, and is in the weights; None if none was fitted.
        calibration: likewise, what the logits of each class were multiplied by and added to.
    """

    format: Literal[2] = 2
    lightning: Text
    epoch: Count
    global_step: Count
    is_published: bool = False
    method: Literal["finetune", "frozen", "contrastive", "soup", "zero_shot"] | None = None
    model: ModelSettings
    data: DataFacts | None = None
    weights: WeightsFacts
    settings: RunSettings | None = None
    learning_rate: float | None = None
    devices: Count | None = None
    val_score: Annotated[float, Field(le=1)] | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    calibration: Calibration | None = None

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        """The score was `val_f1` when there were only tasks that choose by macro F1."""
        if not isinstance(values, dict) or "val_f1" not in values or "val_score" in values:
            return values
        others = {name: value for name, value in values.items() if name != "val_f1"}
        return {"val_score": values["val_f1"], **others}

    @field_validator("lightning")
    @classmethod
    def _is_new_enough(cls, version: str) -> str:
        match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.\w{1,8}([.+]\w{1,20})?", version)
        if match is None or (int(match[1]), int(match[2])) < OLDEST_LIGHTNING:
            oldest = ".".join(map(str, OLDEST_LIGHTNING))
            raise ValueError(f"written by Lightning {line(version, 40)}; expected {oldest} or newer")
        return version


def checked(model: type[Plain], values: Any, what: str) -> Any:
    """The values as `model`.

    Raises:
        UserError: a key is unknown or missing, or a value is of another type; the message names the first.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{what} is a {type(values).__name__}; expected settings by name.")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        first, more = found[0], f", and {len(found) - 1} more faults" if len(found) > 1 else ""
        place = line(".".join(str(part) for part in first["loc"]), 200)
        problem = {
            "extra_forbidden": "is not a key that lit_bert knows",
            "missing": "is missing",
        }.get(first["type"], f"is wrong ({line(first['msg'], 200)})")
        raise UserError(f"{what}: {place} {problem}{more}. Give a file that lit_bert wrote.") from None
