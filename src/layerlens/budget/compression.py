"""From curves to a compression plan with its proof, its reasons, its candidates and baselines. No torch; well under a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from layerlens.artifacts.compression import CompressionPlan, Curves, MatrixCurve, Measured, PlanMatrix
from layerlens.artifacts.plan import Budget, Chosen, Solver
from layerlens.artifacts.versions import installed_versions
from layerlens.budget.compression_candidates import OPTIMUM, Runner, barred, baselines, other_readings
from layerlens.budget.cosine_target import mean_cosine, smallest_for_cosine
from layerlens.budget.format_menu import Menu, Selection, menu_of
from layerlens.budget.format_optimum import FormatOptimum, optimal_formats
from layerlens.budget.format_reasons import BY_COSINE, BY_LOSS, BY_RANK, BY_RULE, reasons
from layerlens.budget.low_rank_formats import fixed_rank_plan
from layerlens.config import CompressConfig
from layerlens.errors import InfeasibleBudgetError
from layerlens.words import BudgetName

FIXED_RANK, SMALLEST = "fixed-rank", "smallest-for-cosine"
#: What plans that a target itself fixes spend their bytes by.
_SPENDING = {FIXED_RANK: BY_RANK, SMALLEST: BY_COSINE}
#: Under this share of the bytes a plan says what stopped it.
LOW_UTILISATION = 0.7


@dataclass(frozen=True)
class CompressionPlans:
    """Everything that races.

    Args:
        plan: What the target asks for: the optimum, the fixed-rank form, or the smallest that reaches the cosine.
        candidates: Our plans by name, `plan` first.
        baselines: What a person would do without us, by name, within the same bytes.
        left_out: Names of candidates and baselines that do not exist here, and why.
        only_measured: Names of baselines that race but may not be written, and why.
    """

    plan: CompressionPlan
    candidates: dict[str, CompressionPlan]
    baselines: dict[str, CompressionPlan]
    left_out: dict[str, str]
    only_measured: dict[str, str]

    def first_to_write(self, measured: Sequence[Measured]) -> Measured:
        """The best of those that may be written; the plan is always one of them.

        Args:
            measured: Everyone who raced, best first.
        """
        return next(one for one in measured if one.name not in self.only_measured)


def plan_compression(curves: Curves, config: CompressConfig, *, command: str = "") -> CompressionPlans:
    """Choose how every matrix is stored.

    Args:
        curves: The options of every matrix with their bytes and predicted losses.
        config: The target and the policies.
        command: The invocation, for the record.

    Returns:
        The plan, its candidates and the baselines. A plan's size is exact: bytes that are never compressed, and the sum over
        matrices. Where the target is no number of bytes (a cosine, a rank), the plan's own bytes are everyone's limit, and of our
        other plans those race that are predicted to reach the cosine.

    Raises:
        ConfigError: a policy does not suit the model, or the rank does not.
        InfeasibleBudgetError: the target is below the smallest possible size, which is named, or a cosine out of reach.
        ManifestError: the curves do not offer to keep a matrix that must be kept.
    """
    menu = menu_of(curves, config)
    asked = limit_of(curves, config)
    if asked is not None and asked < menu.smallest_bytes:
        raise InfeasibleBudgetError(_too_small(menu, asked))
    lead, notes = _asked_plan(menu)
    limit = (asked or 0) if lead is None else menu.size_of(lead.selection)
    optimum = optimal_formats([group.offers for group in menu.groups], limit - menu.other_bytes)
    if optimum is None:
        raise InfeasibleBudgetError(_too_small(menu, limit))
    readings, without = other_readings(menu, optimum, limit)
    rivals, absent = baselines(menu, limit)
    ours = [Runner(OPTIMUM, optimum.selection), *readings]
    short = {runner.name: reason for runner in ours if (reason := _shortfall(menu, runner.selection))}
    ours = [*([lead] if lead else []), *(runner for runner in ours if runner.name not in short)]
    reasons_against = {rival.name: (barred(menu, rival.selection), _shortfall(menu, rival.selection)) for rival in rivals}
    only_measured = {name: "; ".join(filter(None, told)) for name, told in reasons_against.items() if any(told)}
    left_out = {**short, **without, **absent}
    uniform = [menu.loss_of(rival.selection) for rival in rivals if rival.name.startswith("uniform")]
    shared = {
        "command": command,
        "versions": installed_versions("numpy", "scipy"),
        "seed": curves.seed,
        "left_out": left_out,
        "only_measured": only_measured,
    }
    record = _Record(menu, optimum, asked, limit, min(uniform, default=None), notes, shared)
    plans = {runner.name: record.plan(runner, _SPENDING.get(runner.name, BY_LOSS)) for runner in ours}
    beside = {runner.name: record.plan(runner, BY_RULE) for runner in rivals}
    return CompressionPlans(plans[ours[0].name], plans, beside, left_out, only_measured)


def _asked_plan(menu: Menu) -> tuple[Runner | None, list[str]]:
    """The plan that the target itself fixes, with what is to be said of it; none where the target is a number of bytes."""
    config = menu.config
    if config.rank is not None:
        return Runner(FIXED_RANK, fixed_rank_plan(menu)), []
    if config.cosine is None:
        return None, []
    found = smallest_for_cosine(menu, config.cosine)
    gap = f"it is not proved that no plan up to {found.gap_bytes:,} bytes smaller reaches the cosine"
    return Runner(SMALLEST, found.selection), [gap] if found.gap_bytes else []


def _shortfall(menu: Menu, selection: Selection) -> str | None:
    """Why a plan is not what was asked for, where a cosine was."""
    target, cosine = menu.config.cosine, mean_cosine(menu.options_of(selection))
    return None if target is None or cosine >= target else f"its predicted cosine, {cosine:.4g}, is below {target:g}"


def limit_of(curves: Curves, config: CompressConfig) -> int | None:
    """The bytes that the config allows; none where the target is a cosine or a rank."""
    if config.size is not None:
        return config.size
    if config.bits_per_weight is not None:
        # By its decimals, as it was typed: the binary number may lie below it.
        return math.floor(Fraction(str(config.bits_per_weight)) * curves.model.num_parameters / 8)
    return None


def smallest_told(menu: Menu) -> str:
    """The smallest possible size, in words; its bits per weight are rounded up, so that the figure named is one that works."""
    smallest = menu.smallest_bytes
    ceiling = math.ceil(Fraction(8 * smallest * 10**4, menu.curves.model.num_parameters)) / 10**4
    return f"{smallest:,} bytes ({ceiling:.4f} bits per weight)"


@dataclass(frozen=True)
class _Record:
    """What every plan of one run shares."""

    menu: Menu
    optimum: FormatOptimum
    asked_bytes: int | None
    limit_bytes: int
    uniform_loss: float | None
    notes: list[str]
    metadata: dict[str, Any]

    def plan(self, runner: Runner, spending: str) -> CompressionPlan:
        menu, curves = self.menu, self.menu.curves
        options = menu.options_of(runner.selection)
        limit = None if spending in _SPENDING.values() else self.limit_bytes
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
                **self.metadata,
                "config": menu.config.model_dump(mode="json"),
                "predicted_cosine": mean_cosine(options),
                "notes": [*self.notes, *self._notes(runner.selection, size)],
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
    config = menu.config
    if config.bits_per_weight is None:
        got = f"size: {asked:,} bytes ({menu.bits_per_weight(asked):.4g} bits per weight) are"
    else:
        got = f"bits_per_weight: {config.bits_per_weight:g} ({asked:,} bytes) is"
    return (
        f"{got} below the smallest possible, {smallest_told(menu)}{_idle_told(menu.curves)}; allow more, or smaller widths and "
        "other formats, or keep less"
    )


def _idle_told(curves: Curves) -> str:
    """Layers of blocks that shapes promised narrower forms for, before it was measured that no sample's loss depends on them."""
    is_measured = any(option.predicted_loss for matrix in curves.matrices for option in matrix.options)
    idle = [matrix.layer for matrix in curves.matrices if matrix.block is not None and _is_idle(matrix)]
    if not (is_measured and idle):
        return ""
    more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
    return f", since {idle[0]}{more}, which no calibration sample's loss depends on, may take the widest codes alone"


def _is_idle(matrix: MatrixCurve) -> bool:
    return not any(option.predicted_loss for option in matrix.options)
