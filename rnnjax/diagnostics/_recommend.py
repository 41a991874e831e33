"""What a comparison says, in words, with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._intervals import Interval, of_difference

FASTER = 0.8
"""The share of the winner's time per step below which another is worth naming for its speed."""
TOLERATED = 0.1
"""The share of what the winner gains on a constant answer that the faster one may lose, at worst."""


def recommendation(
    rows: Sequence[Any], metric: str, rises: bool, constant: float, confidence: float, rates: Sequence[float]
) -> str:
    """Sentences, one a line: which one to take, which cannot be told from it, which are worse, and what to mistrust.

    The first is the one that the validation rows chose; the numbers are those of the test rows. It is the one to take
    if all others are worse there and no best learning rate lies at the edge of those tried; else it only comes first.

    Args:
        rows: of the table, the best on the validation rows first.
        metric, rises: the measure of quality, and whether more is better.
        constant: the quality of a constant answer.
        confidence: of every interval, each by itself.
        rates: the learning rates that were tried.
    """
    best, *others = rows
    level = f"{confidence:.0%}"
    if best.quality != best.quality:
        return "Nothing can be recommended: the quality of every model is NaN.\n" + _notes(rows)
    name = metric.replace("_", " ")
    apart = {row.name: of_difference(best.scores, row.scores, confidence) for row in others}
    apart = {name: gap if rises else Interval(-gap.estimate, -gap.high, -gap.low) for name, gap in apart.items()}
    finite = [row for row in others if row.quality == row.quality]
    better = [row for row in finite if apart[row.name].high < 0]
    equals = [row for row in finite if apart[row.name].low <= 0 <= apart[row.name].high]
    edges = [row.name for row in (best, *finite) if row.learning_rate in (min(rates), max(rates))]
    lines = []
    if not (best.low > constant if rises else best.high < constant):
        lines.append(
            f"Nothing can be recommended: no model is better, beyond doubt, than a constant answer, whose {name} is "
            f"{constant:.4g}. {best.name} comes first."
        )
    elif better or equals or edges:
        lines.append(f"{best.name} comes first on the validation rows.")
    else:
        lines.append(f"Take {best.name}.")
    lines.append(
        f"{best.name}: {name} {best.quality:.4g} on the test rows, {level} interval {best.low:.4g} to {best.high:.4g} "
        f"over {len(best.scores)} seeds; a constant answer has {constant:.4g}. {best.parameters:,} parameters, "
        f"learning rate {best.learning_rate:.2g}."
    )
    if better:
        told = "; ".join(f"{row.name}, by {_gap(apart[row.name], -1)}" for row in better)
        lines.append(f"Better on the test rows, though not on the validation rows: {told}. Validate on more rows.")
    if equals:
        told = "; ".join(f"{row.name}, {_gap(apart[row.name])}" for row in equals)
        lines.append(f"Not told apart from it, by how much it is better and the {level} interval: {told}.")
        gain = abs(best.quality - constant)
        near = [row for row in equals if apart[row.name].high <= TOLERATED * gain]
        fast = min(near, key=lambda row: row.step_time, default=best)
        if fast.step_time < FASTER * best.step_time:
            worst, share = max(apart[fast.name].high, 0), fast.step_time / best.step_time
            lines.append(
                f"{fast.name} is worse by {worst:.2g} at most and takes {share:.2g} of the time per step of "
                f"{best.name}: take it where time counts."
            )
    worse = [row for row in finite if apart[row.name].low > 0]
    if worse:
        lines.append(f"Worse: {'; '.join(f'{row.name}, by {_gap(apart[row.name])}' for row in worse)}.")
    if len(rates) < 3:
        lines.append(f"Too few learning rates to know whether others are better for some model: {len(rates)}.")
    elif edges:
        lines.append(f"The best learning rate is the least or the largest tried, so try others: {', '.join(edges)}.")
    return "\n".join(filter(None, [*lines, _notes(rows)]))


def _gap(gap: Interval, sign: int = 1) -> str:
    low, high = sorted((sign * gap.low, sign * gap.high))
    return f"{sign * gap.estimate:.2g} ({low:.2g} to {high:.2g})"


def _notes(rows: Sequence[Any]) -> str:
    return "\n".join(f"{row.name}: {row.note}." for row in rows if row.note)
