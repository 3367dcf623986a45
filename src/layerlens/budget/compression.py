"""From curves to a compression plan with its proof, its reasons, its candidates and baselines. No torch; well under a second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from layerlens.artifacts.compression import CompressionPlan, Curves, PlanMatrix
from layerlens.artifacts.plan import Budget, Chosen, Solver
from layerlens.artifacts.versions import installed_versions
from layerlens.budget.compression_candidates import OPTIMUM, Runner, baselines, other_readings
from layerlens.budget.cosine_target import mean_cosine, smallest_for_cosine
from layerlens.budget.format_menu import Menu, Selection, menu_of
from layerlens.budget.format_optimum import FormatOptimum, optimal_formats
from layerlens.budget.format_reasons import BY_LOSS, BY_RANK, BY_RULE, reasons
from layerlens.budget.low_rank_formats import fixed_rank_plan
from layerlens.config import CompressConfig
from layerlens.errors import InfeasibleBudgetError
from layerlens.words import BudgetName

FIXED_RANK = "fixed-rank"
#: Under this share of the bytes a plan says what stopped it.
LOW_UTILISATION = 0.7


@dataclass(frozen=True)
class CompressionPlans:
    """Everything that races.

    Args:
        plan: What the target asks for: the optimum, or the fixed-rank form.
        candidates: Our plans by name, `plan` first.
        baselines: What a person would do without us, by name, within the same bytes.
        left_out: Names of candidates and baselines that do not exist here, and why.
    """

    plan: CompressionPlan
    candidates: dict[str, CompressionPlan]
    baselines: dict[str, CompressionPlan]
    left_out: dict[str, str]


def plan_compression(curves: Curves, config: CompressConfig, *, command: str = "") -> CompressionPlans:
    """Choose how every matrix is stored.

    Args:
        curves: The options of every matrix with their bytes and predicted losses.
        config: The target and the policies.
        command: The invocation, for the record.

    Returns:
        The plan, its candidates and the baselines. A plan's size is exact: bytes that are never compressed, and the sum over
        matrices. Where the target is no number of bytes (a cosine, a rank), the plan's own bytes are everyone's limit.

    Raises:
        ConfigError: a policy does not suit the model, or the rank does not.
        InfeasibleBudgetError: the target is below the smallest possible size, which is named, or a cosine out of reach.
        ManifestError: the curves do not offer to keep a matrix that must be kept.
    """
    menu = menu_of(curves, config)
    asked = limit_of(curves, config)
    if asked is not None and asked < menu.smallest_bytes:
        raise InfeasibleBudgetError(_too_small(menu, asked))
    fixed = None if config.rank is None else fixed_rank_plan(menu)
    by_cosine = None if config.cosine is None else smallest_for_cosine(menu, config.cosine)
    if fixed is not None:
        limit = menu.size_of(fixed)
    elif by_cosine is not None:
        limit = menu.size_of(by_cosine.selection)
    else:
        limit = asked or 0
    optimum = by_cosine or optimal_formats([group.offers for group in menu.groups], limit - menu.other_bytes)
    if optimum is None:
        raise InfeasibleBudgetError(_too_small(menu, limit))
    readings, without = other_readings(menu, optimum, limit)
    rivals, absent = baselines(menu, limit)
    ours = [Runner(FIXED_RANK, fixed)] if fixed is not None else []
    ours += [Runner(OPTIMUM, optimum.selection), *readings]
    uniform = [menu.loss_of(rival.selection) for rival in rivals if rival.name.startswith("uniform")]
    record = _Record(menu, optimum, asked, limit, min(uniform, default=None), command, installed_versions("numpy", "scipy"))
    plans = {runner.name: record.plan(runner, BY_RANK if runner.name == FIXED_RANK else BY_LOSS) for runner in ours}
    beside = {runner.name: record.plan(runner, BY_RULE) for runner in rivals}
    return CompressionPlans(plans[ours[0].name], plans, beside, {**without, **absent})


def limit_of(curves: Curves, config: CompressConfig) -> int | None:
    """The bytes that the config allows; none where the target is a cosine or a rank."""
    if config.size is not None:
        return config.size
    if config.bits_per_weight is not None:
        return math.floor(Fraction(config.bits_per_weight) * curves.model.num_parameters / 8)
    return None


@dataclass(frozen=True)
class _Record:
    """What every plan of one run shares."""

    menu: Menu
    optimum: FormatOptimum
    asked_bytes: int | None
    limit_bytes: int
    uniform_loss: float | None
    command: str
    versions: dict[str, str]

    def plan(self, runner: Runner, spending: str) -> CompressionPlan:
        menu, curves = self.menu, self.menu.curves
        options = menu.options_of(runner.selection)
        limit = None if spending == BY_RANK else self.limit_bytes
        sentences = reasons(menu, runner.selection, limit, spending)
        size = menu.size_of(runner.selection)
        layers = [
            PlanMatrix(
                layer=matrix.layer,
                block=matrix.block,
                role=matrix.role,
                out_features=matrix.out_features,
                in_features=matrix.in_features,
                scheme=option.scheme,
                rounding=option.rounding,
                format=option.scheme.name,
                rank=option.scheme.rank,
                bits=option.scheme.bits,
                size_bytes=option.size_bytes,
                predicted_loss=option.predicted_loss,
                why=why,
                tied=matrix.tied,
            )
            for matrix, option, why in zip(curves.matrices, options, sentences, strict=True)
        ]
        best = self.optimum
        return CompressionPlan(
            model=curves.model,
            task=curves.task,
            budgets={BudgetName.SIZE_BYTES: Budget(limit=self.asked_bytes, spent=size)},
            solver=Solver(
                status=best.status,
                value=-best.loss,
                bound=-best.bound,
                gap=best.gap,
                uniform_value=None if self.uniform_loss is None else -self.uniform_loss,
            ),
            chosen=Chosen(name=runner.name, value=-math.fsum(option.predicted_loss for option in options)),
            size_bytes=size,
            bits_per_weight=menu.bits_per_weight(size),
            layers=layers,
            metadata={
                "command": self.command,
                "config": menu.config.model_dump(mode="json"),
                "versions": self.versions,
                "seed": curves.seed,
                "predicted_cosine": mean_cosine(options),
                "notes": self._notes(runner.selection, size),
            },
        )

    def _notes(self, selection: Selection, size: int) -> list[str]:
        """What a person should know: bytes that nothing could be bought for."""
        if self.asked_bytes is None or size >= LOW_UTILISATION * self.asked_bytes:
            return []
        least = [min(offer.loss for offer in group.offers) for group in self.menu.groups]
        finest = all(offer.loss <= loss for offer, loss in zip(selection, least, strict=True))
        why = "every matrix loses the least that is on offer" if finest else "this plan's rule leaves the rest"
        return [f"only {size / self.asked_bytes:.0%} of the bytes are spent: {why}"]


def _too_small(menu: Menu, asked: int) -> str:
    smallest, config = menu.smallest_bytes, menu.config
    bits = menu.bits_per_weight(smallest)
    if config.bits_per_weight is None:
        got = f"size: {asked:,} bytes ({menu.bits_per_weight(asked):.4g} bits per weight) are"
    else:
        got = f"bits_per_weight: {config.bits_per_weight:g} ({asked:,} bytes) is"
    # Rounded up, so that the figure named is one that works.
    ceiling = math.ceil(bits * 1e4) / 1e4
    return (
        f"{got} below the smallest possible, {smallest:,} bytes ({ceiling:.4f} bits per weight); "
        "allow more, or smaller widths and other formats, or keep less"
    )
