"""Texts, progress and the learning curve as people see them, in a terminal and on the page.

python -m lit_bert label reviews.csv
"""

from __future__ import annotations

from lit_bert.io.escape import line
from lit_bert.labelling.curve import AHEAD
from lit_bert.labelling.estimate import FEWEST, Estimate

MOST_CHARACTERS = 20_000  # of a text that is shown
BAR = 40  # characters of a whole bar of the curve


def shown_text(text: str) -> str:
    """A text in lines as they came, without anything that acts on a terminal or hides on a page."""
    cut = text[:MOST_CHARACTERS]
    lines = cut.replace("\r\n", "\n").split("\n")
    more = f"\n… {len(text) - len(cut):,} more characters" if len(text) > len(cut) else ""
    return "\n".join(map(line, lines)) + more


def nothing_left(left: int) -> str:
    """Why a person gets no text, where `left` have no answer."""
    return (
        "the texts that are left are with somebody else now" if left else "every text is labelled or skipped"
    )


def summary(found: Estimate | None, labelled: int) -> str:
    """What is known of the classifier, of so many labels, as a sentence or two."""
    if found is None and labelled >= FEWEST:
        return "no score yet: it is being computed, or needs more of the texts that are drawn at random"
    if found is None:
        return f"no score yet: it needs {FEWEST} labels, and some texts that were drawn at random"
    now, ahead = found.curve[-1], found.expected
    lines = [
        f"accuracy {now.score:.3f} [{now.low:.3f}–{now.high:.3f}] on {found.scored} texts drawn at random, "
        f"with {found.labels} labels"
    ]
    if ahead is None:
        lines.append(f"what {AHEAD} more labels would give is not known yet")
    else:
        lines.append(
            f"{AHEAD} more labels: {ahead.score:.3f} expected, 90 % interval {ahead.low:.3f}–{ahead.high:.3f}"
        )
    return "; ".join(lines)


def curve_lines(found: Estimate) -> list[str]:
    """The learning curve, a line a size."""
    lines = [
        f"  {point.labels:6,} labels  {point.score:.3f} {'█' * round(BAR * point.score)}"
        for point in found.curve
    ]
    if ahead := found.expected:
        lines.append(
            f"  {ahead.labels:6,} labels  {ahead.score:.3f} {'░' * round(BAR * ahead.score)} expected"
        )
    return lines
