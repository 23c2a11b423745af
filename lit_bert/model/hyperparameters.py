"""What the hyper-parameters of BertClassifier may be."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from lit_bert import UserError
from lit_bert.model.trained import check_trained_part
from lit_bert.sources.schema import Lora

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
SHARES = ("average_decay", "beta2", "label_smoothing", "adversarial_start")  # 0 to below 1


def check_hyperparameters(settings: Any) -> None:
    """Raises a UserError that names the first setting out of its range.

    Args:
        settings: the arguments of BertClassifier, by attribute.
    """
    if len(settings.label_names) < 2:
        raise UserError(f"there is one class, {settings.label_names}; a classifier needs at least two.")
    rate, decay = settings.learning_rate, settings.weight_decay
    if (rate is not None and rate < 0) or decay < 0:
        raise UserError(
            f"model.learning_rate is {rate} and model.weight_decay is {decay}; expected neither to be "
            "negative."
        )
    if not 0 <= settings.warmup_ratio < 1:
        raise UserError(
            f"model.warmup_ratio is {settings.warmup_ratio}; expected a share of the steps, 0 to below 1."
        )
    for name in SHARES:
        if not 0 <= settings[name] < 1:
            raise UserError(f"model.{name} is {settings[name]}; expected 0 to below 1.")
    if settings.head_rate_factor <= 0:
        raise UserError(f"model.head_rate_factor is {settings.head_rate_factor}; expected more than 0.")
    if settings.adversarial_norm < 0:
        raise UserError(
            f"model.adversarial_norm is {settings.adversarial_norm}; expected no negative number."
        )
    check_trained_part(Lora(**settings.lora), settings.freeze)


def check_strategy(strategy: Strategy, settings: Any) -> None:
    """Raises a UserError with the first setting that needs weights which no strategy spreads over devices."""
    if not isinstance(strategy, SHARDED):
        return
    off = {"average_decay": "0", "adversarial_norm": "0", "lora": "{rank: 0}", "freeze": "null"}
    for name, value in off.items():
        if settings[name]["rank"] if name == "lora" else settings[name]:
            raise UserError(
                f"{type(strategy).__name__} spreads each weight over the devices; model.{name} needs whole "
                f"ones. Choose --trainer.strategy ddp, or switch it off: --model.{name} {value}."
            )
