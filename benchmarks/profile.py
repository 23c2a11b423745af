"""Where a training step's time goes, operator by operator: a table for each variant in benchmarks/profiles/.

python -m benchmarks.profile lit_bert
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

WARMUP, STEPS, ROWS = 10, 30, 25


def main(argv: list[str] | None = None) -> int:
    """Profiles one variant and writes its table."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    flags.add_argument("variant", choices=("lit_bert", "best", "default"))
    flags.add_argument("--name", help="file name of the table, without .md (default: the variant)")
    args = flags.parse_args(argv)

    import torch

    from benchmarks import harness, train

    target = Path(__file__).parent / "profiles" / f"{args.name or args.variant}.md"
    os.environ["HF_HUB_OFFLINE"] = "1"
    settings = argparse.Namespace(contestant=args.variant, warmup=WARMUP, steps=STEPS, batch_size=32)
    with tempfile.TemporaryDirectory(prefix="lit_bert-profile-") as place:
        os.chdir(place)
        os.environ["LIT_BERT_CACHE"] = os.environ["HF_HOME"] = place
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        profiler = torch.profiler.profile(activities=activities)
        run = train.train_lit_bert if args.variant == "lit_bert" else train.train_hugging_face
        run(settings, _profiled_clock(profiler))
        os.chdir(harness.ROOT)
    machine = harness.machine_facts()
    lines = [
        f"# Profile of {args.name or args.variant}",
        "",
        f"{STEPS} training steps of MiniLM, batches of 32; {machine['cpu']}, {machine['cores']} cores, "
        f"GPU: {machine['gpu']}; commit {machine['commit']}, {machine['date']}.",
        "",
        *table(profiler.key_averages(), STEPS),
    ]
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(target.read_text(encoding="utf-8"))
    return 0


def _profiled_clock(profiler: Any) -> Any:
    """A StepClock that profiles the steps which it counts."""
    from benchmarks.steps import StepClock

    class Profiled(StepClock):
        def step(self, lengths: Any) -> None:
            super().step(lengths)
            if len(self.times) == self.warmup:
                profiler.start()
            elif len(self.times) == self.warmup + self.steps:
                profiler.stop()

    return Profiled(WARMUP, STEPS)


def table(events: Any, steps: int) -> list[str]:
    """Markdown: the operators with the most time of their own, in milliseconds a step."""
    ordered = sorted(events, key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in ordered)
    lines = [
        f"{total / steps / 1000:.1f} ms a step inside operators.",
        "",
        "| operator | ms a step | share | calls a step |",
        "| --- | --- | --- | --- |",
    ]
    for event in ordered[:ROWS]:
        own = event.self_cpu_time_total
        lines.append(
            f"| `{event.key}` | {own / steps / 1000:.2f} | {own / total:.1%} | {event.count / steps:.1f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
