"""What a run left in its folder, read once; what is missing is named with the command that would make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerlens.artifacts.evaluation import EVALUATION_FILE, Evaluation
from layerlens.artifacts.plan import Plan, candidates_folder, foreign_candidates, load_plan, plan_hash, read_candidates
from layerlens.artifacts.profile import PROFILE_FILE, Profile, Timing, load_profile
from layerlens.artifacts.store import read_json
from layerlens.artifacts.validation import VALIDATION_FILE, Validation
from layerlens.errors import ManifestError

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class RunFolder:
    """Every artifact that is there."""

    name: str
    profile: Profile | None
    arrays: dict[str, np.ndarray]
    timing: Timing | None
    plan: Plan | None
    candidates: dict[str, Plan]
    evaluation: Evaluation | None
    validation: Validation | None
    missing: tuple[str, ...]
    """One line for each part that is left out, and why."""


def read_run(folder: Path) -> RunFolder:
    """Read what is in a run folder.

    Args:
        folder: Holds any of `profile/`, `plan.json`, `plan.candidates/`, `evaluation.json`, `validation.json`.

    Returns:
        The artifacts. What belongs to another plan is left out, since it would mislead: a profile that the plan was not made
        from, checks of a plan that has changed since, candidates that were not made with it.

    Raises:
        ManifestError: the folder is missing or holds none of them, or a file is damaged or does not add up.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is no folder; give the folder of a run, with plan.json or profile/ in it")
    missing: list[str] = []
    plan_path = folder / PLAN_FILE
    plan = load_plan(plan_path) if plan_path.exists() else None
    found = _find_profile(folder, plan)
    profile, arrays, timing = load_profile(found) if found else (None, {}, None)
    path = folder / EVALUATION_FILE
    evaluation = read_json(path, Evaluation) if path.exists() else None
    path = folder / VALIDATION_FILE
    validation = read_json(path, Validation) if path.exists() else None
    if plan is None and profile is None and evaluation is None and validation is None:
        raise ManifestError(
            f"{folder} holds nothing to report: none of {PLAN_FILE}, profile/, {EVALUATION_FILE}, {VALIDATION_FILE}; "
            "make a run with `layerlens demo` or `layerlens profile` and `layerlens plan`"
        )
    if plan is not None and profile is not None and plan.metadata.profile_identity != profile.identity:
        missing.append("The profile here is not the one the plan was made from, so nothing of it is shown. Plan again from it.")
        profile, arrays, timing = None, {}, None
    elif profile is None:
        missing.append("Gain curves and calibration: no profile here. Make one with `layerlens profile`.")
    if plan is None:
        missing.append("Chosen sizes, budgets, race: no plan.json here. Make one with `layerlens plan`.")
    elif plan.race is None:
        missing.append("The race: this plan was not raced. Run `layerlens race`.")
    if evaluation is None:
        missing.append("Measured results: no evaluation.json here. Run `layerlens tune` or `layerlens demo`.")
    if validation is None:
        missing.append("Checks: no validation.json here. Run `layerlens validate plan.json`.")
    elif plan is not None and validation.plan_hash != plan_hash(plan):
        missing.append("Checks: validation.json is of another plan than this one. Run `layerlens validate plan.json` again.")
        validation = None
    candidates = read_candidates(plan_path) if plan is not None and candidates_folder(plan_path).is_dir() else {}
    if plan is not None and foreign_candidates(plan, candidates):
        missing.append("Other candidates: those here were not made with this plan. Run `layerlens plan` again.")
        candidates = {}
    return RunFolder(
        name=folder.resolve().name,
        profile=profile,
        arrays=arrays,
        timing=timing,
        plan=plan,
        candidates=candidates,
        evaluation=evaluation,
        validation=validation,
        missing=tuple(missing),
    )


def _find_profile(folder: Path, plan: Plan | None) -> Path | None:
    """The profile in the folder, or the folder itself, or where the plan says that it lies."""
    places = [folder / "profile", folder]
    if plan is not None:
        given = Path(plan.metadata.profile)
        places += [folder / given.name, given]
    return next((place for place in places if (place / PROFILE_FILE).exists()), None)
