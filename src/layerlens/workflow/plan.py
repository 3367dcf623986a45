"""`layerlens plan`: profile folder in, `plan.json` and its candidates out. No torch, no model, milliseconds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerlens.artifacts.plan import Plan, candidates_folder, load_plan, save_plan
from layerlens.artifacts.profile import load_profile
from layerlens.budget.run import make_plan
from layerlens.config import OptimizationConfig, output_path
from layerlens.errors import ConfigError, ManifestError
from layerlens.progress import SILENT, Progress
from layerlens.workflow.given import given_config


@dataclass(frozen=True)
class PlanResult:
    """A plan with its candidates; `path` is none after a dry run."""

    path: Path | None
    plan: Plan
    candidates: dict[str, Plan]


def plan(
    profile: str | Path,
    out: str | Path = "plan.json",
    config: OptimizationConfig | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.plan",
    progress: Progress = SILENT,
) -> PlanResult:
    """Choose per layer, exactly, and write the plan and every candidate as a plan of its own.

    Args:
        profile: Folder of a profile.
        out: The plan to write; an older plan there is replaced, any other file is not.
        config: Budgets and preferences.
        dry_run: Plan, but write nothing.
        command: The invocation, kept in the plan.
        progress: Who watches.

    Returns:
        The plan and its candidates.

    Raises:
        InfeasibleBudgetError: no plan fits; the smallest feasible budgets are named.
        LayerLensError: the profile or an option is not what it should be.
    """
    if config is None:
        raise ConfigError("plan: no budget given; pass an OptimizationConfig with at least one")
    config = given_config(OptimizationConfig, config)
    path = output_path(out)
    source = Path(profile).expanduser()
    made, candidates = make_plan(*load_profile(source), config, profile_path=str(source), command=command)
    if dry_run:
        return PlanResult(None, made, candidates)
    _refuse_foreign(path)
    _write_candidates(candidates_folder(path), candidates)
    save_plan(path, made)
    return PlanResult(path, made, candidates)


def _refuse_foreign(path: Path) -> None:
    """Only a plan is replaced by a plan, and only a folder of plans by its candidates."""
    if path.exists():
        try:
            load_plan(path, is_strict=False)
        except ManifestError as error:
            raise ConfigError(f"{path} exists and is no plan of LayerLens; choose another --out") from error
    folder = candidates_folder(path)
    if folder.is_symlink() or (folder.exists() and not _holds_plans_alone(folder)):
        raise ConfigError(f"{folder} exists and holds other files than candidates; choose another --out")


def _holds_plans_alone(folder: Path) -> bool:
    try:
        for found in folder.iterdir():
            load_plan(found, is_strict=False)
    except (OSError, ManifestError):
        return False
    return True


def _write_candidates(folder: Path, candidates: dict[str, Plan]) -> None:
    """Replace the folder at once, so that it never mixes candidates of two plans."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; choose another --out") from error
    try:
        staged.chmod(0o755)
        for name, candidate in candidates.items():
            save_plan(staged / f"{name}.json", candidate)
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
