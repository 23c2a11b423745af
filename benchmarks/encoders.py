"""Ten architectures side by side: values, path, speed against the Hugging Face Trainer at its best, export.

Weights are random, of one size for all, as speed and rounding do not depend on what was learned; all read the
texts with MiniLM's tokenizer, so that every architecture gets the same tokens.

    python -m benchmarks.encoders --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Check, Contestant, Run, module_contestant, paired_ratios

KINDS = (
    *("bert", "roberta", "distilbert", "xlm-roberta", "camembert", "electra"),
    *("albert", "mpnet", "deberta-v2", "modernbert"),
)
VALUES, OWN, BEST = "values", "lit_bert", "best"
SAMPLE_TEXTS = 64  # whose values are compared


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    flags = harness.parser("encoders", __doc__, rounds=3)
    flags.add_argument("--warmup", type=int, default=5, help="steps before the clock starts (default 5)")
    flags.add_argument("--steps", type=int, default=40, help="steps counted (default 40)")
    flags.add_argument("--batch_size", type=int, default=32, help="texts a step (default 32)")
    flags.add_argument("--layers", type=int, default=6, help="layers of each encoder (default 6)")
    flags.add_argument("--hidden", type=int, default=384, help="hidden size, 32 a head (default 384)")
    args = harness.checked_flags(flags.parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args))
    if args.quick:
        args.warmup, args.steps, args.batch_size, args.layers, args.hidden = 1, 2, 8, 2, 64
    contestants = harness.selected(line_up(args), args.only)
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=not args.quick)
    notes = [
        f"{args.layers} layers of {args.hidden} with random values, on {harness.data_folder().name}: "
        f"batches of {args.batch_size}, {args.steps} steps counted after {args.warmup}, settings as in "
        "`python -m benchmarks.train`. best is bf16, group_by_length and fused AdamW.",
        "Largest differences from transformers' own modules, in 32 bits without dropout: of logits as they "
        "are, of gradients as a share of the largest gradient of their parameter; of probabilities for ONNX.",
    ]
    columns = {"samples/s": "samples_per_s", "peak memory, MB": "peak_mb"}
    report = harness.Report(
        "encoders",
        "Ten architectures",
        contestants,
        runs,
        columns,
        checks(runs),
        notes,
        args.quick,
        table(runs),
    )
    return report.publish(args.results)


def line_up(args: argparse.Namespace) -> list[Contestant]:
    """All contestants: three an architecture, of which the values are the same in every round."""
    names = ("warmup", "steps", "batch_size", "layers", "hidden")
    sizes = [each for name in names for each in (f"--{name}", getattr(args, name))]
    return [
        module_contestant("encoders", f"{kind} {what}", *sizes, rounds=1 if what == VALUES else None)
        for kind in KINDS
        for what in (VALUES, OWN, BEST)
    ]


def table(runs: list[Run]) -> list[str]:
    """One row an architecture."""
    lines = [
        "| architecture | computed by | logits differ | gradients differ | samples/s to HF at its best | "
        "32-bit ONNX differs | 8-bit ONNX differs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in KINDS:
        found: dict[str, Any] = next(
            (run.figures for run in runs if run.contestant == f"{kind} {VALUES}" and not run.failure), {}
        )
        ratios = paired_ratios(runs, "samples_per_s", f"{kind} {OWN}", f"{kind} {BEST}")
        cells = [kind, found.get("path", "–")]
        cells += [f"{found[name]:.1g}" if name in found else "–" for name in ("logits", "gradients")]
        cells.append(harness.median_and_range(ratios))
        cells += [f"{found[name]:.1g}" if name in found else "none" for name in ("onnx", "int8")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def checks(runs: list[Run]) -> list[Check]:
    """The targets."""
    done = [run.figures for run in runs if run.contestant.endswith(VALUES) and not run.failure]
    ratios = [
        statistics.median(some)
        for kind in KINDS
        if (some := paired_ratios(runs, "samples_per_s", f"{kind} {OWN}", f"{kind} {BEST}"))
    ]
    return [
        Check(
            "largest difference of a logit", [max((each["logits"] for each in done), default=0)], 1e-4, False
        ),
        Check(
            "largest difference of a gradient",
            [max((each["gradients"] for each in done), default=0)],
            1e-3,
            False,
        ),
        Check("samples/s to HF at its best, least of the architectures", ratios and [min(ratios)], 1.0),
    ]


# --- in the contestant's own process ---


def contest(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one contestant."""
    from benchmarks.steps import StepClock

    kind, what = args.contestant.split()
    weights = folder(kind, args)
    if what == VALUES:
        return compared(weights)
    clock = StepClock(args.warmup, args.steps)
    (train_lit_bert if what == OWN else train_hugging_face)(args, clock, weights)
    return clock.figures(shape(args))


def shape(args: argparse.Namespace) -> Any:
    """What a token costs."""
    from benchmarks.steps import Shape

    return Shape(args.layers, args.hidden, 4 * args.hidden)


