"""What a race has measured so far, on disk after every run, so that a killed race goes on where it was."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from layerlens.artifacts.store import read_json, write_json
from layerlens.errors import ManifestError


class Run(BaseModel):
    """One finished run: a candidate, a horizon, a seed, and the held-out loss of each sample after it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    candidate: str
    steps: int
    seed: int
    losses: list[float] | None = Field(description="nats, by held-out sample; none where training diverged")


class RaceState(BaseModel):
    """All finished runs of one race. `fingerprint` covers everything that a run's outcome depends on."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fingerprint: str
    start: list[float] | None = None
    runs: list[Run] = []
    seconds: float = 0.0

    def find(self, candidate: str, steps: int, seed: int) -> Run | None:
        """The run that was asked for, if it has finished."""
        for run in self.runs:
            if (run.candidate, run.steps, run.seed) == (candidate, steps, seed):
                return run
        return None

    @property
    def steps(self) -> int:
        """Training steps of all runs."""
        return sum(run.steps for run in self.runs)


def open_state(path: Path | None, fingerprint: str) -> tuple[RaceState, bool]:
    """Read the state of the same race, or start anew.

    Args:
        path: The state file; none keeps the state in memory alone.
        fingerprint: Of the race about to run.

    Returns:
        The state, and whether another race's or a damaged state was put aside.
    """
    fresh = RaceState(fingerprint=fingerprint)
    if path is None or not path.exists():
        return fresh, False
    try:
        found = read_json(path, RaceState)
    except ManifestError:
        return fresh, True
    return (found, False) if found.fingerprint == fingerprint else (fresh, True)


def save_state(path: Path | None, state: RaceState) -> None:
    """Write the state, atomically."""
    if path is not None:
        write_json(path, state)
