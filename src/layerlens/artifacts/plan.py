"""`plan.json`: what each layer gets, what it costs, why, and the proof. Other programs may rely on its keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from layerlens.artifacts.differences import told
from layerlens.artifacts.layers import ModelInfo
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import read_json, sha256_of_json, write_json
from layerlens.config.planning import LARGEST_PREFERENCE
from layerlens.errors import ManifestError
from layerlens.words import SCHEMA_VERSION, SITE_OF_METHOD, BudgetName, Frozen, Method, Site

UNIFORM = "uniform"
#: The exact optimum under the default value model.
OPTIMUM = "optimum-whitened"


class Budget(Frozen):
    """One budget in its own unit: what was allowed (none: no limit was set) and what the plan spends."""

    limit: float | None = None
    spent: float


class Solver(Frozen):
    """The optimum under the default value model (whitened cross-fitted gain) and the bound that proves it."""

    status: str = Field(description="optimal, or what stopped it")
    value: float
    bound: float = Field(description="no plan within the budgets has a higher value")
    gap: float = Field(description="(bound - value) / max(|value|, tiny)")
    uniform_value: float | None = Field(description="value of uniform at the same budgets; none where nothing fits")
    seconds: float | None = Field(default=None, exclude=True, description="not written: equal input gives equal bytes")


class ParetoPoint(Frozen):
    """The best predicted value that a limit on trainable parameters allows, every other budget as it is."""

    limit: float = Field(gt=0, description="limit on trainable parameters")
    value: float = Field(description="optimum under the default value model")
    uniform_value: float | None = Field(default=None, description="value of uniform at this limit; none where nothing fits")


class Chosen(Frozen):
    """The candidate that `layers` holds, and its value under the default value model."""

    name: str
    value: float


class PlanLayer(Frozen):
    """What one site gets, at what cost, and why."""

    layer: str
    block: int | None
    role: str
    site: Site = Site.LINEAR
    method: Method
    size: int = Field(ge=0)
    utility: float
    value: float
    params: int = Field(ge=0)
    flops: float = Field(ge=0, description="per token of one training step, added by this option")
    vram_bytes: float = Field(ge=0, description="training memory added by this option")
    latency_ms: float = Field(ge=0, description="added per token at inference, batch 1, unmerged")
    why: str
    in_features: int = Field(gt=0)
    out_features: int = Field(gt=0)
    kv_features: int = Field(default=0, ge=0)


class RaceCandidate(Frozen):
    """One runner as it left the race."""

    name: str
    held_out_loss: float
    steps: int
    seeds: list[int]
    start_loss: float | None = None
    rungs: list[dict[str, Any]] = Field(default=[], description="per rung: steps, loss per seed")


class Race(Frozen):
    """The evidence of a race."""

    candidates: list[RaceCandidate]
    winner: str
    margin: float | None = Field(description="held-out loss of the runner-up minus the winner's, nats")
    interval: list[float] | None = Field(description="95 % bootstrap interval of the margin, over samples and seeds")
    share_of_tuning: float = Field(description="training steps spent in the race over steps of the tuning run")
    is_blind: bool = False
    is_stopped: bool = Field(
        default=False,
        description="its time limit came before the final had run from every seed; blind too: it measured nothing to choose by",
    )
    verdict: str = Field(description="one sentence: why this plan was chosen")
    details: dict[str, Any] = {}


class PlanMetadata(Frozen):
    """Provenance and what validation needs."""

    gradient_norms: dict[str, float]
    fisher_traces: dict[str, float]
    command: str
    versions: dict[str, str]
    seed: int
    profile: str = Field(description="folder of the profile, as given")
    profile_identity: str
    metric_weights: dict[str, float] = {}
    optimization: dict[str, Any] = Field(description="the OptimizationConfig that made it")
    assumptions: list[str] = Field(default=[], description="how costs are meant: batch, length, optimiser, merging")
    notes: list[str] = Field(default=[], description="what a person should know: guessed roles, low spread, low utilisation")


class Plan(Frozen):
    """The content of `plan.json`."""

    schema_version: int = SCHEMA_VERSION
    model: ModelInfo
    task: TaskInfo
    budgets: dict[BudgetName, Budget]
    solver: Solver
    chosen: Chosen
    alpha_over_rank: float = Field(default=2.0, gt=0, le=LARGEST_PREFERENCE, description="LoRA scaling, the same everywhere")
    pareto: list[ParetoPoint] = Field(default=[], description="predicted value against the budget, limits ascending")
    race: Race | None = None
    layers: list[PlanLayer]
    shared_cost: float = Field(
        default=0.0,
        ge=0,
        description="what objective weights subtract for costs that layers share: the backward pass down to the lowest adapted "
        "block, inputs that are kept; the chosen value is the layers' less this",
    )
    head: list[str] = Field(description="modules trained beside the plan")
    head_params: int = Field(ge=0, description="counted and shown apart from the budget")
    depth_cut: int = Field(default=0, ge=0, description="lowest block that may be adapted")
    reach: int = Field(default=0, ge=0, description="lowest block that uniform can start at under budgets that depend on depth")
    metadata: PlanMetadata

    @property
    def adapted(self) -> list[PlanLayer]:
        return [layer for layer in self.layers if layer.method is not Method.NONE]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def is_weighted(self) -> bool:
        """Whether values are no nats: weighted costs are subtracted from them, or a method's penalty divides them."""
        weights, penalties = (self.metadata.optimization.get(key) or {} for key in ("objective_weights", "method_penalties"))
        return any(weight for term, weight in weights.items() if term != "utility") or any(
            penalty != 1 for penalty in penalties.values()
        )

    @property
    def is_cut_short(self) -> bool:
        """Whether a budget of time, memory or compute keeps even uniform out of the lowest blocks."""
        return self.reach > 0

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each layer that gets a LoRA, by full module path."""
        return {layer.layer: layer.size for layer in self.layers if layer.method is Method.LORA}


def inconsistencies(plan: Plan) -> list[str]:
    """Say where a plan does not add up; an empty list means that it does."""
    faults = []
    seen = set()
    for entry in plan.layers:
        if (entry.layer, entry.site) in seen:
            faults.append(f"{entry.layer}: stands twice")
        seen.add((entry.layer, entry.site))
        if (entry.size == 0) != (entry.method is Method.NONE):
            faults.append(f"{entry.layer}: method {entry.method} with size {entry.size}")
        elif entry.method is not Method.NONE and SITE_OF_METHOD[entry.method] is not entry.site:
            faults.append(f"{entry.layer}: method {entry.method} cannot sit at a {entry.site} site")
        needed = trainable_params(
            entry.method,
            entry.size,
            in_features=entry.in_features,
            out_features=entry.out_features,
            kv_features=entry.kv_features,
        )
        if entry.params != needed:
            faults.append(f"{entry.layer}: params says {entry.params}, {entry.method} of size {entry.size} has {needed}")
    allowed_methods = plan.metadata.optimization.get("candidate_methods")
    if isinstance(allowed_methods, list):
        used = Counter(entry.method for entry in plan.adapted if entry.method not in allowed_methods)
        faults += [f"{number} sites get {method}, which candidate_methods leaves out" for method, number in used.items()]
    budget = plan.budgets.get(BudgetName.TRAINABLE_PARAMS)
    if budget is not None and budget.spent != plan.params:
        faults.append(f"budgets.trainable_params.spent says {budget.spent:g}, the layers add up to {plan.params}")
    for name, allowed in plan.budgets.items():
        if allowed.limit is not None and allowed.spent > allowed.limit * (1 + 1e-9):
            faults.append(f"budgets.{name}: spent {allowed.spent:g} is over the limit {allowed.limit:g}")
    value = sum(layer.value for layer in plan.layers) - plan.shared_cost
    if abs(value - plan.chosen.value) > 1e-6 * max(1.0, abs(value)):
        faults.append(f"chosen.value says {plan.chosen.value:g}, the layers add up to {value:g}")
    return faults


def plan_hash(plan: Plan) -> str:
    """What other files know a plan by: the sha256 of all that it says."""
    return sha256_of_json(plan.model_dump(mode="json"))


def stem_of(plan_path: Path) -> str:
    """`plan.json` → `plan`, and `plan-0.5` as it is: what the files beside a plan are named after."""
    return plan_path.name.removesuffix(".json")


def candidates_folder(plan_path: Path) -> Path:
    """`plan.json` → `plan.candidates/` beside it."""
    return plan_path.with_name(f"{stem_of(plan_path)}.candidates")


def save_plan(path: Path, plan: Plan) -> None:
    write_json(path, plan)


def load_plan(path: str | Path, *, is_strict: bool = True) -> Plan:
    """Read a plan.

    Args:
        path: The file.
        is_strict: Refuse a plan that does not add up (validate reads such a plan to say what is wrong with it).

    Raises:
        ManifestError: the file is missing, does not fit the schema, or does not add up.
    """
    try:
        plan = read_json(Path(path).expanduser(), Plan)
    except ManifestError as error:
        said = f"{path} is the plan of a compressed folder, which has no adapters" if _is_of_compression(path) else str(error)
        raise ManifestError(f"{said}; give a plan.json that `layerlens plan` wrote") from error
    if plan.schema_version != SCHEMA_VERSION:
        raise ManifestError(f"{path} has schema version {plan.schema_version}, this LayerLens reads {SCHEMA_VERSION}; plan again")
    if is_strict and (faults := inconsistencies(plan)):
        raise ManifestError(f"{path} does not add up: {'; '.join(faults[:5])}; make it again with `layerlens plan`")
    return plan


def _is_of_compression(path: str | Path) -> bool:
    try:
        return "bits_per_weight" in json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_candidates(plan_path: Path) -> dict[str, Plan]:
    """Read every plan in the candidates' folder beside a plan, by name, in file order, whatever plan they were made with.

    Raises:
        ManifestError: the folder is missing, or a candidate is damaged or does not add up.
    """
    folder = candidates_folder(plan_path)
    if not folder.is_dir():
        raise ManifestError(f"{folder} is missing; make it again with `layerlens plan`")
    return {path.stem: load_plan(path) for path in sorted(folder.glob("*.json"))}


def load_candidates(plan_path: Path) -> dict[str, Plan]:
    """Read every candidate of a plan, by name, in file order.

    Raises:
        ManifestError: as `read_candidates`, and where they were not made with this plan; says what differs.
    """
    candidates = read_candidates(plan_path)
    if foreign := foreign_candidates(load_plan(plan_path, is_strict=False), candidates):
        raise ManifestError(f"{candidates_folder(plan_path)} holds {foreign}; make both again with `layerlens plan`")
    return candidates


def foreign_candidates(plan: Plan, candidates: Mapping[str, Plan]) -> str:
    """Say which candidates were not made with a plan: of its model and profile, with its options, under its limits.

    Returns:
        `candidates of another plan (limits.trainable_params was 6000, now 1500): mlp, uniform`; empty where all were.
    """
    wanted = _made_of(plan)
    names = [name for name, candidate in candidates.items() if _made_of(candidate) != wanted]
    if not names:
        return ""
    found = _made_of(candidates[names[0]])
    kind = "plan" if found["model"] == wanted["model"] else "model"
    return f"candidates of another {kind} ({told(found, wanted)}): {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _made_of(plan: Plan) -> dict[str, Any]:
    """What all plans of one planning share."""
    return {
        "model": plan.model.hash,
        "profile": plan.metadata.profile_identity,
        "options": plan.metadata.optimization,
        "limits": {name.value: budget.limit for name, budget in plan.budgets.items()},
    }
