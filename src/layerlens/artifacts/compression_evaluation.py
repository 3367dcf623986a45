"""`evaluation.json` of a compressed model: what it weighs, what it lost on each text, and where."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, ValidationError

from layerlens.artifacts.compression import CompressionPlan
from layerlens.artifacts.store import faults_of
from layerlens.errors import ManifestError
from layerlens.words import SCHEMA_VERSION, Frozen


class Change(Frozen):
    """A figure of the original and of the compressed model."""

    before: float
    after: float


class ByteChange(Frozen):
    """Bytes of the original and of the compressed model."""

    before: int = Field(ge=0)
    after: int = Field(ge=0)


class Spread(Frozen):
    """How a figure is spread over positions."""

    mean: float
    median: float
    p99: float = Field(description="what 99 % of the positions stay at or below")
    max: float


class Windows(Frozen):
    """How a text was cut for its perplexity."""

    window: int = Field(gt=0, description="tokens of a window, a begin-of-text token included")
    stride: int = Field(gt=0, description="tokens from one window's start to the next one's")
    has_bos: bool = Field(description="whether every window starts with a begin-of-text token")
    num_tokens: int = Field(gt=0, description="tokens of the text")


class Metric(Change):
    """The task's own score."""

    name: str


class TextQuality(Frozen):
    """One text, or one set of samples, through both models."""

    name: str
    is_calibration: bool = Field(default=False, description="whether the text is of the kind that the model was compressed on")
    num_positions: int = Field(ge=0, description="predictions compared: tokens, samples")
    windows: Windows | None = Field(default=None, description="none for samples")
    perplexity: Change | None = Field(default=None, description="per token; language models only")
    metric: Metric | None = Field(default=None, description="the task's primary metric; none for language models and embeddings")
    kl: Spread | None = Field(default=None, description="KL(original‖compressed) per prediction, nats; none for embeddings")
    same_top_token: float | None = Field(
        default=None, description="share of predictions with the same most probable token or class"
    )
    logits_cosine: float | None = Field(default=None, description="mean cosine of the logits of a prediction")
    embedding_distance: Spread | None = Field(default=None, description="1 − cosine of mean-pooled embeddings")


