"""The other side: the Hugging Face Trainer as tutorials and example scripts use it, and at its best.

python -m benchmarks.train --only tutorial default best
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from benchmarks.harness import data_folder, since_start
from benchmarks.steps import StepClock
from lit_bert.sources.weights import MINILM, Weights

BEST = {"bf16": True, "train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"}


class Variant(NamedTuple):
    """A way to use the Trainer: how texts are padded, to what length cut, and what is not at its default."""

    padding: str | bool
    max_length: int
    arguments: dict[str, Any]


VARIANTS = {
    "tutorial": Variant("max_length", 512, {}),
    "default": Variant(False, 128, {}),
    "best": Variant(False, 128, BEST),
    "script": Variant("max_length", 128, {}),
    "tuned": Variant(False, 128, {**BEST, "warmup_steps": 0.1}),  # below 1 it is a share of all steps
}


def weights_folder() -> Path:
    """The packaged MiniLM."""
    return Weights(MINILM).folder


def split(name: str, count: int | None = None) -> Any:
    """The rows of a split as a Dataset with `text` and a ClassLabel or integer `label`.

    Args:
        name: `train` or `validation`.
        count: that many rows only, taken as `Dataset.shuffle(seed=42)` of the tutorial does.
    """
    file = next(iter(sorted(data_folder().glob(f"{name}.*"))))
    rows = datasets.load_dataset(file.suffix[1:], data_files={name: str(file)}, split=name)
    if "string" in rows.features["label"].dtype:
        rows = rows.class_encode_column("label")
    return rows if count is None else rows.shuffle(seed=42).select(range(count))


class _Counted(Trainer):
    """Remembers the real tokens of the batch at hand, which callbacks are not shown."""

    lengths: Any

    def training_step(self, model: Any, inputs: dict[str, Any], *others: Any, **more: Any) -> Any:
        self.lengths = inputs["attention_mask"].sum(1)
        return super().training_step(model, inputs, *others, **more)


class _Clock(TrainerCallback):
    def __init__(self, clock: StepClock, trainer: _Counted) -> None:
        self.clock, self.trainer = clock, trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.step(self.trainer.lengths)


class Until(TrainerCallback):
    """Stops at the first evaluation whose micro F1 reaches `threshold`, and remembers when that was.

    Stops after `limit_s` seconds from the start of the process, too.
    """

    def __init__(self, threshold: float, limit_s: float) -> None:
        self.threshold, self.limit_s = threshold, limit_s
        self.figures: dict[str, float] = {"best": 0.0}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        score = metrics["eval_f1_micro"]
        self.figures["best"] = max(score, self.figures["best"])
        if score >= self.threshold and "reached_s" not in self.figures:
            self.figures["reached_s"] = since_start()
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if since_start() > self.limit_s:
            control.should_training_stop = True


def trainer(
    variant: str,
    count: int | None,
    clock: StepClock | None = None,
    evaluate: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
    weights: Path | None = None,
    **settings: Any,
) -> Trainer:
    """A Trainer ready to train.

    Args:
        variant: one of `VARIANTS`.
        count: training rows; None takes all.
        clock: what times the steps.
        evaluate: whether it gets the validation split.
        callbacks: more callbacks.
        weights: the folder with weights and tokenizer; None is that of MiniLM.
        settings: TrainingArguments beside those of the variant.
    """
    padding, max_length, arguments = VARIANTS[variant]
    folder = weights or weights_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenize(batch: Any) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=max_length, padding=padding)

    rows = split("train", count)
    classes = len(set(split("train")["label"]))
    arguments = TrainingArguments(
        output_dir="hf-trainer",
        use_cpu=not torch.cuda.is_available(),
        **arguments,
        **settings,
    )
    set_seed(arguments.seed)  # before the head is drawn
    made = _Counted(
        model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes),
        args=arguments,
        train_dataset=rows.map(tokenize, batched=True),
        eval_dataset=split("validation").map(tokenize, batched=True) if evaluate else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_micro_f1,
        callbacks=list(callbacks),
    )
    if clock:
        made.add_callback(_Clock(clock, made))
    return made


def _micro_f1(prediction: Any) -> dict[str, float]:
    """Of one label a text: the share that is right."""
    return {"f1_micro": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def classify(
    variant: str,
    rates: Sequence[float],
    problem: str,
    outputs: int,
    splits: Mapping[str, tuple[Sequence[list[str]], Any]],
    score: Callable[[Any, Any], float],
    **settings: Any,
) -> dict[str, float]:
    """The score on the test split and the seconds of a fit, at the rate that is best on the validation split.

    Args:
        variant: one of `VARIANTS`.
        rates: learning rates; a fit at each.
        problem: the `problem_type` of transformers.
        outputs: classes, or 1.
        splits: of `train`, `validation` and `test` the columns of the text, one or the two of a pair, and
            the labels: class indices, an array of 0 and 1 (N, C), or numbers.
        score: of the labels and the answers; more is better.
        settings: TrainingArguments beside those of the variant.
    """
    padding, max_length, arguments = VARIANTS[variant]
    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    is_single = problem == "single_label_classification"
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, (columns, labels) in splits.items():
        tokens = tokenizer(*columns, truncation=True, max_length=max_length, padding=padding)
        values = zip(
            *tokens.values(), labels.astype("int64" if is_single else "float32").tolist(), strict=True
        )
        rows[name] = [dict(zip((*tokens, "label"), each, strict=True)) for each in values]

    def score_of(trained: Trainer, name: str) -> float:
        logits, truth, _ = trained.predict(rows[name])  # in an order of its own, where lengths are grouped
        answers = logits[:, 0] if problem == "regression" else logits.argmax(-1) if is_single else logits > 0
        return score(truth, answers)

    def fit(rate: float) -> dict[str, float]:
        began = since_start()
        made = TrainingArguments(
            output_dir="hf-trainer",
            use_cpu=True,
            save_strategy="no",
            learning_rate=rate,
            **arguments,
            **{"per_device_train_batch_size": 32, "num_train_epochs": 3, **settings},
        )
        set_seed(made.seed)  # before the head is drawn
        network = AutoModelForSequenceClassification.from_pretrained(
            weights_folder(), num_labels=outputs, problem_type=problem
        )
        trained = Trainer(network, made, train_dataset=rows["train"], processing_class=tokenizer)
        trained.train()
        trained.save_model()
        seconds = prepared + since_start() - began
        return {
            "validation": score_of(trained, "validation"),
            "score": score_of(trained, "test"),
            "wall_s": seconds,
            "learning_rate": rate,
        }

    prepared = since_start()
    return max((fit(rate) for rate in rates), key=lambda figures: figures["validation"])
