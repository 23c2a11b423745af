"""Pretrained values into the network: an encoder with a fresh head, or that of a checkpoint.

python -m lit_bert fit --weights.pretrained ./my-bert
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_bert import UserError
from lit_bert.encoders.base import Encoder
from lit_bert.encoders.table import ENCODERS
from lit_bert.io import escape
from lit_bert.model.trainable import frozen_sha256, merge, set_trainable
from lit_bert.sources.checkpoint import check_same_shapes
from lit_bert.sources.finite import check_weights_finite
from lit_bert.sources.folder import read_values
from lit_bert.sources.schema import Lora
from lit_bert.sources.weights import Weights
from lit_bert.task.single import SingleLabel


def load_network(
    weights: Weights,
    label_names: list[str],
    problem_type: str = SingleLabel.problem_type,
    keeps_changes: bool = False,
    has_head: bool = False,
) -> Any:
    """The network in 32 bit, with a fresh head unless a checkpoint of the same labels provides one.

    Draws the head from torch's global generator: seed it before.

    Args:
        keeps_changes: whether what a checkpoint has frozen stays so, with its changes of low rank beside it;
            else they are merged, and all of the network can train.
        has_head: whether the folder has to have the whole classifier, of these classes in their order, so
            that nothing is drawn.

    Returns:
        A classifier of transformers, such as BertForSequenceClassification, in training mode.

    Raises:
        UserError: the weights cannot be read, lack tensors or are not finite.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    architecture = weights.architecture
    encoder = ENCODERS[architecture["model_type"]]
    config = CONFIG_MAPPING[encoder.model_type].from_dict(
        {
            **architecture,
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
            "problem_type": problem_type,
        }
    )
    make = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    try:
        with torch.device("meta"):  # names and shapes alone: what it would take is not known to be there
            expected = make(config)
    except Exception as error:  # values that fit their bounds and not each other
        raise UserError(
            f"{weights.source.name} describes a {encoder.model_type} that transformers cannot build "
            f"({type(error).__name__}: {escape.line(error, 200)}). Give other weights."
        ) from None
    if weights.checkpoint:
        network, missing = _from_checkpoint(weights, encoder, make, config, expected, keeps_changes)
    else:
        folder_labels = weights.folder_labels
        network, missing = _from_folder(weights, encoder, make, config, expected)
        has_logits = not any(encoder.in_logits(name) for name in missing)
        if has_logits and not has_head and folder_labels != label_names:
            _fit_classes(encoder.logits_of(network), folder_labels, label_names, config.initializer_range)
    lost = [name for name in missing if has_head or not encoder.in_head(name)]
    if lost and all(map(encoder.in_head, lost)):
        raise UserError(
            f"{weights.source.name} is an encoder without a classifier of these classes (it has no "
            f"{lost[0]}, for one). Train one: python -m lit_bert fit --weights.pretrained "
            f"{escape.line(weights.request['pretrained'])}."
        )
    if lost:
        raise UserError(
            f"{weights.source.name} lacks {len(lost)} tensors of its architecture, {lost[0]} for one: "
            "these are not the weights that config.json describes."
        )
    check_weights_finite([*network.named_parameters(), *network.named_buffers()], weights.source)
    return network.train()  # from_pretrained leaves it in eval mode, where dropout does nothing


def load_trainable(
    weights: Weights, label_names: list[str], problem_type: str, lora: Lora, freeze: str | None
) -> tuple[Any, str | None]:
    """The network with what does not train frozen, and the SHA-256 of that; None where all of it trains.

    Raises:
        UserError: as of `load_network`; a checkpoint that goes on has trained another part; one that a new
            part is to be trained beside is not whole.
    """
    # Two threads that share a process's first call of these can take a kernel of lower precision, and
    # then runs with equal seeds diverge (https://github.com/pytorch/pytorch/issues/188792): one makes it.
    one = torch.ones(1)
    one.tanh(), one.sqrt()
    restored = weights.checkpoint if weights.is_restored else None
    if restored and (restored.model.lora, restored.model.freeze) != (lora, freeze):
        raise UserError(
            f"model.lora and model.freeze are not those of {restored.path}. Leave them out, or start a new "
            f"run from its weights with --weights.checkpoint {restored.path}."
        )
    start = weights.checkpoint
    if not restored and start and start.model.trains_part and (lora.rank or freeze):
        raise UserError(
            f"{start.path} holds only the weights that trained; what a new part is trained beside has to be "
            "whole. Export it first, and start from that folder: python -m lit_bert export --ckpt_path "
            f"{start.path} --to FOLDER, then fit --weights.pretrained FOLDER."
        )
    network = load_network(weights, label_names, problem_type, keeps_changes=restored is not None)
    if restored:
        return network, restored.weights.base_sha256
    if not lora.rank and freeze is None:
        return network, None
    set_trainable(network, lora, freeze)
    return network, frozen_sha256(network)


