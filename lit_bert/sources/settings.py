"""The settings of a run in its checkpoint: plain values, and what is only ever compared.

The form of earlier checkpoints is translated here, and known nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lit_bert import UserError
from lit_bert.io.escape import line
from lit_bert.sources.schema import BestSettings, Plain, StoppingSettings, TrainerSettings

# --- the form of checkpoints before settings and composition were told apart; nothing else knows it ---

_SECTIONS = {"seed_everything", "calibrate", "checkpoint", "early_stopping", "trainer"}
_ELSEWHERE = {
    "data",
    "weights",
    "model",
    "seeds",
    "ckpt_path",
    "weights_only",
}  # said again beside the tensors


def translated_settings(config: dict[str, Any], what: str) -> dict[str, Any]:
    """The settings of a run, all of them as LightningCLI had them, as `RunSettings`."""
    for key in config:
        if key not in _SECTIONS and key not in _ELSEWHERE:
            raise _unknown(f"config.{line(key, 200)}", what)
    for section, model in _KEPT.items():
        values = config.get(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{what}: config.{section} is a {type(values).__name__}; expected settings.")
        known = {*model.model_fields, *_COMPOSED.get(section, ()), *_NOT_STORED[section]}
        for key in values:
            if key not in known:
                raise _unknown(f"config.{section}.{line(key, 200)}", what)
    return run_settings({name: config[name] for name in _SECTIONS if name in config})


def _unknown(key: str, what: str) -> UserError:
    return UserError(f"{what}: {key} is not a key that lit_bert knows. Give a file that lit_bert wrote.")


# --- settings of a run ---

# Classes, paths and templates, which a checkpoint may not bring along.
_COMPOSED = {
    "trainer": (
        *(
            "callbacks",
            "fast_dev_run",
            "logger",
            "max_time",
            "plugins",
            "profiler",
            "reload_dataloaders_every_n_epochs",
        ),
        *("strategy", "sync_batchnorm", "use_distributed_sampler"),
    ),
    "checkpoint": ("dirpath", "filename", "save_last", "save_on_exception", "train_time_interval"),
}
# Of the machine, the screen, or other stages than fit.
_NOT_STORED = {
    "trainer": {
        *("accelerator", "devices", "num_nodes", "enable_checkpointing", "enable_progress_bar"),
        *("enable_model_summary", "enable_autolog_hparams", "benchmark", "inference_mode", "detect_anomaly"),
        *("barebones", "default_root_dir", "limit_test_batches", "limit_predict_batches", "model_registry"),
    },
    "checkpoint": {"verbose", "auto_insert_metric_name", "enable_version_counter"},
    "early_stopping": {"verbose", "log_rank_zero_only"},
}
_KEPT: dict[str, type[Plain]] = {
    "trainer": TrainerSettings,
    "checkpoint": BestSettings,
    "early_stopping": StoppingSettings,
}


def run_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of the settings of `fit`, in the form of `schema.RunSettings`.

    Args:
        config: sections and values as plain values, as the parser has them.
    """
    settings: dict[str, Any] = {
        name: config[name] for name in ("seed_everything", "calibrate") if name in config
    }
    for section, model in _KEPT.items():
        values = config.get(section, {})
        settings[section] = {key: values[key] for key in values if key in model.model_fields}
    return {**settings, "composition": composition(config)}


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `run_settings` by their name on the command line, without the composition."""
    sections = {name: values for name, values in settings.items() if name in _KEPT}
    flat = {
        f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()
    }
    return {**{name: settings[name] for name in ("seed_everything", "calibrate")}, **flat}


def composition(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that hold classes, paths and templates, by their name, as text to compare."""
    return {
        f"{section}.{key}": _as_text(key, value)
        for section, model in _KEPT.items()
        for key, value in config.get(section, {}).items()
        if key not in model.model_fields and key not in _NOT_STORED[section]
    }


def _as_text(key: str, value: Any) -> str:
    """Equal texts for equal values; of loggers the classes count, as a run has a folder of its own."""
    if key == "logger":
        some = value if isinstance(value, list) else [value]
        value = [each.get("class_path") if isinstance(each, Mapping) else each for each in some]
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) < 2000 else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
