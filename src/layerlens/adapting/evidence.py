"""What a race leaves in the plan: every runner's losses, the decision and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.verdict import Decision
from layerlens.artifacts.plan import Chosen, Plan, Race, RaceCandidate


@dataclass(frozen=True)
class RungResult:
    """What one rung measured: held-out losses `[seeds, samples]` of each candidate, nats."""

    steps: int
    seeds: list[int]
    losses: dict[str, NDArray[np.float64]]

    @property
    def means(self) -> dict[str, float]:
        return {name: float(losses.mean()) for name, losses in self.losses.items()}

    @property
    def stacked(self) -> NDArray[np.float64]:
        """All losses, `[candidates, seeds, samples]`."""
        return np.stack(list(self.losses.values()))

    def of(self, name: str) -> dict[str, Any]:
        """One candidate's losses as the plan keeps them."""
        means = self.losses[name].mean(axis=1).tolist()
        return {"steps": self.steps, "losses": {str(seed): loss for seed, loss in zip(self.seeds, means, strict=True)}}


def placings(history: list[RungResult], start_loss: float) -> list[RaceCandidate]:
    """Every runner with what it reached: the longest-lived first, by loss among those that ran as long."""
    last: dict[str, RungResult] = {name: rung for rung in history for name in rung.losses}
    order = sorted(last, key=lambda name: (name not in history[-1].losses, -last[name].steps, last[name].means[name], name))
    return [
        RaceCandidate(
            name=name,
            held_out_loss=last[name].means[name],
            steps=last[name].steps,
            seeds=last[name].seeds,
            start_loss=start_loss,
            rungs=[rung.of(name) for rung in history if name in rung.losses],
        )
        for name in order
    ]


def raced(candidates: Mapping[str, Plan], decision: Decision, race: Race) -> Plan:
    """The winner's plan with the race's evidence."""
    winner = candidates[decision.winner]
    return winner.model_copy(update={"chosen": Chosen(name=decision.winner, value=winner.chosen.value), "race": race})


def uncontested(candidates: Mapping[str, Plan], name: str, details: dict[str, Any]) -> Plan:
    """The only candidate's plan: nothing was trained, and the plan says so."""
    decision = Decision(name, None, None, f"{name} is the only candidate: nothing to race against")
    race = Race(
        candidates=[], winner=name, margin=None, interval=None, share_of_tuning=0.0, verdict=decision.verdict, details=details
    )
    return raced(candidates, decision, race)
