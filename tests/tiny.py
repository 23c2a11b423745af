"""Tiny random encoders of every architecture, each with a tokenizer of its family, as ordinary folders.

Vocabularies are made of the words of the tests' texts, of letters and, for byte-level BPE, of bytes and the
merges that a few sentences give.
"""

from __future__ import annotations

import json
import string
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
# What each says beside the sizes: the first position of RoBERTa's kin is that after its padding token.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": LIMIT + 2},
    "distilbert": {},
    "xlm-roberta": {"max_position_embeddings": LIMIT + 2},
    "mpnet": {"max_position_embeddings": LIMIT + 2},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "camembert": {"max_position_embeddings": LIMIT + 2},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
    },
    "modernbert": {
        "local_attention": 16,  # of the second layer; the first sees the whole text
        "attention_dropout": 0.1,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
    },
}
# Whose tokenizers and modules are variations of those above.
OTHERS: dict[str, dict[str, Any]] = {
    "convbert": {"embedding_size": 16, "num_attention_heads": 4},
    "data2vec-text": {"max_position_embeddings": LIMIT + 2},
    "megatron-bert": {},
    "rembert": {"input_embedding_size": 16},
    "roberta-prelayernorm": {"max_position_embeddings": LIMIT + 2},
    "xlm-roberta-xl": {"max_position_embeddings": LIMIT + 2},
}
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


def tokenizer(model_type: str) -> Any:
    """The tokenizer of transformers that a published model of the type has."""
    import transformers
    from tokenizers import AddedToken, normalizers, processors

    names = {
        "albert": "AlbertTokenizer",
        "camembert": "CamembertTokenizer",
        "deberta-v2": "DebertaV2Tokenizer",
        "distilbert": "DistilBertTokenizer",
        "mpnet": "MPNetTokenizer",
        "rembert": "RemBertTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
        "xlm-roberta-xl": "XLMRobertaTokenizer",
    }
    kind: Any = getattr(transformers, names.get(model_type, "BertTokenizer"))
    mask = AddedToken("<mask>", lstrip=True, special=True)  # takes the space before it, as published
    if model_type in ("roberta", "roberta-prelayernorm", "data2vec-text"):
        model = json.loads(byte_pairs(OF_ROBERTA).to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        return transformers.RobertaTokenizer(vocab=model["vocab"], merges=merges, mask_token=mask)
    if model_type == "modernbert":
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
        return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **named)
    if model_type == "mpnet":
        return kind(vocab=word_pieces(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]))
    if model_type in ("xlm-roberta", "xlm-roberta-xl", "camembert"):
        return kind(vocab=pieces_with_scores(OF_ROBERTA), mask_token=mask)
    if model_type == "albert":
        return kind(vocab=pieces_with_scores(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]))
    if model_type in ("deberta-v2", "rembert"):
        return kind(vocab=pieces_with_scores(OF_BERT))
    return kind(vocab=word_pieces(OF_BERT))


def write(model_type: str, folder: Path, **config: Any) -> Path:
    """Writes a folder with a random encoder, as transformers saves a pretrained one: without a head."""
    from transformers import CONFIG_MAPPING, AutoModel

    made = tokenizer(model_type)
    made.save_pretrained(folder)
    values = {**SIZES, **(CONFIGS | OTHERS)[model_type], **config}
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