class Verdict(StrEnum):
    """How much of a layer's output is left; unseen where no sample ran through the layer."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    CRITICAL = "critical"
    UNSEEN = "unseen"


#: Largest relative output error of each verdict; above the last it is critical. Errors of .05, .15 and .35 go with cosines of
#: .9988, .989 and .937. Gaussian weights rounded to nearest in groups of 64 lose .006 at 8 bits, .047 at 5, .095 at 4, .19 at 3,
#: .39 at 2.
OUTPUT_ERROR_LIMITS = {Verdict.GOOD: 0.05, Verdict.FAIR: 0.15, Verdict.POOR: 0.35}


def verdict_of(output_error: float | None) -> Verdict:
    """Verdict on a relative output error; none of a layer that did not run."""
    if output_error is None:
        return Verdict.UNSEEN
    return next((verdict for verdict, limit in OUTPUT_ERROR_LIMITS.items() if output_error <= limit), Verdict.CRITICAL)


class LayerQuality(Frozen):
    """One matrix, before and after. Cosines and errors are of the linear part alone, over all numbers of the matrix or output."""

    layer: str = Field(description="full module path")
    weight_cosine: float
    weight_error: float = Field(ge=0, description="‖Ŵ − W‖ / ‖W‖")
    output_cosine: float | None = Field(description="none where the layer did not run on any sample")
    output_error: float | None = Field(
        ge=0, description="‖X Ŵᵀ − X Wᵀ‖ / ‖X Wᵀ‖ on inputs that the original model's layer sees; none where it saw none"
    )
    size_bytes: ByteChange = Field(description="bytes of the matrix as it is in memory")
    tied_to: str | None = Field(default=None, description="an earlier layer that holds the same matrix; its bytes count once")
    verdict: Verdict


class Generated(Frozen):
    """Greedy text of both models after one prompt."""

    prompt: str
    before: str
    after: str
    num_same: int = Field(ge=0, description="tokens until the first that differs")
    num_tokens: int = Field(ge=0, description="tokens that the original went on for")


class Speed(Frozen):
    """Greedy generation at batch 1: medians of repeated runs after a warm-up."""

    tokens_per_second: Change
    new_tokens: int
    prompt_tokens: int
    repeats: int
    types: list[str] = Field(description="types of the numbers that each model computes with")


class Memory(Frozen):
    """Memory that one model takes."""

    weight_bytes: int = Field(description="bytes of all parameters and buffers, shared ones once")
    resident_before_bytes: int = Field(description="resident set of the process before the model was loaded")
    resident_after_bytes: int = Field(description="and after it was loaded and had run once")
    file_before_bytes: int | None = Field(
        default=None,
        description="pages of mapped files among those, which the system can take back; none where nobody tells, or where an "
        "earlier release read all of this before the model had run and so before its weights were in memory",
    )
    file_after_bytes: int | None = None


class MemoryChange(Frozen):
    """Memory of both models."""

    before: Memory
    after: Memory


class PowerLaw(Frozen):
    """error after N blocks = error after the first · N^exponent, least squares in logarithms."""

    exponent: float
    rms_log_error: float = Field(ge=0, description="root mean square of what the fit leaves of log error")
    claimed_rms_log_error: float = Field(ge=0, description="the same for the claimed exponent")
    end_over_start: float = Field(ge=0, description="error after the last block over that after the first, geometric mean")
    claimed_end_over_start: float = Field(ge=0, description="the same as claimed")
    num_points: int


class ErrorTravel(Frozen):
    """How the relative error of the hidden state travels, beside the claim that errors average out as ε/√N."""

    claimed_exponent: float = -0.5
    alone: PowerLaw | None = Field(description="one matrix compressed at a time; N counts blocks from its own on; none without")
    together: PowerLaw | None = Field(description="all compressed; N counts blocks from the first; none without")
    error_after_blocks: list[float] = Field(description="all compressed: relative error of the hidden state after each block")
    summary: str


class Reverted(Frozen):
    """What reverting one compressed matrix gives back."""

    layer: str
    kl_nats: float = Field(description="mean divergence from the original with this matrix as it was")
    gain_nats: float = Field(description="by how much that is less than with all compressed")
    low: float = Field(description="95 % interval of the gain, over samples")
    high: float
    share: float = Field(description="of the whole divergence")
    is_pillar: bool


class LeaveOneOut(Frozen):
    """Sensitivity by trial: one matrix reverted at a time, largest gain first."""

    kl_nats: float = Field(description="mean divergence from the original with all compressed")
    layers: list[Reverted]

    @property
    def pillars(self) -> list[str]:
        """Layers whose reverting gives back far more than an even share, beyond doubt."""
        return [layer.layer for layer in self.layers if layer.is_pillar]

    @property
    def named_pillars(self) -> str:
        """The pillars as a line has them: the first ten, or that there are none."""
        return ", ".join(self.pillars[:10]) or f"none of {len(self.layers)} layers stands out"


def leave_one_out_of(plan: CompressionPlan) -> LeaveOneOut | None:
    """The trial that a plan tells of; None where none was asked for.

    Raises:
        ManifestError: it is damaged.
    """
    told = plan.metadata.get("leave_one_out")
    try:
        return None if told is None else LeaveOneOut.model_validate(told)
    except ValidationError as error:
        raise ManifestError.of([f"plan.json, metadata.leave_one_out: {fault}" for fault in faults_of(error)]) from error


class CompressionEvaluation(Frozen):
    """The content of `evaluation.json` of a compressed model, or of any model against another."""

    schema_version: int = SCHEMA_VERSION
    model: str
    against: str
    task: str
    size_bytes: ByteChange = Field(description="bytes of all safetensors tensors of each folder")
    bits_per_weight: float = Field(ge=0, description="8 × bytes after / parameters of the original")
    texts: list[TextQuality]
    layers: list[LayerQuality] = []
    generated: list[Generated] = []
    speed: Speed | None = None
    memory: MemoryChange | None = None
    travel: ErrorTravel | None = None
    leave_one_out: LeaveOneOut | None = None
    command: str
    versions: dict[str, str] = {}
    machine: str = ""
    notes: list[str] = []
