"""`layerlens validate`: every check of a plan, its value, its target and its verdict."""

from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.plan import load_plan
from layerlens.artifacts.profile import PROFILE_FILE, Profile
from layerlens.artifacts.store import read_json, write_json
from layerlens.artifacts.validation import Validation
from layerlens.config import output_path
from layerlens.progress import SILENT, Progress
from layerlens.validation.run import validate as run_checks


def validate(
    plan: str | Path,
    out: str | Path | None = None,
    *,
    command: str = "layerlens.validate",
    progress: Progress = SILENT,
) -> Validation:
    """Check a plan, and write `validation.json` beside it.

    A plan that does not add up is read all the same: saying what is wrong with it is the purpose.
    """
    path = Path(plan).expanduser()
    loaded = load_plan(path, is_strict=False)
    checks = run_checks(loaded, _profile_of(path, loaded.metadata.profile))
    write_json(output_path(out) if out else path.parent / "validation.json", checks)
    return checks


def _profile_of(plan: Path, given: str) -> Profile | None:
    """Find the plan's profile where the plan says, or beside the plan after the run's folder was moved."""
    for folder in (Path(given), plan.parent / Path(given).name):
        if (folder / PROFILE_FILE).exists():
            return read_json(folder / PROFILE_FILE, Profile)
    return None
