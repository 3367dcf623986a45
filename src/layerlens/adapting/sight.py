"""Whether a race could see: did learning set in, and early enough, and do two halves of the evaluation agree on the order?

A race of 40 steps on a sentence-pair task once put every candidate within 0.02 nats after a fall of 0.03, and its order
was the reverse of the full runs'. A race on a language model fell by 1.8 nats and had the order right after 20 steps.
Another one on sentence pairs fell by 43 % in 40 steps and by 2 % in 20: its order was that of who began to learn first,
which is another one than that of who learns most. The tests here tell those apart before anyone believes a winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The best finalist's loss must have fallen by this share of the start …
WELL_BELOW = 0.10
#: … or by this smaller share, if the fall dwarfs what the candidates differ by.
BELOW = 0.02
FALL_OVER_DIFFERENCE = 5.0
#: Half of the final's steps must have brought this share of the final's fall, or learning has only just begun. Curves that
#: fall ever more slowly have half of it and more; races measured so far had .43 and more, or .05 and less (`docs/results.md`).
UNDER_WAY = 0.25
#: Mean Spearman correlation of the candidates' order between two random halves of the samples.
AGREEMENT = 0.5
NUM_SPLITS = 100


@dataclass(frozen=True)
class Sight:
    """What the race saw of itself. Losses in nats; `halfway_loss` is the best of the round before the final, if there was one."""

    start_loss: float
    best_loss: float
    screened_loss: float
    difference: float
    agreement: float | None
    halfway_loss: float | None = None

    @property
    def fall(self) -> float:
        """Share of the start loss that the best candidate lost."""
        return (self.start_loss - self.best_loss) / self.start_loss if self.start_loss > 0 else 0.0

    @property
    def has_learned(self) -> bool:
        """Whether the loss has fallen well below its start, and below it at all where the first half left."""
        if self.screened_loss >= self.start_loss:
            return False
        if self.fall >= WELL_BELOW:
            return True
        return self.fall >= BELOW and self.start_loss - self.best_loss >= FALL_OVER_DIFFERENCE * self.difference

    @property
    def is_under_way(self) -> bool:
        """Whether learning began well before the final's steps were over; true of a race of one round, which cannot tell."""
        if self.halfway_loss is None:
            return True
        return self.start_loss - self.halfway_loss >= UNDER_WAY * (self.start_loss - self.best_loss)

    @property
    def is_agreed(self) -> bool:
        """Whether two halves of the evaluation samples agree on the order."""
        return self.agreement is not None and self.agreement >= AGREEMENT

    @property
    def is_blind(self) -> bool:
        return not (self.has_learned and self.is_under_way and self.is_agreed)

    @property
    def reason(self) -> str:
        """Why the race is blind, in half a sentence; empty if it sees."""
        reasons = []
        if not self.has_learned:
            reasons.append(
                f"the best loss went from {self.start_loss:.3f} to {self.screened_loss:.3f} in the first round and "
                f"{self.best_loss:.3f} in the last, and a fall of {WELL_BELOW:.0%} is needed, or of {BELOW:.0%} and "
                f"{FALL_OVER_DIFFERENCE:g} times what the candidates differ by"
            )
        elif not self.is_under_way:
            reasons.append(
                f"learning has only just begun: the best loss went from {self.start_loss:.3f} to {self.halfway_loss:.3f} in the "
                f"round before the last and {self.best_loss:.3f} in the last, and {UNDER_WAY:.0%} of that fall is needed before"
            )
        if not self.is_agreed:
            shown = "no order could be compared" if self.agreement is None else f"Spearman {self.agreement:.2f}"
            reasons.append(f"two halves of the evaluation samples disagree on the order ({shown}, {AGREEMENT:g} needed)")
        return " and ".join(reasons)


def look(start: NDArray[np.float64], rounds: Sequence[NDArray[np.float64]], *, seed: int) -> Sight:
    """Judge a race by its losses.

    Args:
        start: Per-sample held-out loss before training, `[samples]`, nats.
        rounds: Losses of each rung's candidates, `[candidates, seeds, samples]`: every candidate in the first, the widest order
            there is; the finalists in the last, the longest horizon there is, twice that of the rung before it.
        seed: Of the random halves.
    """
    first, final = rounds[0], rounds[-1]
    finals = final.mean(axis=(1, 2))
    ranges = [float(np.ptp(losses)) for losses in (finals, first.mean(axis=(1, 2)))]
    return Sight(
        start_loss=float(start.mean()),
        best_loss=float(finals.min()),
        screened_loss=float(first.mean(axis=(1, 2)).min()),
        difference=max(ranges),
        agreement=split_half_agreement(first.mean(axis=1), seed=seed),
        halfway_loss=float(rounds[-2].mean(axis=(1, 2)).min()) if len(rounds) > 1 else None,
    )


def split_half_agreement(losses: NDArray[np.float64], *, seed: int, num_splits: int = NUM_SPLITS) -> float | None:
    """Mean Spearman correlation of the candidates' mean losses between random halves of the samples.

    One split of two candidates can only say −1 or 1; the mean over many splits says how sure the order is.

    Args:
        losses: `[candidates, samples]`, nats.
        seed: Of the splits.
        num_splits: Random halvings averaged over.

    Returns:
        In [−1, 1]; none for a single candidate. Candidates with equal losses have no order and count as 0.
    """
    num_candidates, num_samples = losses.shape
    if num_candidates < 2 or num_samples < 2:
        return None
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_splits):
        order = generator.permutation(num_samples)
        half = num_samples // 2
        found.append(spearman(losses[:, order[:half]].mean(axis=1), losses[:, order[half:]].mean(axis=1)))
    return float(np.mean(found))


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Correlation of ranks, ties averaged; 0 where one side is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(first), rankdata(second)
    deviations = [side - side.mean() for side in ranks]
    norm = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum() / norm) if norm > 0 else 0.0
