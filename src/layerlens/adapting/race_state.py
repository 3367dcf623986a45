"""What a race has measured so far, on disk after every run, so that a killed race goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from layerlens.adapting.recorded import without_newer
from layerlens.artifacts.differences import told
from layerlens.artifacts.store import read_json, write_json
from layerlens.config import RaceConfig
from layerlens.errors import ConfigError, ManifestError

#: Options that decide how many runs there are and when they stop, but not what a run gives.
_OF_THE_LAYOUT = {"share", "tuning_steps", "epochs", "min_steps", "num_seeds", "max_seconds", "may_extend", "only", "threads"}
#: Options whose effect is told by what they lead to: the samples, the model and the arithmetic.
_TOLD_ELSEWHERE = {
    *("text_columns", "label_column", "split", "max_length", "eval_data"),
    *("max_train_samples", "max_eval_samples", "held_out_samples"),
    *("base", "base_format", "precision"),
}
#: Options that a race is not known by.
NOT_OF_A_RUN = _OF_THE_LAYOUT | _TOLD_ELSEWHERE


class Run(BaseModel):
    """One finished run: a candidate, a horizon, a seed, and the held-out loss of each sample after it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    candidate: str
    steps: int
    seed: int
    losses: list[float] | None = Field(description="nats, by held-out sample; none where training diverged")


class RaceState(BaseModel):
    """All finished runs of one race. `fingerprint` covers everything that a run's outcome depends on, as its version told it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    fingerprint: str
    race: dict[str, Any] = Field(default={}, description="the same in words, to say what differs; older versions left it out")
    start: list[float] | None = None
    runs: list[Run] = []
    seconds: float = 0.0
    is_over: bool = Field(default=False, description="it ended: the plan that it gave is there, or about to be")

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


def open_state(
    path: Path | None, fingerprint: str, race: Mapping[str, Any], *, may_start_anew: bool
) -> tuple[RaceState, str | None]:
    """Read the state of the same race, or start anew.

    Args:
        path: The state file; none keeps the state in memory alone.
        fingerprint: Of the race about to run.
        race: The same in words.
        may_start_anew: Whether another race's runs may be put aside. A file that is damaged, or too old to say what differs, is
            in any case; one without runs, or of a race that has ended, is no loss.

    Returns:
        The state, and a note of what was put aside and why.

    Raises:
        ConfigError: the file holds another race's runs; says what differs.
    """
    fresh = RaceState(fingerprint=fingerprint, race=dict(race))
    if path is None or not path.exists():
        return fresh, None
    try:
        found = read_json(path, RaceState)
    except ManifestError:
        return fresh, _put_aside(path, "is damaged")
    going_on = found.model_copy(update={"is_over": False})
    if found.fingerprint == fingerprint:
        return going_on, None
    differs = _differences(found.race, race) if found.race else ""
    if found.race and not differs:
        return going_on, None
    if found.is_over or not found.runs:
        return fresh, None
    if differs and not may_start_anew:
        raise ConfigError(
            f"{path} holds {len(found.runs)} runs of a stopped race, and this race differs ({differs}); race as before to go on "
            "there, or remove the file to start anew"
        )
    return fresh, _put_aside(path, f"holds another race's runs ({differs or 'it is too old to say what differs'})")


def _differences(found: Mapping[str, Any], race: Mapping[str, Any]) -> str:
    """What tells a race from a recorded one, options aside that one of two versions does not know or take for its own."""
    before = {name: value for name, value in found.get("config", {}).items() if name not in NOT_OF_A_RUN}
    now = without_newer(race.get("config", {}), before, RaceConfig().model_dump(mode="json"))
    return told({**found, "config": before}, {**race, "config": now})


def _put_aside(path: Path, why: str) -> str:
    aside = path.with_name(f"{path.name}.old")
    try:
        path.replace(aside)
    except OSError as error:
        raise ConfigError(f"cannot rename {path}: {error.strerror or error}; remove it to start anew") from error
    return f"{path} {why}: it is put aside as {aside.name}, and this race starts anew"


def save_state(path: Path | None, state: RaceState) -> None:
    """Write the state, atomically."""
    if path is not None:
        write_json(path, state)
