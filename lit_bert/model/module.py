"""An encoder with a classification head: its training steps, optimizer and checkpoints.

`input_ids` and `attention_mask` (B, T) in, logits (B, C) out. The one shared step adds
the loss and updates the metrics of its split; scores are computed once, over the whole split and all devices.

    python -m lit_bert fit --model.learning_rate 3e-5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from lit_bert import UserError
from lit_bert.encoders.base import Encoder
from lit_bert.encoders.table import encoder_of
from lit_bert.model.adversarial import SecondPass
from lit_bert.model.average import WeightAverage
from lit_bert.model.bert import CpuBert
from lit_bert.model.groups import (
    default_learning_rate,
    layer_factors,
    parameter_groups,
    split_by_rate,
    warmup_and_decay,
)
from lit_bert.model.hyperparameters import SHARDED, check_hyperparameters, check_strategy
from lit_bert.model.logits import exact_logits
from lit_bert.model.loss_check import LossCheck, check_saved, refuse_scores
from lit_bert.model.mean_layer import add_mean_layer, can_add_mean_layer
from lit_bert.model.optimizer import (
    DeferredAdamW,
    deferred,
    optimizer_of,
    reset_learning_rates,
    restore_moments_only,
)
from lit_bert.model.pretrained import load_trainable
from lit_bert.model.split_scores import MAIN, SplitScores, class_tags
from lit_bert.model.training_loss import TrainingLoss
from lit_bert.model.windows import text_logits
from lit_bert.sources.checkpoint import Checkpoint
from lit_bert.sources.schema import NO_LORA, Lora
from lit_bert.sources.weights import Weights
from lit_bert.task.kinds import task_of

Batch = dict[str, Any]
SPLITS = ("train", "val", "test")
UNSET: dict[str, Any] = {  # what null is, unless a recipe sets them (`train.recipe`)
    "head_rate_factor": 5.0,
    "layer_decay": 1.0,
    "adversarial_norm": 1.0,
    "pooling": "first",
    "head_start": False,
}


class BertClassifier(LightningModule):
    """A classifier of transformers, such as BertForSequenceClassification, as a LightningModule.

    It has more than twelve arguments, as people type them as flags, and configurations and checkpoints name
    them.

    Args:
        label_names: class names in the order of their indices.
        learning_rate: highest learning rate of AdamW; null takes what suits architecture and size: 5e-5 for
            bert-base, 3e-5 for roberta-base, 2e-4 for MiniLM.
        head_rate_factor: learning rate of the classifier, and of the pooler below it, as a multiple of
            `learning_rate`; null is 5, as they are drawn at random, and 1 with `head_start`.
        layer_decay: what learning rates are multiplied by from each layer to the one below it (Howard and
            Ruder, 2018); null is 1.
        beta2: decay of AdamW's second moment.
        weight_decay: decay of weight matrices; biases and LayerNorm have none.
        warmup_ratio: share of the optimizer steps over which the learning rate rises from 0; it then falls
            linearly to 0 at the last step.
        label_smoothing: share of each training label that is spread evenly over all classes (Szegedy et al.,
            2016); numbers stay as they are. The losses of whole splits are measured without it.
        class_weights: what the loss of the rows of a class is multiplied by in training: `balanced` for every
            class to weigh the same, a file (JSON, CSV) of class and weight, or a list in the order of
            `label_names`; with several labels a text, of the rows that have the class.
        focal_gamma: focal loss (Lin et al., 2017): that of a row is multiplied by (1 - probability of its
            label) to this power; 0 makes none.
        logit_adjustment: times the logarithm of each class's share of the rows, added to logits in training
            (Menon et al., 2021): with 1, answers are as of equally frequent classes; or a list of such terms.
        average_decay: decay per optimizer step of the moving average of the weights, which is what is
            validated, and kept where it is better; 0 keeps the weights as they stand.
        adversarial_norm: 2-norm of the perturbation of a batch's word embeddings along their gradient, for a
            second (adversarial) pass whose gradient is added (Miyato et al., 2017); doubles the cost of a
            step, 0 makes none; null is 1.
        adversarial_start: share of the optimizer steps before the first of these passes.
        pooling: what the classifier reads of a text: the state of its `first` token, as pretraining has it,
            or the `mean` of all tokens, by one more layer that computes it; null is `first`.
        head_start: whether the classifier starts as the best one for the network as it is (Kumar et al.,
            2022), and not at random; null is false.
        lora: LoRA: updates of low rank that train with the head, while the weights of the encoder are frozen.
        freeze: what does not train: embeddings (tables and their norm), layers:N (embeddings and the lowest N
            layers) or all (everything below the head); null is nothing.
        task: kind of task, a key of `task.kinds.KINDS`.
        task_parameters: what the task took from rows, such as the mean and deviation of numbers.
        weights: where architecture and pretrained values come from; None waits for a checkpoint to be loaded.

    Attributes:
        last_weights: the weights as they were trained to the end, beside their average, which the parameters
            hold; None before the end of a run, or where there is no average.
        keeps_training_weights: whether checkpoints without the optimizer's state, too, hold the weights that
            train beside their average; `fit` compares the two at its end and keeps one.
        time_share: how much of the time that a run has is over, 0 to 1, where it ends by the clock.
        method: how it is made of labelled rows, a key of `train.methods.METHODS`; None: by training.
        fast_operations: whether a CPU may compute BERT and AdamW in fewer operations (`CpuBert`,
            `DeferredAdamW`); False leaves both to transformers and torch.
        objective: mean loss of a training batch, from its logits (B, C) and the batch; None is
            `default_objective`. A callback may set another one in its `setup`.
        rate_factor: by the name of a parameter, what its learning rate is multiplied by, beside
            `head_rate_factor`; None is 1. A callback may set it in its `setup`.
    """

    keeps_training_weights = False
    time_share: Callable[[], float] | None = None
    method: str | None = None
    fast_operations = True
    objective: Callable[[Tensor, Batch], Tensor] | None = None
    rate_factor: Callable[[str], float] | None = None
    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a mapping; it has attributes as well

    def __init__(
        self,
        label_names: list[str],
        learning_rate: float | None = None,
        head_rate_factor: float | None = None,
        layer_decay: float | None = None,
        beta2: float = 0.98,
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.05,
        label_smoothing: float = 0.1,
        class_weights: list[float] | str | None = None,
        focal_gamma: float = 0.0,
        logit_adjustment: float | list[float] = 0.0,
        average_decay: float = 0.99,
        adversarial_norm: float | None = None,
        adversarial_start: float = 1 / 3,
        pooling: Literal["first", "mean"] | None = None,
        head_start: bool | None = None,
        lora: Lora = NO_LORA,
        freeze: str | None = None,
        task: str = "single",
        task_parameters: dict[str, list[float]] | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["weights", "lora", "task_parameters"])
        self.hparams.lora = lora.model_dump()
        self.hparams.task_parameters = {name: [*values] for name, values in (task_parameters or {}).items()}
        for name, value in UNSET.items():
            self.hparams[name] = value if self.hparams[name] is None else self.hparams[name]
        self.task = task_of(task, label_names, self.hparams.task_parameters)
        if len(label_names) < self.task.fewest_classes:
            raise UserError(f"there is one class, {label_names}; a classifier needs at least two.")
        check_hyperparameters(self.hparams)
        self.default_objective = TrainingLoss(self.task, self.hparams)
        self.weights = weights
        self.config: dict[str, Any] | None = None  # the run's settings, kept in its checkpoints
        self.network: Any = None
        self._cpu_bert: CpuBert | None = None
        self._base_sha256: str | None = None  # of the frozen weights
        self._average: WeightAverage | None = None  # while it trains
        self._second_pass: SecondPass | None = None  # while it trains
        self._loss_check = LossCheck()
        self._training_weights: dict[str, Tensor] | None = None  # of the run that is resumed
        self.last_weights: dict[str, Tensor] | None = None  # as trained, when a run with an average has ended
        self.class_tags = class_tags(label_names) if self.task.class_scores else []
        scores = {f"{split}_scores": SplitScores(self.task, self.class_tags) for split in SPLITS}
        self.scores: Any = nn.ModuleDict(scores)  # a module cannot be called train

    @property
    def score_names(self) -> list[str]:
        """What training and validation log at the end of an epoch, and so what can be monitored."""
        names = [MAIN, "loss_nats", *self.task.logged_names, *self.class_tags]
        return [f"{split}/{name}" for split in ("val", "train") for name in names]

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.default_objective.set_by_rows(getattr(self.trainer, "datamodule", None))

    def configure_model(self) -> None:
        """Builds the network when a run starts; `__init__` also runs when a checkpoint is read."""
        if self.network is None and self.weights is not None:
            names, lora, freeze = self.hparams.label_names, Lora(**self.hparams.lora), self.hparams.freeze
            found = load_trainable(self.weights, names, self.task.problem_type, lora, freeze)
            self.network, self._base_sha256 = found
            if self.hparams.pooling == "mean" and self.weights.checkpoint is None:  # which has it already
                self.add_mean_layer()

    def add_mean_layer(self) -> None:
        """Has the classifier read the mean of all tokens of a text.

        Raises:
            UserError: the architecture has no such layer, or the layer would not train.
        """
        if self.trains_part or not can_add_mean_layer(self.network):
            why = "with LoRA or frozen weights" if self.trains_part else f"for {self.encoder.model_type}"
            raise UserError(
                f"model.pooling is mean, which needs one more layer, and there is none {why}. Leave it out."
            )
        add_mean_layer(self.network)
        self.hparams.pooling = "mean"

    @property
    def trains_part(self) -> bool:
        """Whether some of the weights are frozen by a setting: checkpoints then have the others alone."""
        return bool(self.hparams.lora["rank"]) or self.hparams.freeze is not None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name: all, unless some are frozen by a setting."""
        named = self.named_parameters()
        return {name: each for name, each in named if each.requires_grad or not self.trains_part}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits, float (B, C), of texts given as int64 (B, T), right-padded; types None: all are 0."""
        assert self.network is not None, "give BertClassifier weights, or load a checkpoint"
        if self.fast_operations and CpuBert.can_run(self.network):
            if self._cpu_bert is None or self._cpu_bert.network is not self.network:
                self._cpu_bert = CpuBert(self.network)
            return self._cpu_bert(input_ids, attention_mask, token_type_ids)
        return exact_logits(self.network, input_ids, attention_mask, token_type_ids)

    @property
    def encoder(self) -> Encoder:
        """What the network's architecture says of itself."""
        return encoder_of(self.network)

    def _step(self, batch: Batch, split: str) -> tuple[Tensor, Tensor]:
        """Loss as it is reported (mean nats per text, unsmoothed) and logits (B, C); updates the metrics."""
        logits = text_logits(self, batch)
        loss = self.task.loss(functional, logits, batch["labels"])
        self.scores[f"{split}_scores"].update(loss, logits, batch["labels"])
        return loss, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self._second_pass:
            self._second_pass.before_first_pass()
        _, logits = self._step(batch, "train")
        self._batch = batch
        return self.training_loss(logits, batch)

    def training_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss that training minimises."""
        return (self.objective or self.default_objective)(logits, batch)

    def on_before_backward(self, loss: Tensor) -> None:
        """Checks the loss of each of the passes over a batch."""
        self._loss_check.add(self.trainer, loss, self._batch.get("rows"))

    def on_after_backward(self) -> None:
        if self._second_pass:
            self._second_pass.after_first_pass(self, self._batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._step(batch, "val")[1]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._step(batch, "test")[1]}

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """What the task says of texts, float32 (B, C): probabilities of classes, or values."""
        logits = text_logits(self, batch)
        outputs = torch.from_numpy(self.task.outputs(logits.detach().cpu().numpy()))
        if not outputs.isfinite().all():
            raise UserError(
                "the model gives a text a probability or a value that is not a number (NaN); nothing can be "
                "labelled with it. Use another checkpoint, or --trainer.precision 32-true."
            )
        return outputs

    def on_train_epoch_end(self) -> None:
        self._loss_check.check(self.trainer)
        self._log_scores("train")

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, split: str) -> None:
        found = self.scores[f"{split}_scores"].compute()
        if split != "train" and not found["loss_nats"].isfinite():
            refuse_scores(self.trainer, split, float(found["loss_nats"]))
        self.log_dict({f"{split}/{name}": value for name, value in found.items()})

    def configure_optimizers(self) -> Any:
        """AdamW (Loshchilov and Hutter, 2019), no decay on vectors; linear warm-up and decay by steps."""
        steps = self.trainer.estimated_stepping_batches
        if not steps < float("inf"):
            raise UserError("the run has no end; set --trainer.max_epochs or --trainer.max_steps.")
        warmup = int(self.hparams.warmup_ratio * steps)
        optimizer = optimizer_of(self, self._parameter_groups())
        if not isinstance(self.trainer.strategy, SHARDED):
            restore_moments_only(optimizer)
        factor = warmup_and_decay(warmup, max(1, int(steps)), lambda: self.time_share)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        own = getattr(optimizer, "optimizer", optimizer)  # Lightning wraps it
        if not isinstance(own, DeferredAdamW):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            own.clip_norm(float(gradient_clip_val))

    @property
    def second_pass_share(self) -> float:
        """Of the optimizer steps, 0 to 1: those with a second pass."""
        return 1 - self.hparams.adversarial_start if self._second_pass else 0.0

    def leave_out_second_pass(self) -> None:
        """Has no further step of the run make one."""
        if self._second_pass:
            self._second_pass.release()
            self._second_pass = None

    @property
    def learning_rate(self) -> float:
        """The highest learning rate in use; unset it is that of `default_learning_rate`."""
        if self.hparams.learning_rate is not None:
            return self.hparams.learning_rate
        layers = self.network.config.num_hidden_layers - (self.hparams.pooling == "mean")
        return default_learning_rate(self.network, layers, lora=self.hparams.lora["rank"] > 0)

    @property
    def parameters_by_group(self) -> list[list[nn.Parameter]]:
        """The parameters of each group of the optimizer, in its order."""
        return [group["params"] for group in self._parameter_groups()]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        rates = self.learning_rate, self.learning_rate * self.hparams.head_rate_factor
        decays = self.hparams.weight_decay, self.hparams.beta2
        groups = parameter_groups(self.network, set(self.trained.values()), rates, *decays)
        factors = layer_factors(self.network, self.hparams.layer_decay)
        if self.rate_factor is not None:
            for name, parameter in self.named_parameters():
                factors[parameter] *= self.rate_factor(name)
        return split_by_rate(groups, factors)

    def on_train_start(self) -> None:
        self._loss_check = LossCheck()
        check_strategy(self.trainer.strategy, self.hparams)
        reset_learning_rates(each.scheduler for each in self.trainer.lr_scheduler_configs)
        named = self.trained
        if self.hparams.adversarial_norm:
            start = self.hparams.adversarial_start * self.trainer.estimated_stepping_batches
            words = self.encoder.words_of(self.network)
            self._second_pass = SecondPass(words, self.hparams.adversarial_norm, start, self.trainer)
        if self.hparams.average_decay:
            decay, step = self.hparams.average_decay, self.trainer.global_step
            self._average = WeightAverage(named.values(), decay, step)
        if self._training_weights is not None:  # what was loaded is the average
            with torch.no_grad():
                for name, parameter in named.items():
                    parameter.copy_(self._training_weights[name])
            self._training_weights = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self._average is not None:
            self._average.update()

    def on_validation_start(self) -> None:
        self._loss_check.check(self.trainer)
        self._swap_average()

    def on_validation_end(self) -> None:  # after that of every callback: best.ckpt holds the average
        self._swap_average()

    def _swap_average(self) -> None:
        if self._average is not None:
            for optimizer in deferred(self.trainer.optimizers):
                optimizer.catch_up()
            self._average.swap()

    def on_train_end(self) -> None:
        self._loss_check.check(self.trainer)
        for optimizer in deferred(self.trainer.optimizers):
            optimizer.release()
        self._swap_average()
        if self._average is not None:
            self.last_weights = dict(zip(self.trained, self._average.values, strict=True))
        self.leave_out_second_pass()
        self._average = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.weights is not None
        self._loss_check.check(self.trainer)
        # A resumed run started from where its checkpoint says, not from the checkpoint.
        resumed = self.weights.checkpoint if self.trainer.ckpt_path else None
        checkpoint["weights"] = {
            "request": self.weights.request,
            "architecture": {**self.weights.architecture, **self._layers},
            "source": resumed.weights.source.model_dump() if resumed else self.weights.source.as_dict(),
            "base_sha256": self._base_sha256,
        }
        if self.trains_part:
            checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self.trained}
        if self._average is not None:
            names, (averages, others) = list(self.trained), self._average.both
            checkpoint["state_dict"].update(zip(names, averages, strict=True))
            # What training goes on from, and what the end of a fit compares the average with.
            if "optimizer_states" in checkpoint or self.keeps_training_weights:
                checkpoint["training_weights"] = dict(zip(names, others, strict=True))
        check_saved(self.trainer, checkpoint)
        checkpoint["method"] = self.method
        checkpoint["devices"] = self.trainer.world_size  # which share the batches of an epoch
        checkpoint["learning_rate"] = self.learning_rate  # in use; the hyper-parameter may be unset
        if self.config is not None:
            checkpoint["config"] = self.config
        if (score := f"val/{MAIN}") in self.trainer.callback_metrics:
            checkpoint["val_score"] = self.trainer.callback_metrics[score].item()

    @property
    def _layers(self) -> dict[str, int]:
        """How many layers the network has, as its config.json calls it, where one was added."""
        config = self.network.config
        name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        return {name: config.num_hidden_layers} if self.hparams.pooling == "mean" else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._training_weights = checkpoint.get("training_weights")
        if self.trains_part:  # the frozen weights are there already
            checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # without what would read YAML or pickles
        cls, checkpoint_path: Any, map_location: Any = None, base_at: str | None = None, **settings: Any
    ) -> Self:
        """The model of a local checkpoint, ready to be trained on; call `eval()` before labelling with it.

        Lightning's own method would import and call what the file names.

        Args:
            checkpoint_path: a file that lit_bert wrote.
            map_location: the device; None is the CPU.
            base_at: where its frozen weights are, if it has any that are neither packaged nor cached.
            settings: arguments of the constructor that take the place of the checkpoint's.

        Raises:
            UserError: the file cannot be read, or says something that no checkpoint of lit_bert says.
        """
        checkpoint = Checkpoint.read(checkpoint_path)
        weights = Weights.restored(checkpoint)
        weights.base_at = base_at
        model = cls(**{**dict(checkpoint.model), "weights": weights, **settings})
        model.configure_model()
        return model.to(map_location or "cpu")
