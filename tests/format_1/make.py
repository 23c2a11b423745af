"""Makes the checkpoints of format 1 in this folder, with the code that still wrote them.

`settings-*.ckpt` came from commit 6d0d10e, the last one that wrote format 1, and `config-*.ckpt` from
686526e, before the settings of a run were told from how it is composed:

    git archive COMMIT | tar x -C OLD
    PYTHONPATH=OLD:OLD/tests python tests/format_1/make.py settings tests/format_1

The texts are those of tests/conftest.py. `*.json` is what the same code made of a few.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from conftest import CLASSES, WORDS, texts_of, write_csv
from transformers import BertConfig, BertModel, BertTokenizerFast

from lit_bert import BertClassifier
from lit_bert.__main__ import main

TEXTS = ["i am so happy today", "this is sad and down", "it was late but mad", "the dog"]


def tiny_bert(folder: Path) -> None:
    """A random BERT of 700 values."""
    folder.mkdir()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 4, "intermediate_size": 8, "max_position_embeddings": 32}
    config = BertConfig(vocab_size=len(vocab), num_hidden_layers=2, num_attention_heads=2, **sizes)
    BertModel(config).save_pretrained(folder)


def corpus(folder: Path) -> None:
    """As the fixture of tests/conftest.py has it."""
    folder.mkdir()
    for split, start, stop in (("train", 0, 20), ("validation", 20, 28), ("test", 28, 36)):
        rows = [
            {"text": text, "label": label} for label in CLASSES for text in texts_of(label, 36)[start:stop]
        ]
        write_csv(folder / f"{split}.csv", rows)


def make(kind: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        tiny_bert(Path("bert"))
        corpus(Path("corpus"))
        flags = ["--weights.pretrained=bert", "--data.dataset=corpus", "--trainer.accelerator=cpu"]
        flags += ["--trainer.max_epochs=8", "--data.batch_size=8", "--model.learning_rate=0.03"]
        flags += ["--model.average_decay=0.5", "--model.adversarial_norm=0"]
        flags += ["--data.max_length=30", "--trainer.precision=32-true"]
        assert main(["fit", *flags]) == 0
        for name in ("best", "last"):
            file = Path(shutil.copy(f"checkpoints/version_0/{name}.ckpt", target / f"{kind}-{name}.ckpt"))
            model = BertClassifier.load_from_checkpoint(file).eval()
            tokenizer = model.weights.tokenizer(30)
            probs = []
            for ids in (torch.tensor([tokenizer.encode(text).ids]) for text in TEXTS):
                with torch.inference_mode():
                    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                    probs += model.predict_step(batch, 0).tolist()
            answers = {"texts": TEXTS, "names": model.hparams.label_names, "probs": probs}
            file.with_suffix(".json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]).resolve())
