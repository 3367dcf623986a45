"""`layerlens race`: the candidates of a plan run briefly; the plan is rewritten with the winner and the evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerlens.adapting.halving import Rung
from layerlens.adapting.race import race as run_race
from layerlens.adapting.race_layout import Layout, race_layout
from layerlens.adapting.race_state import RaceState, save_state
from layerlens.artifacts.plan import Plan, load_candidates, load_plan, save_plan, stem_of
from layerlens.artifacts.store import read_json
from layerlens.config import RaceConfig
from layerlens.errors import ManifestError, NotFiniteError
from layerlens.progress import SILENT, Progress
from layerlens.workflow.given import given_config
from layerlens.workflow.open import Opened, open_plan_model, tell_base, tell_notes


@dataclass(frozen=True)
class RaceResult:
    """The raced plan and the names of its candidates; in a dry run the plan as it was, who would race, and the facts."""

    path: Path
    plan: Plan
    runners: list[str]
    seconds: float = 0.0
    """Of the race, with those of an interrupted one that it went on from; opening of model and data apart."""
    facts: dict[str, str] = field(default_factory=dict)


def race(
    plan: str | Path,
    data: str | Path,
    config: RaceConfig | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.race",
    progress: Progress = SILENT,
    opened: Opened | None = None,
    may_start_anew: bool = False,
) -> RaceResult:
    """Let the candidates beside a plan race on data, and rewrite the plan with the winner and the evidence.

    Args:
        plan: The plan; its candidates lie beside it.
        data: Training data of the plan's task.
        config: How to race.
        dry_run: Check everything, say who would race for how long, and touch nothing.
        command: The invocation; the plan keeps the one that made it.
        progress: Who watches.
        opened: Model and data, where the caller has them in memory already.
        may_start_anew: Whether the runs of a stopped race that was another one are put aside; else they are refused.

    Returns:
        The raced plan.

    Raises:
        ConfigError: a race with other options, candidates or data was stopped here; says what differs.
        LayerLensError: the plan, its candidates, the model or the data do not fit each other.
    """
    config = given_config(RaceConfig, config or {})
    path = Path(plan).expanduser()
    loaded, candidates = load_plan(path), load_candidates(path)
    if opened is None:
        opened = open_plan_model(loaded, str(data), config, has_eval_data=config.eval_data is not None)
        tell_notes(progress, opened.data)
        tell_base(progress, loaded, config)
    if dry_run:
        layout = race_layout(loaded, candidates, opened.data, opened.part, config)
        return RaceResult(path, loaded, layout.field, facts=_facts(layout))
    state = path.with_name(f"{stem_of(path)}.race.json")
    found, start = _state(state), time.perf_counter()
    try:
        raced = run_race(
            loaded,
            candidates,
            opened.task_model,
            opened.data,
            opened.part,
            config,
            state_path=state,
            may_start_anew=may_start_anew,
            progress=progress,
        )
    except NotFiniteError:
        # That race is over, and the next one shall have another learning rate.
        state.unlink(missing_ok=True)
        raise
    seconds = time.perf_counter() - start
    left = _state(state)
    if left is not None and left == found and raced.race is not None and not raced.race.candidates:
        # Nothing raced: the runs that lie there are another race's, which was stopped and may go on.
        save_plan(path, raced)
        return RaceResult(path, raced, list(candidates), seconds)
    if found is not None and left is not None and left.fingerprint == found.fingerprint:
        seconds += found.seconds
    if left is not None:
        # Whoever is killed before the file is gone leaves the runs of no stopped race.
        save_state(state, left.model_copy(update={"is_over": True}))
    save_plan(path, raced)
    state.unlink(missing_ok=True)
    return RaceResult(path, raced, list(candidates), seconds)


def _facts(layout: Layout) -> dict[str, str]:
    """Who would race, round by round, and what that takes."""
    facts = {"field": ", ".join(layout.field)}
    if layout.unraced:
        facts["unraced"] = f"{', '.join(layout.unraced)}: the share affords no more"
    if not layout.rungs:
        return facts | {"rounds": "none: there is nothing to race against"}
    facts |= {f"round {number}": _told(rung) for number, rung in enumerate(layout.rungs, start=1)}
    facts["samples"] = f"{len(layout.training)} to train on, {len(layout.held_out)} held out"
    facts["share"] = f"{layout.share:.0%} of the tuning run's {layout.tuning_steps} steps"
    return facts


def _told(rung: Rung) -> str:
    return f"{rung.num_candidates} plans × {rung.steps} steps × {rung.num_seeds} seed{'' if rung.num_seeds == 1 else 's'}"


def _state(path: Path) -> RaceState | None:
    """What a race has measured so far; None where there is none, or it cannot be read."""
    try:
        return read_json(path, RaceState)
    except ManifestError:
        return None
