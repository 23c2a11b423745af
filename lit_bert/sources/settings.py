"""The settings of a run in its checkpoint: plain values, and what is only ever compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lit_bert.sources.schema import BestSettings, Plain, RunSettings, StoppingSettings, TrainerSettings

# Classes, paths and templates, which a checkpoint may not bring along.
COMPOSED = {
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
NOT_STORED = {
    "trainer": {
        *("accelerator", "devices", "num_nodes", "enable_checkpointing", "enable_progress_bar"),
        *("enable_model_summary", "enable_autolog_hparams", "benchmark", "inference_mode", "detect_anomaly"),
        *("barebones", "default_root_dir", "limit_test_batches", "limit_predict_batches", "model_registry"),
    },
    "checkpoint": {"verbose", "auto_insert_metric_name", "enable_version_counter"},
    "early_stopping": {"verbose", "log_rank_zero_only"},
}
ALONE = ("seed_everything", "calibrate", "guarantee", "want", "costs")  # settings in no section
KEPT: dict[str, type[Plain]] = {
    "trainer": TrainerSettings,
    "checkpoint": BestSettings,
    "early_stopping": StoppingSettings,
}


def run_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of the settings of `fit`, in the form of `schema.RunSettings`.

    Args:
        config: sections and values as plain values, as the parser has them.
    """
    settings: dict[str, Any] = {name: config[name] for name in ALONE if name in config}
    for section, model in KEPT.items():
        values = config.get(section, {})
        settings[section] = {key: values[key] for key in values if key in model.model_fields}
    return {**settings, "composition": composition(config)}


def flat_settings(settings: RunSettings) -> dict[str, Any]:
    """The values of a run's settings by their name on the command line, without the composition."""
    flat: dict[str, Any] = {name: getattr(settings, name) for name in ALONE}
    for section in KEPT:
        values = getattr(settings, section).model_dump()
        flat |= {f"{section}.{key}": value for key, value in values.items()}
    return flat


def composition(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that hold classes, paths and templates, by their name, as text to compare."""
    return {
        f"{section}.{key}": _as_text(key, value)
        for section, model in KEPT.items()
        for key, value in config.get(section, {}).items()
        if key not in model.model_fields and key not in NOT_STORED[section]
    }


def _as_text(key: str, value: Any) -> str:
    """Equal texts for equal values; of loggers the classes count, as a run has a folder of its own."""
    if key == "logger":
        some = value if isinstance(value, list) else [value]
        value = [each.get("class_path") if isinstance(each, Mapping) else each for each in some]
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) < 2000 else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
