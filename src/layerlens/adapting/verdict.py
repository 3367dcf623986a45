"""From measured losses to the chosen plan: a clear winner, the simplest among equals, or the prior where the race was blind.

A race that a time limit ended speaks of what it has measured, and says how far it came: with a finalist's steps from two seeds it
chooses, with less it leaves the plan as it was. Blind is blind, whether at the end or before it: the prior chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.bootstrap import Interval, paired_interval
from layerlens.adapting.prior import believed_best, simplest, why_believed
from layerlens.adapting.sight import Sight
from layerlens.artifacts.plan import Plan

#: Seeds that a measured win needs at least.
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Decision:
    """The chosen candidate and why; `margin` is the best other finalist's loss minus the winner's, nats.

    `is_blind` where no measurement chose.
    """

    winner: str
    margin: float | None
    interval: tuple[float, float] | None
    verdict: str
    is_blind: bool = False


@dataclass(frozen=True)
class Stop:
    """Where a time limit ended a race.

    Args:
        limit_seconds: The limit.
        round: The last round of which every runner ran from a seed; 0 where there is none.
        num_rounds: Rounds that there should have been.
        num_seeds: Seeds that the last round ran from.
        is_enough: Whether that round has a finalist's steps and seeds.
    """

    limit_seconds: float
    round: int
    num_rounds: int
    num_seeds: int
    is_enough: bool

    @property
    def told(self) -> str:
        """How far the race came."""
        seeds = f"{self.num_seeds} seed{'' if self.num_seeds == 1 else 's'}"
        return f"stopped by its time limit after round {self.round} of {self.num_rounds}, {seeds}"


def decide(
    candidates: Mapping[str, Plan],
    finals: Mapping[str, NDArray[np.float64]],
    sight: Sight | None,
    *,
    seed: int,
    stop: Stop | None = None,
    planned: str | None = None,
) -> Decision:
    """Choose a plan.

    Args:
        candidates: Every candidate that may be chosen: those that did not race too, but none that diverged.
        finals: Held-out losses of the finalists, `[seeds, samples]`, paired, nats.
        sight: Whether the race could see; none where it was stopped before anything was measured.
        seed: Of the bootstrap.
        stop: Where a time limit ended the race; none where it was run to its end.
        planned: The plan that stays where the race was stopped too early; none where that one diverged.
    """
    if sight is not None and sight.is_blind:
        winner = believed_best(candidates)
        so_far = "blind" if stop is None else f"{stop.told}, and blind there"
        verdict = f"{so_far}: {sight.reason}; the prior chose {winner} ({why_believed(winner, candidates[winner])})"
        return _decision(winner, finals if stop is None else {}, verdict, seed, is_blind=True)
    if sight is None or (stop is not None and not stop.is_enough):
        return _unmeasured(candidates, stop, planned)
    decision = _measured(candidates, finals, seed)
    return decision if stop is None else replace(decision, verdict=f"{stop.told}: {decision.verdict}")


def _unmeasured(candidates: Mapping[str, Plan], stop: Stop | None, planned: str | None) -> Decision:
    """Leave the plan as it was, for nothing can be said against it; where it diverged, the prior chooses."""
    if stop is None or stop.round == 0:
        limit = "" if stop is None else f": the time limit of {stop.limit_seconds:g} s came before every plan had run once"
        said = f"nothing was measured{limit}"
    else:
        said = f"{stop.told}: too little to choose by"
    if planned is not None:
        return Decision(planned, None, None, f"{said}; the plan stays {planned}", is_blind=True)
    winner = believed_best(candidates)
    return Decision(winner, None, None, f"{said}; the plan diverged, and the prior chose {winner}", is_blind=True)


def _measured(candidates: Mapping[str, Plan], finals: Mapping[str, NDArray[np.float64]], seed: int) -> Decision:
    """The best finalist, or the simplest of those that cannot be told from it."""
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


def _decision(
    winner: str, finals: Mapping[str, NDArray[np.float64]], verdict: str, seed: int, *, is_blind: bool = False
) -> Decision:
    others = {name: losses for name, losses in finals.items() if name != winner}
    if winner not in finals or not others:
        return Decision(winner, None, None, verdict, is_blind)
    interval = _interval(others[best_by_loss(others)], finals[winner], seed)
    return Decision(winner, interval.mean, (interval.low, interval.high), verdict, is_blind)


def _interval(worse: NDArray[np.float64], better: NDArray[np.float64], seed: int) -> Interval:
    return paired_interval(worse - better, seed=seed)


def _shown(interval: Interval, other: str) -> str:
    return f"{interval.mean:.4f} nats over {other}, 95 % interval {interval.low:.4f} to {interval.high:.4f}"
