"""How an arm looks in charts, and numbers as the pages of a suite write them."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.bench import ArmSummary, Cell, Outcome, Paired
from layerlens.artifacts.plan import UNIFORM
from layerlens.reporting.quantities import NO_BREAK

FULL, HEAD, LAYERLENS = "full", "head", "layerlens"
#: Markers of the arms that a reader looks for; all others are grey dots with their number.
_MARKERS: dict[str, dict[str, Any]] = {
    LAYERLENS: {"color": "@chosen", "size": 14, "symbol": "diamond"},
    UNIFORM: {"color": "@uniform", "size": 11, "symbol": "square"},
    FULL: {"color": "@full", "size": 12, "symbol": "triangle-up"},
}
_VARIANT = {"color": "@chosen", "size": 9, "symbol": "diamond-open"}
_OTHER = {"color": "@rest", "size": 10, "symbol": "circle"}


def marker_of(arm: str) -> dict[str, Any]:
    """The marker of an arm; variants of LayerLens share its colour."""
    is_variant = arm.startswith(("layerlens-", "no-"))
    return {**_MARKERS.get(arm, _VARIANT if is_variant else _OTHER), "line": {"width": 1, "color": "@surface"}}


def ranked(cell: Cell) -> list[ArmSummary]:
    """The arms of a cell, best mean first; equal ones in the suite's order."""
    return sorted(cell.arms, key=lambda arm: arm.mean if cell.is_lower_better else -arm.mean)


def score(value: float) -> str:
    """A score to four decimals, a large one (a perplexity) to two."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def with_interval(arm: ArmSummary) -> str:
    """`0.7912 ± 0.0041`: the mean and half of its 95 % interval."""
    if arm.interval is None:
        return score(arm.mean)
    half = (arm.interval[1] - arm.interval[0]) / 2
    return f"{score(arm.mean)}{NO_BREAK}±{NO_BREAK}{score(half)}"


def difference(paired: Paired | None, *, is_share: bool = False) -> str:
    """A paired difference with its interval and what it shows."""
    if paired is None:
        return "–"
    written = f"{paired.difference:+.2%}" if is_share else f"{paired.difference:+.4f}"
    if paired.interval is None:
        return f"{written} ({'one seed' if len(paired.seeds) == 1 else 'no spread over seeds'})"
    low, high = (f"{value:+.2%}" if is_share else f"{value:+.4f}" for value in paired.interval)
    word = {Outcome.NO_DIFFERENCE: "no difference shown"}.get(paired.outcome, paired.outcome.value)
    return f"{written} [{low}, {high}] {word}"


def ratio(value: float | None) -> str:
    """`0.42 ×`."""
    return "–" if value is None else f"{value:.2f}{NO_BREAK}×"


def p_values(paired: Paired | None) -> str:
    """Both tests' p-values; a dash where there is none."""
    if paired is None:
        return "–"
    shown = ["–" if value is None else f"{value:.3g}" for value in (paired.t_p_value, paired.permutation_p_value)]
    return f"{shown[0]} / {shown[1]}"
