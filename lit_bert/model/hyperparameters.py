"""What the hyper-parameters of BertClassifier may be."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from lit_bert import UserError
from lit_bert.model.trainable import check_trainable
from lit_bert.sources.schema import Lora

SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
SHARES = ("average_decay", "beta2", "label_smoothing", "adversarial_start")  # 0 to below 1
# From 0 on. What trains is far below; a product of these is still a number of 32 bits, which end at 3e38.
MAX_VALUES = {"learning_rate": 1e30, "weight_decay": 1e6, "head_rate_factor": 1e6, "adversarial_norm": 1e6}
MAX_VALUES |= {"focal_gamma": 100, "logit_adjustment": 100}


def check_hyperparameters(settings: Any) -> None:
    """Raises a UserError that names the first setting out of its range.

    Args:
        settings: the arguments of BertClassifier, by attribute.
    """
    for name, most in MAX_VALUES.items():
        value = settings[name]
        if value is not None and not isinstance(value, list) and not 0 <= value <= most:
            raise UserError(f"model.{name} is {value}; expected a number from 0 to {most:g}.")
    if settings.head_rate_factor == 0:
        raise UserError(f"model.head_rate_factor is {settings.head_rate_factor}; expected more than 0.")
    if not 0 < settings.layer_decay <= 1:
        raise UserError(f"model.layer_decay is {settings.layer_decay}; expected more than 0, at most 1.")
    if settings.pooling not in ("first", "mean"):
        raise UserError(f"model.pooling is {settings.pooling}; expected first or mean.")
    if not 0 <= settings.warmup_ratio < 1:
        raise UserError(
            f"model.warmup_ratio is {settings.warmup_ratio}; expected a share of the steps, 0 to below 1."
        )
    for name in SHARES:
        if not 0 <= settings[name] < 1:
            raise UserError(f"model.{name} is {settings[name]}; expected 0 to below 1.")
    check_trainable(Lora(**settings.lora), settings.freeze)


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
