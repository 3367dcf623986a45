"""`layerlens validate`: every check of a plan, its value, its target and its verdict."""

from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.plan import PlanMetadata, load_plan
from layerlens.artifacts.profile import PROFILE_FILE, Profile
from layerlens.artifacts.store import read_json, write_json
from layerlens.artifacts.validation import VALIDATION_FILE, Validation
from layerlens.config import output_path
from layerlens.progress import SILENT, Progress
from layerlens.validation.run import validate as run_checks
from layerlens.workflow.own_output import holds, refuse_foreign


def validate(
    plan: str | Path,
    out: str | Path | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.validate",
    progress: Progress = SILENT,
) -> Validation:
    """Check a plan, and write `validation.json` beside it.

    A plan that does not add up is read all the same: saying what is wrong with it is the purpose.

    Args:
        plan: The plan.
        out: Where to write the checks, in place of those of an earlier call; any other file there is kept.
        dry_run: Check, but write nothing.
        command: The invocation; kept nowhere.
        progress: Who watches.

    Returns:
        Every check with its verdict.

    Raises:
        ConfigError: another file would be replaced.
        ManifestError: the plan or its profile is missing or damaged.
    """
    path = Path(plan).expanduser()
    target = output_path(out) if out else path.parent / VALIDATION_FILE
    loaded = load_plan(path, is_strict=False)
    refuse_foreign(target, lambda found: holds(found, Validation), VALIDATION_FILE)
    checks = run_checks(loaded, _profile_of(path, loaded.metadata))
    if dry_run:
        progress.note(f"dry run: {target} was not written")
    else:
        write_json(target, checks)
    return checks


def _profile_of(plan: Path, told: PlanMetadata) -> Profile | None:
    """Find the plan's profile where the plan says, or beside the plan after the run's folder was moved.

    Where the plan says depends on the folder that one is in, and may be another profile of the same name.
    """
    places = (Path(told.profile), plan.parent / Path(told.profile).name)
    found = [read_json(place / PROFILE_FILE, Profile) for place in places if (place / PROFILE_FILE).exists()]
    return next((profile for profile in found if profile.identity == told.profile_identity), found[0] if found else None)
