"""Labels chosen by `label` beside labels of texts drawn at random: the accuracy after 50, 100 and 200.

The pool is the training split of the packaged sample, and who labels gives what stands there. Accuracy is
that of the frozen encoder with a head for the labels, on the test split. Each round has its own seed, by
which texts are drawn and chosen.

    python -m benchmarks.labelling --rounds 5
"""

from __future__ import annotations

import csv
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from benchmarks.harness import Check, Run, module_contestant
from benchmarks.machine import ROOT

if TYPE_CHECKING:
    from lit_bert.labelling.session import Session

SAMPLE = ROOT / "lit_bert" / "data" / "sample"
AFTER = (50, 100, 200)  # labels
FORECAST_AT = 100  # labels, from which what 100 more give is foretold
WAYS = ("label", "random")


def main(argv: list[str] | None = None) -> int:
    """Runs the part, or one contestant of it."""
    args = harness.checked_flags(harness.parser("labelling", __doc__, rounds=5).parse_args(argv))
    if args.contestant:
        return harness.print_figures(contest(args.contestant, args.quick))
    quick = ["--quick"] * args.quick
    contestants = harness.selected(
        [module_contestant("labelling", way, *quick, timeout_s=1200) for way in WAYS], args.only
    )
    with harness.scratch_folder() as place:
        runs = harness.measure(contestants, args.rounds, place, warmup=False)
    columns = {f"accuracy after {count}": f"accuracy_{count}" for count in AFTER}
    columns |= {"said after 200": "said", "foretold of 200 after 100": "foretold"}
    notes = [
        "MiniLM, frozen, with a head. Pool: the 2,093 training rows of the packaged sample; test: its 300 "
        "test rows. `label` draws one text in five at random and chooses the others.",
        "Said: the accuracy that the verb itself gives after 200 labels, by the texts that were drawn at "
        "random, with its 95 % interval. Foretold: what it expects of 200 labels when there are 100, with "
        "its 90 % interval.",
        *intervals(runs),
    ]
    report = harness.Report(
        "labelling", "Which texts to label", contestants, runs, columns, checks(runs), notes, args.quick
    )
    return report.publish(args.results)


def checks(runs: list[Run]) -> list[Check]:
    """What chosen texts gain over random ones of the same seed."""
    found = []
    for count in AFTER:
        chosen, drawn = (harness.values(runs, way, f"accuracy_{count}") for way in WAYS)
        points = [100 * (chosen[each] - drawn[each]) for each in sorted(chosen.keys() & drawn.keys())]
        found.append(Check(f"points of accuracy over random texts after {count} labels", points))
    return found


def intervals(runs: list[Run]) -> list[str]:
    """How often the intervals of the verb held the accuracy on the test split."""
    good = [run.figures for run in runs if not run.failure]
    lines = []
    for what, name in (("Said", "said"), ("Foretold", "foretold")):
        some = [each for each in good if each.get(f"{name}_low") is not None]
        held = sum(each[f"{name}_low"] <= each["accuracy_200"] <= each[f"{name}_high"] for each in some)
        width = statistics.mean(each[f"{name}_high"] - each[f"{name}_low"] for each in some) if some else 0
        lines.append(
            f"{what}: the interval, {100 * width:.0f} points wide on average, held the accuracy on the test "
            f"split in {held} of {len(some)} runs."
        )
    return lines


def contest(way: str, quick: bool = False, split: str = "test") -> dict[str, Any]:
    """One person who labels up to 200 texts, one at a time."""
    from lit_bert.labelling.embed import Embedder
    from lit_bert.labelling.pool import Pool
    from lit_bert.labelling.session import Session
    from lit_bert.labelling.store import Store
    from lit_bert.sources.weights import MINILM, Weights

    pool_rows, tested = read("train"), read(split)
    if quick:
        pool_rows = pool_rows[:300]
    texts, truth = [text for text, _ in pool_rows], [label for _, label in pool_rows]
    classes = sorted(set(truth))
    embedder = Embedder(Weights(MINILM), 128, "32-true")
    pool = Pool(Path("pool.csv"), texts, list(range(1, len(texts) + 1)), [None] * len(texts), "", 0)
    seed = harness.round_number()
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place, "labels"), {})
        features = embedder.cached(texts)
        session = Session(pool, classes, store, features, seed, chooses=way == "label")
        found = embedder.cached([text for text, _ in tested])
        return answered(session, truth, found, [label for _, label in tested])


def read(split: str) -> list[tuple[str, str]]:
    """Texts of the packaged sample, each once, with their labels."""
    with (SAMPLE / f"{split}.csv").open(newline="", encoding="utf-8") as stream:
        return list({row["text"]: (row["text"], row["label"]) for row in csv.DictReader(stream)}.values())


def answered(session: Session, truth: list[str], tested: Any, expected: list[str]) -> dict[str, Any]:
    """The figures of a session that is answered by what is true.

    Args:
        tested: features of the test texts, float32 (N, F).
    """
    import numpy as np

    from lit_bert.labelling.estimate import fitted, probabilities

    figures: dict[str, Any] = {}
    wanted = np.array([session.classes.index(label) for label in expected])
    truths = np.array([session.classes.index(label) for label in truth])
    chooses = session.random_every > 1
    if chooses:
        session.choose(session.labelled())
    for count in range(1, AFTER[-1] + 1):
        lease = session.lend("p")
        assert lease is not None
        session.answer("p", lease.text, int(truths[lease.text]))
        if chooses and count % 10 == 0:
            session.choose(session.labelled())
        if count in AFTER:
            rows = session.labelled().texts
            head = fitted(session.features[rows], truths[rows], len(session.classes))
            assert head is not None
            answers = probabilities(head, tested).argmax(1)
            figures[f"accuracy_{count}"] = float((answers == wanted).mean())
        if count in (FORECAST_AT, AFTER[-1]):
            session.score(session.labelled())
            assert session.estimate is not None
            now, ahead = session.estimate.curve[-1], session.estimate.expected
            if count == AFTER[-1]:
                figures |= {"said": now.score, "said_low": now.low, "said_high": now.high}
            elif ahead is not None:
                figures |= {
                    "foretold": ahead.score,
                    "foretold_low": ahead.low,
                    "foretold_high": ahead.high,
                }
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
