"""Early signals of a race: what short runs and gradients say of the final order.

loss after s steps      held-out loss at the end of a run of s steps with a schedule of its own (what a race does today)
loss on the way         training loss of the full run's steps ⌈s/2⌉ … s, each taken before its update, on the same batches for all
area on the way         the mean of that loss over steps 1 … s: the mean time to reach a loss, over all losses
steps to equal loss     from runs of several lengths: log steps to the loss that the slowest plan has after the longest of them
extrapolated            those runs' losses continued to the final length, linear in log steps through the two longest
gradients               after s steps, gradients of two halves of the training samples: their cosine, their inner product, and the
                        predicted drop of a further step of Adam
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def on_the_way(training: np.ndarray, steps: int) -> float:
    """Mean training loss over the second half of the first `steps` steps, nats.

    Args:
        training: Loss of each step, averaged over seeds or of one.
        steps: How far to look.
    """
    return float(training[steps // 2 : steps].mean())


def area(training: np.ndarray, steps: int) -> float:
    """Mean training loss over the first `steps` steps, nats."""
    return float(training[:steps].mean())


def steps_to_equal_loss(curves: Mapping[int, np.ndarray]) -> np.ndarray:
    """Log steps that each plan needs to the loss which the slowest has reached at the longest horizon.

    Args:
        curves: Held-out loss of every plan `[plans]` by steps of the run, with the loss before training at 0 steps.

    Returns:
        `[plans]`, linear in log(1 + steps) between the horizons; the first crossing counts.
    """
    horizons = sorted(curves)
    losses = np.stack([curves[steps] for steps in horizons])
    level = float(losses[-1].max())
    places = np.log1p(horizons)
    found = np.empty(losses.shape[1])
    for plan in range(losses.shape[1]):
        own = losses[:, plan]
        at = int(np.argmax(own <= level))
        if at == 0:
            found[plan] = places[0]
            continue
        share = (own[at - 1] - level) / max(own[at - 1] - own[at], 1e-30)
        found[plan] = places[at - 1] + share * (places[at] - places[at - 1])
    return found


def extrapolated(curves: Mapping[int, np.ndarray], steps: int) -> np.ndarray:
    """Loss of each plan at `steps`, on the line through its two longest runs in log steps, nats `[plans]`."""
    shorter, longer = sorted(curves)[-2:]
    slope = (curves[longer] - curves[shorter]) / (np.log(longer) - np.log(max(shorter, 1)))
    return curves[longer] + slope * (np.log(steps) - np.log(longer))