def folder(kind: str, args: argparse.Namespace) -> Path:
    """Writes a random encoder with MiniLM's tokenizer into the working directory."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModel

    from lit_bert.sources.weights import MINILM, Weights

    target = Path("weights").resolve()
    target.mkdir(exist_ok=True)
    tokenizer = Weights(MINILM)
    for name, content in tokenizer.tokenizer_files.items():
        (target / name).write_text(content, encoding="utf-8")
    sizes: dict[str, Any] = {
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.hidden // 32,
        "intermediate_size": 4 * args.hidden,
        "vocab_size": tokenizer.described.vocab_size,
        "max_position_embeddings": 514,
        "pad_token_id": 0,
    }
    others: dict[str, dict[str, Any]] = {
        "albert": {"embedding_size": 128, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
        "deberta-v2": {
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
        "electra": {"embedding_size": 128},
        "modernbert": dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0),
        "mpnet": {"pad_token_id": 1},
    }
    sizes |= others.get(kind, {})
    if kind == "distilbert":
        own = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        own["intermediate_size"] = "hidden_dim"
        sizes = {own.get(name, name): value for name, value in sizes.items()}
    torch.manual_seed(0)
    AutoModel.from_config(CONFIG_MAPPING[kind](**sizes)).save_pretrained(target)
    return target


def compared(weights: Path) -> dict[str, Any]:
    """Which code computes the network, and how far its values and those of the exported files are away."""
    import torch
    from torch.nn.functional import cross_entropy

    from lit_bert.encoders.table import encoder_of
    from lit_bert.io import tokenizers
    from lit_bert.model.bert import CpuBert
    from lit_bert.model.logits import exact_logits
    from lit_bert.model.pretrained import load_network
    from lit_bert.sources.weights import Weights

    torch.manual_seed(0)
    source = Weights(str(weights), stand_in=None)
    network = load_network(source, ["a", "b", "c"]).eval()
    with torch.no_grad():
        encoder_of(network).logits_of(network).weight.mul_(20)  # so that texts differ
    encodings = tokenizers.encode(source.tokenizer(128), sample_texts())
    ids = [each.ids for each in encodings]
    mask = torch.tensor([[1] * len(each) + [0] * (max(map(len, ids)) - len(each)) for each in ids])
    input_ids = torch.full(mask.shape, source.pad_token_id)
    input_ids[mask == 1] = torch.tensor([token for each in ids for token in each])
    labels = torch.arange(len(ids)) % 3

    def values(logits: Any) -> tuple[Any, dict[str, Any]]:
        network.zero_grad()
        cross_entropy(logits, labels).backward()
        named = network.named_parameters()
        return logits.detach(), {name: each.grad.clone() for name, each in named if each.grad is not None}

    fast = CpuBert.can_run(network)
    run = CpuBert(network) if fast else lambda *batch: exact_logits(network, *batch)
    own, own_gradients = values(run(input_ids, mask))
    theirs, gradients = values(network(input_ids=input_ids, attention_mask=mask).logits)
    shares = [
        float((own_gradients[name] - each).abs().max() / each.abs().max().clamp(min=1e-6))
        for name, each in gradients.items()
        if not name.endswith(("key.bias", "k_lin.bias", "key_proj.bias", ".k.bias"))  # all rounding
    ]
    found = {
        "path": "fewer operations" if fast else "transformers",
        "logits": float((own - theirs).abs().max()),
        "gradients": max(shares),
    }
    return found | exported(network, ids, input_ids, mask, theirs)


def sample_texts() -> list[str]:
    """The first texts of the training split."""
    from benchmarks import hf

    return list(hf.split("train")["text"][:SAMPLE_TEXTS])


def exported(network: Any, ids: list[list[int]], input_ids: Any, mask: Any, theirs: Any) -> dict[str, float]:
    """The largest difference of a probability by each ONNX file, where the architecture has a graph."""
    import onnxruntime
    import torch

    from lit_bert.encoders.table import graph_of
    from lit_bert.io.onnx_files import check_onnx
    from lit_bert.product.formats import Exportable
    from lit_bert.product.onnx import smoothed, write_int8, write_onnx

    if graph_of(network) is None:
        return {}
    exact, even, quick = Path("model.onnx"), Path("even.onnx"), Path("model.int8.onnx")
    write_onnx(network, exact)
    batches = Exportable(network, ids).batches
    write_onnx(smoothed(network, batches), even)
    write_int8(even, quick, batches)
    found = {}
    for name, file in (("onnx", exact), ("int8", quick)):
        check_onnx(file)
        session = onnxruntime.InferenceSession(file)
        batch = {"input_ids": input_ids.numpy(), "attention_mask": mask.numpy()}
        logits = torch.from_numpy(session.run(None, batch)[0])
        found[name] = float((logits.softmax(-1) - theirs.softmax(-1)).abs().max())
    return found


def train_lit_bert(args: argparse.Namespace, clock: Any, weights: Path) -> None:
    """`fit`, timed."""
    from benchmarks.fit import Clock, fit
    from benchmarks.train import fit_flags

    Clock.clock = clock
    fit(*fit_flags(args), f"--weights.pretrained={weights}", callbacks=[Clock])


def train_hugging_face(args: argparse.Namespace, clock: Any, weights: Path) -> None:
    """The Trainer at its best, timed."""
    from benchmarks.train import trainer_of

    trainer_of(args, BEST, clock, weights).train()


if __name__ == "__main__":
    sys.exit(main())
