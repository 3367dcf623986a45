"""What compression leaves on disk beside the weights: every layer's options with their prices, and the plan.

compressed.curves/   curves.json: options of each matrix with bytes and predicted loss; factors/*.safetensors: what they hold
compressed/          plan.json beside the weights: the format of each matrix
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from layerlens.artifacts.formats import Scheme
from layerlens.artifacts.plan import Budget, Chosen, Solver
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import read_json, write_json
from layerlens.config import path_beside
from layerlens.errors import ManifestError
from layerlens.words import SCHEMA_VERSION, BudgetName, Frozen, Role, TaskKind

CURVES_FILE, PLAN_FILE, FACTORS_FOLDER = "curves.json", "plan.json", "factors"
#: What the name of the curves' folder has behind that of the compressed one.
CURVES_SUFFIX = ".curves"


class Rounding(StrEnum):
    """How codes or factors were found."""

    NONE = "none"
    NEAREST = "nearest"
    SECOND_ORDER = "second-order"
    PLAIN = "plain-svd"
    WHITENED = "whitened-svd"


class Option(Frozen):
    """One way to store a matrix: its bytes and what it is predicted to cost."""

    scheme: Scheme
    rounding: Rounding
    size_bytes: int = Field(ge=0)
    predicted_loss: float = Field(ge=0, description="nats per token (per sample without tokens), anchored by probes")
    family_anchor: float = Field(
        default=1.0, gt=0, description="what probes of its own family multiply predicted_loss by, beyond the matrix's anchor"
    )
    weight_error: float = Field(ge=0, description="relative Frobenius error of the matrix")
    output_error: float = Field(ge=0, description="relative error of its outputs on calibration inputs")


class Probe(Frozen):
    """The divergence measured at one option, which anchors the curve or one family of its options."""

    scheme: Scheme
    rounding: Rounding
    predicted: float = Field(ge=0, description="by the second-order model, not anchored, nats")
    measured: float = Field(description="nats, on text that calibration did not see")
    error_after_blocks: list[float] = Field(
        default=[], description="relative error of the hidden state after the matrix's own block and every later one"
    )


class MatrixCurve(Frozen):
    """One matrix with its options, cheapest first."""

    layer: str = Field(description="full module path")
    block: int | None
    role: Role
    out_features: int = Field(gt=0)
    in_features: int = Field(gt=0)
    kept_element_bytes: int = Field(gt=0, description="bytes of a number in the checkpoint")
    input_group: str = Field(description="first layer that reads the same input")
    tied: list[str] = Field(default=[], description="other modules that hold this very matrix")
    options: list[Option]
    probe: Probe | None = None
    anchor: float = Field(default=1.0, gt=0, description="measured over predicted; multiplied into predicted_loss")
    family_probes: list[Probe] = Field(default=[], description="options that plans chose, measured alone, oldest first")
    spectrum_rank: float = Field(default=0.0, ge=0, description="effective rank of the whitened matrix")


class CompressedModelInfo(Frozen):
    """Which checkpoint, and how large it is."""

    id: str
    hash: str
    architecture: str = Field(description="class that the folder's config names")
    num_parameters: int = Field(gt=0, description="all parameters of the checkpoint, tied ones once")
    size_bytes: int = Field(gt=0, description="bytes of all its safetensors tensors")
    other_bytes: int = Field(
        ge=0, description="bytes of what is never compressed: norms, biases, small tables, a sentence encoder's later modules"
    )


class Curves(Frozen):
    """`curves.json`."""

    schema_version: int = SCHEMA_VERSION
    model: CompressedModelInfo
    task: TaskInfo
    data: dict[str, Any] = Field(description="id, hash, samples and tokens of calibration and of held-out measuring")
    matrices: list[MatrixCurve]
    rounds: dict[str, int] = Field(default={}, description="rounds of family probes that each target has had, by its hash")
    versions: dict[str, str] = {}
    seed: int = 0
    config: dict[str, Any] = {}

    @property
    def compares_embeddings(self) -> bool:
        """Whether losses are how far embeddings are apart, for want of a head, and no divergence of predictions."""
        told = self.data.get("compared")
        return self.task.kind is TaskKind.EMBEDDING if told is None else told == "embedding"


class PlanMatrix(Frozen):
    """What one matrix gets, at what cost, and why."""

    layer: str
    block: int | None
    role: Role
    out_features: int
    in_features: int
    scheme: Scheme
    rounding: Rounding
    format: str = Field(description="name of the scheme")
    rank: int
    bits: int
    size_bytes: int
    predicted_loss: float
    why: str
    tied: list[str] = []


class Measured(Frozen):
    """A candidate measured on held-out text: the race of compression."""

    name: str
    size_bytes: int
    bits_per_weight: float
    predicted_loss: float | None = None
    kl_nats: float = Field(description="mean divergence from the original model, nats per token or sample")
    is_baseline: bool


class CompressionPlan(Frozen):
    """`plan.json` of a compressed folder."""

    schema_version: int = SCHEMA_VERSION
    model: CompressedModelInfo
    task: TaskInfo
    budgets: dict[BudgetName, Budget]
    solver: Solver = Field(description="value is minus the predicted loss")
    chosen: Chosen
    size_bytes: int = Field(description="bytes of all tensors of the folder, exactly")
    bits_per_weight: float = Field(description="8 × size_bytes / parameters of the model")
    measured: list[Measured] = Field(default=[], description="candidates and baselines on held-out text, best first")
    layers: list[PlanMatrix]
    metadata: dict[str, Any] = {}


def curves_beside(folder: Path) -> Path:
    """Where the curves of a compressed folder lie: beside the folder itself, also where a link leads to it."""
    return path_beside(folder.resolve(), CURVES_SUFFIX)


def save_curves(folder: Path, curves: Curves) -> None:
    write_json(folder / CURVES_FILE, curves)


def load_curves(folder: Path) -> Curves:
    """Read `curves.json`.

    Raises:
        ManifestError: it is missing, damaged or of another schema.
    """
    curves = read_json(folder / CURVES_FILE, Curves)
    if curves.schema_version != SCHEMA_VERSION:
        raise ManifestError(f"{folder} has schema version {curves.schema_version}, this LayerLens reads {SCHEMA_VERSION}")
    return curves


def save_compression_plan(folder: Path, plan: CompressionPlan) -> None:
    write_json(folder / PLAN_FILE, plan)


def load_compression_plan(folder: str | Path) -> CompressionPlan:
    """Read `plan.json` of a compressed folder.

    Raises:
        ManifestError: it is missing, damaged or of another schema.
    """
    try:
        plan = read_json(Path(folder).expanduser() / PLAN_FILE, CompressionPlan)
    except ManifestError as error:
        raise ManifestError(f"{error}; give a folder that `layerlens compress` wrote") from error
    if plan.schema_version != SCHEMA_VERSION:
        raise ManifestError(f"{folder} has schema version {plan.schema_version}, this LayerLens reads {SCHEMA_VERSION}")
    return plan
