"""What the arguments of EmotionDataModule may be."""

from __future__ import annotations

from typing import Any

from lit_bert import UserError
from lit_bert.data.columns import TEXT_FORMS
from lit_bert.data.readers.options import ReadOptions
from lit_bert.data.windows import check_settings
from lit_bert.task.kinds import kind_of

MIN_VALUES = {
    **dict.fromkeys(("batch_size", "eval_batch_size", "train_rows", "val_rows", "train_windows"), 1),
    "subset_seed": 0,
}
MAX_COUNT = 2**32 - 1
CHOICES = {"missing": ("skip", "refuse"), "text_form": TEXT_FORMS}


def check_hyperparameters(settings: Any) -> None:
    """Raises a UserError that names the first setting out of its range.

    Args:
        settings: the arguments of EmotionDataModule, by attribute.
    """
    ReadOptions.of(settings)  # refuses what is none
    if settings.task is not None:
        kind_of(settings.task)
    if settings.label_separator is not None and not settings.label_separator.strip():
        raise UserError("data.label_separator is blank; expected a sign such as |.")
    for name, least in MIN_VALUES.items():
        value = settings[name]
        if value is not None and not least <= value <= MAX_COUNT:
            expected = f"at least {least} and at most {MAX_COUNT:,}"
            raise UserError(f"data.{name} is {value}; expected {expected}.")
    for name, choices in CHOICES.items():
        if settings[name] not in choices:
            raise UserError(f"data.{name} is {settings[name]}; expected {' or '.join(choices)}.")
    check_settings(settings)
    if (share := settings.val_fraction) is not None and not 0 < share < 1:
        raise UserError(f"data.val_fraction is {share}; expected a share between 0 and 1.")
    if not 0 <= settings.balanced_sampling <= 1:
        raise UserError(
            f"data.balanced_sampling is {settings.balanced_sampling}; expected 0, for every row once, to "
            "1, for every class equally often."
        )
    folds, fold = settings.folds, settings.fold
    if folds is not None and folds < 2:
        raise UserError(f"data.folds is {folds}; expected at least 2 parts, or null for none.")
    if folds is None and fold:
        raise UserError(f"data.fold is {fold}, but there are no folds; set --data.folds as well.")
    if folds is not None and not 0 <= fold < folds:
        raise UserError(f"data.fold is {fold}; expected 0 to {folds - 1}, as data.folds is {folds}.")
