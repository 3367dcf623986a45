"""Successive halving: who runs how long, from how many seeds, within a budget of training steps.

    rung 0      ■ ■ ■ ■ ■ ■ ■ ■    every candidate, short horizon, one seed
    rung 1      ■ ■ ■ ■            the better half, all seeds
    rung 2      ■ ■                finalists, the longest horizon, all seeds

Every run of a rung starts afresh, with warm-up and decay inside its own horizon: the loss at the end of a finished
schedule predicts the full run far better than the loss on the way through a longer one. After Jamieson and
Talwalkar (2016, arXiv 1502.07943), with uniform exempt from elimination.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

#: A field of this size or smaller is the final.
FINAL_FIELD = 3


@dataclass(frozen=True)
class Rung:
    """One round: every one of `num_candidates` trains `steps` steps from each of `num_seeds` seeds."""

    num_candidates: int
    steps: int
    num_seeds: int

    @property
    def cost(self) -> int:
        """Training steps of the whole rung."""
        return self.num_candidates * self.steps * self.num_seeds


def field_sizes(num_candidates: int) -> tuple[int, ...]:
    """Candidates per rung: halved, rounded up, until at most three are left."""
    sizes = [num_candidates]
    while sizes[-1] > FINAL_FIELD:
        sizes.append(ceil(sizes[-1] / 2))
    return tuple(sizes)


def rungs_for(num_candidates: int, *, final_steps: int, num_seeds: int, shortest: int) -> tuple[Rung, ...]:
    """Lay out a race of `num_candidates` whose finalists train `final_steps` steps.

    Args:
        num_candidates: Runners, uniform included.
        final_steps: Horizon of the final; each rung before has half the next one's.
        num_seeds: Seeds of every rung but a first one that is not the final: that one screens with one seed.
        shortest: No horizon is shorter (a schedule of two steps measures nothing), unless the final itself is.
    """
    sizes = field_sizes(num_candidates)
    rungs = []
    for index, size in enumerate(sizes):
        halvings = len(sizes) - 1 - index
        steps = max(min(shortest, final_steps), final_steps // 2**halvings)
        rungs.append(Rung(size, steps, 1 if index == 0 and halvings > 0 else num_seeds))
    return tuple(rungs)


def total_cost(rungs: tuple[Rung, ...]) -> int:
    """Training steps of a whole race."""
    return sum(rung.cost for rung in rungs)


def lay_out(num_available: int, *, budget_steps: float, longest: int, min_steps: int, num_seeds: int) -> tuple[Rung, ...]:
    """Choose how many candidates race and for how long.

    As many candidates as the budget affords at the shortest final allowed, then the longest final that still fits.
    Two candidates always race: with less there is nothing to measure, so the real share may exceed the one asked for.

    Args:
        num_available: Candidates there are, uniform included; at least two.
        budget_steps: Training steps that the race may take, all runs together.
        longest: Steps of the tuning run: no race run needs more, unless `min_steps` does.
        min_steps: Horizon of the final at least.
        num_seeds: Seeds of the finalists.
    """
    shortest = max(1, ceil(min_steps / 2))

    def layout(count: int, final_steps: int) -> tuple[Rung, ...]:
        return rungs_for(count, final_steps=final_steps, num_seeds=num_seeds, shortest=shortest)

    affordable = [count for count in range(3, num_available + 1) if total_cost(layout(count, min_steps)) <= budget_steps]
    count = max(affordable, default=2)
    low, high = min_steps, max(min_steps, longest)
    while low < high:
        middle = (low + high + 1) // 2
        if total_cost(layout(count, middle)) <= budget_steps:
            low = middle
        else:
            high = middle - 1
    return layout(count, low)


def survivors(losses: dict[str, float], size: int, *, exempt: str | None) -> list[str]:
    """The `size` best by loss, in their order before; `exempt` stays whatever its loss.

    Args:
        losses: Mean held-out loss of each candidate that finished, nats.
        size: How many go on.
        exempt: The candidate that always goes on, if it is among them.
    """
    order = sorted(losses, key=lambda name: (losses[name], name))
    if exempt in losses:
        order.remove(exempt)
        order.insert(0, exempt)
    kept = set(order[:size])
    return [name for name in losses if name in kept]
