"""Tiny random encoders of every architecture, each with a tokenizer of its family, as ordinary folders.

Vocabularies are made of the words of the tests' texts, of letters and, for byte-level BPE, of bytes and the
merges that a few sentences give.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conftest import CLASSES, WORDS, texts_of

SENTENCES = [text for label in CLASSES for text in texts_of(label, 36)]
OF_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OF_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LIMIT = 64  # tokens a text

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": LIMIT,
}


@dataclass(frozen=True)
class Tiny:
    """A row of the table: what a tiny encoder of a type is made of, and how lit_bert has to treat it.

    Attributes:
        tokenizer: the class of transformers that a published model of the type has.
        config: what its config.json says beside SIZES.
        own_operations: whether a CPU computes it by lit_bert's own operations.
        graph: whether it is exported to ONNX.
        relative: whether it varies another type: one short test of the whole way is enough then.
    """

    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    own_operations: bool = False
    graph: bool = True
    relative: bool = False


AFTER_PADDING = {"max_position_embeddings": LIMIT + 2}  # the first position is that after the padding token
# Every architecture of lit_bert.encoders.table.ENCODERS, in its order.
ENCODERS: dict[str, Tiny] = {
    "bert": Tiny("BertTokenizer", own_operations=True),
    "megatron-bert": Tiny("BertTokenizer", graph=False, relative=True),
    "rembert": Tiny("RemBertTokenizer", {"input_embedding_size": 16}, graph=False, relative=True),
    "roberta": Tiny("RobertaTokenizer", AFTER_PADDING, own_operations=True),
    "xlm-roberta": Tiny("XLMRobertaTokenizer", AFTER_PADDING, own_operations=True),
    "camembert": Tiny("CamembertTokenizer", AFTER_PADDING, own_operations=True),
    "data2vec-text": Tiny("RobertaTokenizer", AFTER_PADDING, own_operations=True, relative=True),
    "roberta-prelayernorm": Tiny("RobertaTokenizer", AFTER_PADDING, graph=False, relative=True),
    "xlm-roberta-xl": Tiny("XLMRobertaTokenizer", AFTER_PADDING, graph=False, relative=True),
    "convbert": Tiny(
        "BertTokenizer", {"embedding_size": 16, "num_attention_heads": 4}, graph=False, relative=True
    ),
    "electra": Tiny("BertTokenizer", {"embedding_size": 16}, own_operations=True),
    "distilbert": Tiny("DistilBertTokenizer", own_operations=True),
    "albert": Tiny(
        "AlbertTokenizer",
        {"embedding_size": 16, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    ),
    "mpnet": Tiny("MPNetTokenizer", AFTER_PADDING),
    "deberta-v2": Tiny(
        "DebertaV2Tokenizer",
        {
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
    ),
    "modernbert": Tiny(
        "PreTrainedTokenizerFast",
        {
            "local_attention": 16,  # of the second layer; the first sees the whole text
            "attention_dropout": 0.1,
            **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
        },
    ),
}
WHOLE = sorted(name for name, each in ENCODERS.items() if not each.relative)
RELATIVES = sorted(name for name, each in ENCODERS.items() if each.relative)
OF_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def word_pieces(special: list[str]) -> dict[str, int]:
    """A vocabulary of WordPiece: words, letters, and letters within words."""
    letters = string.ascii_lowercase
    pieces = dict.fromkeys([*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)])
    return {piece: index for index, piece in enumerate(pieces)}


def pieces_with_scores(special: list[str]) -> list[tuple[str, float]]:
    """A vocabulary of Unigram: words that start with a space, and single letters, which cost more."""
    words = dict.fromkeys(f"▁{word}" for word in WORDS)
    letters = dict.fromkeys(["▁", *string.ascii_letters, *string.digits, *",.!'-"])
    return [
        *((token, 0.0) for token in special),
        *((word, -4.0) for word in words),
        *((letter, -8.0) for letter in letters if letter not in special),
    ]


def byte_pairs(special: list[str]) -> Any:
    """A tokenizers.Tokenizer of byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES, trainer)
    return made


def tokenizer(kind: str) -> Any:
    """A tokenizer of that class of transformers, with the parts that published ones have."""
    import transformers
    from tokenizers import AddedToken, normalizers, processors

    made_by: Any = getattr(transformers, kind)
    mask = AddedToken("<mask>", lstrip=True, special=True)  # takes the space before it, as published
    if kind == "RobertaTokenizer":
        model = json.loads(byte_pairs(OF_ROBERTA).to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        return made_by(vocab=model["vocab"], merges=merges, mask_token=mask)
    if kind == "PreTrainedTokenizerFast":  # of ModernBERT
        special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
        made = byte_pairs(special)
        made.normalizer = normalizers.NFC()
        made.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        named = dict(
            zip(("unk_token", "pad_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
        )
        return made_by(tokenizer_object=made, **named)
    if kind == "MPNetTokenizer":
        return made_by(vocab=word_pieces(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]))
    if kind in ("XLMRobertaTokenizer", "CamembertTokenizer"):
        return made_by(vocab=pieces_with_scores(OF_ROBERTA), mask_token=mask)
    if kind == "AlbertTokenizer":
        return made_by(vocab=pieces_with_scores(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]))
    if kind in ("DebertaV2Tokenizer", "RemBertTokenizer"):
        return made_by(vocab=pieces_with_scores(OF_BERT))
    return made_by(vocab=word_pieces(OF_BERT))


def write(model_type: str, folder: Path, **config: Any) -> Path:
    """Writes a folder with a random encoder, as transformers saves a pretrained one: without a head."""
    from transformers import CONFIG_MAPPING, AutoModel

    row = ENCODERS[model_type]
    made = tokenizer(row.tokenizer)
    made.save_pretrained(folder)
    values = {**SIZES, **row.config, **config}
    values |= {"vocab_size": len(made), "pad_token_id": made.pad_token_id}
    if model_type == "distilbert":
        values = {OF_DISTILBERT.get(name, name): value for name, value in values.items()}
    torch.manual_seed(0)
    network = AutoModel.from_config(CONFIG_MAPPING[model_type](**values))
    with torch.no_grad():
        for name, value in network.named_parameters():  # as if they had been trained
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
            elif "embeddings" not in name:
                value.mul_(5)
    network.save_pretrained(folder)
    return folder
