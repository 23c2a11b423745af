"""`validate` and `test`, as LightningCLI has them."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_bert.cli.lightning import Verb, announce
from lit_bert.data.module import EmotionDataModule
from lit_bert.evaluate.outputs import Outputs
from lit_bert.evaluate.predictions import TRAINED, read_hashes
from lit_bert.evaluate.record import fit_usage, record_scores
from lit_bert.model.module import BertClassifier


class Evaluate(Verb):
    """Score a checkpoint on one split."""

    trainer_settings: ClassVar[dict[str, Any]] = {
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    split: ClassVar[str]

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        return {cls.name: {"model", "dataloaders", "datamodule", "verbose", "weights_only"}}

    def evaluate(self, datamodule: EmotionDataModule, model: BertClassifier, **_: Any) -> None:
        """Prints the scores, what they rest on, and keeps them as JSON beside the checkpoint."""
        assert self.checkpoint is not None
        datamodule.setup(self.name)  # what is wrong with the rows shows first
        trained = read_hashes(self.checkpoint.run / TRAINED)
        announce(self.trainer, [])
        outputs = Outputs()
        self.trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
        # The weights came with `weights.checkpoint`: nothing is left to load.
        getattr(self.trainer, self.name)(model, datamodule=datamodule, verbose=False)
        if not self.trainer.is_global_zero:
            return
        print(f"checkpoint {self.checkpoint.path}\nsha256     {self.checkpoint.sha256}")
        if self.checkpoint.facts.val_f1 is not None:
            fit = fit_usage(self.checkpoint)
            rows = f", on {fit['rows']:,} rows" if fit else ""
            print(f"validation macro F1 when it was saved: {self.checkpoint.facts.val_f1:.4f}{rows}")
        split = datamodule.splits.val_name if self.split == "val" else datamodule.hparams.test_split
        sources = [*self.sources(), ("scored on", datamodule.source)]
        record_scores(self.checkpoint, self.name, split, outputs.predictions, sources, trained)

    validate = test = evaluate


class Validate(Evaluate):
    """Score a checkpoint on the validation split; without --ckpt_path the best of the newest fit."""

    name, split = "validate", "val"


class Test(Evaluate):
    """Score a checkpoint on the test split; without --ckpt_path the best of the newest fit."""

    name, split = "test", "test"