def _from_checkpoint(
    weights: Weights, encoder: Encoder, make: Any, config: Any, expected: nn.Module, keeps_changes: bool
) -> tuple[Any, list[str]]:
    """The network with the values of a checkpoint, and the names of those that were drawn anew."""
    checkpoint, label_names = weights.checkpoint, list(config.id2label.values())
    assert checkpoint is not None
    known = checkpoint.model.label_names
    same_classes = sorted(label_names) == sorted(known)
    state = {name.removeprefix("network."): value for name, value in checkpoint.state_dict.items()}
    wanted: dict[str, Tensor] = expected.state_dict()
    network = None
    if checkpoint.model.trains_part:
        network = _frozen_part(weights, encoder, make, config, expected)
        wanted = {name: each for name, each in network.named_parameters() if each.requires_grad}
    found, wanted = (
        {name: value for name, value in some.items() if same_classes or not encoder.in_logits(name)}
        for some in (state, wanted)
    )
    check_same_shapes(found, wanted, str(checkpoint.path))
    network = network or make(config)
    missing = [name for name in network.load_state_dict(found, strict=False)[0] if name in wanted]
    if known != label_names and (same_classes or checkpoint.model.trains_part):
        _fit_classes(encoder.logits_of(network), known, label_names, config.initializer_range)
    if weights.keeps_classes and not same_classes:
        rows = {name.rpartition(".")[2]: value for name, value in state.items() if encoder.in_logits(name)}
        _keep_rows(encoder.logits_of(network), rows, known, label_names)
    if checkpoint.model.trains_part and not keeps_changes:
        merge(network)
    return network, missing


def _keep_rows(logits: nn.Linear, rows: dict[str, Tensor], known: list[str], label_names: list[str]) -> None:
    """Puts the rows of a last layer into that of other classes, by the names that both have.

    Args:
        rows: `weight` and `bias`, where it has one, for each of the classes in `known`.
    """
    stay = [name for name in label_names if name in known]
    here, there = ([some.index(name) for name in stay] for some in (label_names, known))
    with torch.no_grad():
        for name, parameter in logits.named_parameters():
            parameter[here] = rows[name][there].to(parameter.dtype)


def _frozen_part(weights: Weights, encoder: Encoder, make: Any, config: Any, expected: nn.Module) -> Any:
    """The network with the frozen values of a checkpoint, whose other values are still to be loaded.

    Raises:
        UserError: they are not where they were, or not those that the checkpoint was trained with.
    """
    checkpoint = weights.checkpoint
    assert checkpoint is not None
    try:
        base = weights.base
        if base.checkpoint is None:
            network, _ = _from_folder(base, encoder, make, config, expected)
        else:
            network = load_network(base, list(config.id2label.values()), config.problem_type)
        set_trainable(network, checkpoint.model.lora, checkpoint.model.freeze)
    except UserError as error:
        raise UserError(
            f"{escape.line(checkpoint.path)} has the weights that trained alone, and the others cannot be "
            f"had from {escape.line(weights.base_at or checkpoint.weights.source.as_source())}: {error} "
            "Name a place that has them with --weights.pretrained."
        ) from None
    if (found := frozen_sha256(network)) != checkpoint.weights.base_sha256:
        raise UserError(
            f"{escape.line(checkpoint.path)} was trained beside frozen weights with the SHA-256 "
            f"{checkpoint.weights.base_sha256}, and those of {escape.line(base.source)} have {found}. Name a "
            "place that has them with --weights.pretrained."
        )
    return network


def _from_folder(
    weights: Weights, encoder: Encoder, make: Any, config: Any, expected: nn.Module
) -> tuple[Any, list[str]]:
    """The network with the values of a folder, and the names of those that were drawn anew."""
    from transformers.utils import logging

    needed = sum(each.numel() for name, each in expected.named_parameters() if not encoder.in_head(name))
    values = read_values(weights.folder, needed)
    # Its report on newly drawn weights is ours to check, and its bar would show at every start.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # Values alone: of a folder, transformers would read other files too, and what those name.
        network, info = make.from_pretrained(
            None,
            config=config,
            state_dict=values,
            dtype="float32",
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # a head of other classes; the rest is checked by the caller
        )
    except Exception as error:  # advice of libraries is for programmers, and may harm: it stays here
        raise UserError(
            f"the weights in {weights.folder} cannot be read: they do not fit config.json "
            f"({type(error).__name__}). Copy the folder again."
        ) from error
    # Heads of other tasks are left behind; a part of the network itself is not, as what is left would
    # be another network: of fewer layers, or without relative positions.
    extra = [name for name in sorted(info["unexpected_keys"]) if encoder.in_base(name, network)]
    if extra:
        raise UserError(
            f"{weights.source.name} has {len(extra)} tensors that its architecture lacks, "
            f"{escape.line(extra[0], 80)} for one: these are not the weights that config.json "
            "describes."
        )
    return network, [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]


def scale_logits(network: Any, scale: float, shift: float) -> None:
    """Multiplies the logits of a network and adds to them for good; one without a bias there gets one."""
    if (scale, shift) == (1.0, 0.0):
        return
    logits = ENCODERS[network.config.model_type].logits_of(network)
    if logits.bias is None:
        logits.bias = nn.Parameter(torch.zeros(logits.out_features))
    with torch.no_grad():
        logits.weight.mul_(scale)
        logits.bias.mul_(scale).add_(shift)


def _fit_classes(
    logits: nn.Linear, folder_labels: list[str], label_names: list[str], deviation: float
) -> None:
    """Puts the rows of a folder's last layer into our order, or draws them anew for other classes."""
    if sorted(folder_labels) == sorted(label_names):  # the same classes in another order
        order = [folder_labels.index(name) for name in label_names]
        with torch.no_grad():
            for parameter in logits.parameters():
                parameter.copy_(parameter[order])
    else:  # a head for as many classes, but of another task
        nn.init.normal_(logits.weight, std=deviation)
        if logits.bias is not None:
            nn.init.zeros_(logits.bias)
