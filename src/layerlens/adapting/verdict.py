"""From measured losses to the chosen plan: a clear winner, the simplest among equals, or the prior where the race was blind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.bootstrap import Interval, paired_interval
from layerlens.adapting.prior import believed_best, simplest
from layerlens.adapting.sight import Sight
from layerlens.artifacts.plan import Plan


@dataclass(frozen=True)
class Decision:
    """The chosen candidate and why; `margin` is the best other finalist's loss minus the winner's, nats."""

    winner: str
    margin: float | None
    interval: tuple[float, float] | None
    verdict: str


def decide(
    candidates: Mapping[str, Plan],
    finals: Mapping[str, NDArray[np.float64]],
    sight: Sight,
    *,
    seed: int,
) -> Decision:
    """Choose a plan.

    Args:
        candidates: Every candidate that may be chosen: those that did not race too, but none that diverged.
        finals: Held-out losses of the finalists, `[seeds, samples]`, paired, nats.
        sight: Whether the race could see.
        seed: Of the bootstrap.
    """
    if sight.is_blind:
        winner = believed_best(candidates)
        verdict = f"blind: {sight.reason}; the prior chose {winner} (broad and low rank first)"
        return _decision(winner, finals, verdict, seed)
    best = best_by_loss(finals)
    intervals = {name: _interval(finals[name], finals[best], seed) for name in finals if name != best}
    equals = {best, *(name for name, interval in intervals.items() if interval.low <= 0.0)}
    winner = simplest({name: candidates[name] for name in equals})
    if not intervals:
        verdict = f"{winner} was the only plan to finish the race"
    elif len(equals) == 1:
        runner_up = best_by_loss({name: finals[name] for name in intervals})
        verdict = f"{winner} won by {_shown(intervals[runner_up], runner_up)}"
    elif winner == best:
        runner_up = best_by_loss({name: finals[name] for name in intervals})
        verdict = (
            f"{winner} is best and the simplest of {len(equals)} plans that the race cannot tell apart "
            f"({_shown(intervals[runner_up], runner_up)}, is within noise)"
        )
    else:
        verdict = (
            f"{winner} is the simplest of {len(equals)} plans that the race cannot tell apart "
            f"({best} is better by {_shown(intervals[winner], winner)}, which is within noise)"
        )
    return _decision(winner, finals, verdict, seed)


def best_by_loss(finals: Mapping[str, NDArray[np.float64]]) -> str:
    """The finalist with the lowest mean held-out loss; the first by name among equals."""
    return min(finals, key=lambda name: (float(finals[name].mean()), name))


def _decision(winner: str, finals: Mapping[str, NDArray[np.float64]], verdict: str, seed: int) -> Decision:
    others = {name: losses for name, losses in finals.items() if name != winner}
    if winner not in finals or not others:
        return Decision(winner, None, None, verdict)
    interval = _interval(others[best_by_loss(others)], finals[winner], seed)
    return Decision(winner, interval.mean, (interval.low, interval.high), verdict)


def _interval(worse: NDArray[np.float64], better: NDArray[np.float64], seed: int) -> Interval:
    return paired_interval(worse - better, seed=seed)


def _shown(interval: Interval, other: str) -> str:
    return f"{interval.mean:.4f} nats over {other}, 95 % interval {interval.low:.4f} to {interval.high:.4f}"
