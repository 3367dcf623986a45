"""What races beside the optimum: other readings of the same curves, and the baselines at the same bytes.

Predictions can be wrong in known ways, and each reading guards against one: probes that mislead (unanchored), those of single
families (one anchor for each matrix), a few large figures that decide everything (tempered, Σ √loss), factors that calibration
text flatters (integers), and an embedding or head whose damage the second-order model does not see (safe ends: one offer better
than the optimum gave them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import Format, Scheme
from layerlens.budget.format_menu import MatrixGroup, Menu, Offer, Selection, without_policies
from layerlens.budget.format_optimum import FormatOptimum, optimal_formats, staircase
from layerlens.budget.low_rank_formats import low_rank_plan
from layerlens.budget.uniform_formats import LeftOut, uniform_plan
from layerlens.errors import few
from layerlens.words import Role

OPTIMUM = "optimum"
#: Share of the bytes that a baseline may leave unused without a word: less than its next step takes.
_UNUSED = 0.01
#: Why a baseline that is to spend all bytes may not; a uniform width as it is spends what it takes.
_STOPPED_BY = {
    "-int8": "longer factors do not fit or are not on offer",
    "-topped-up": "one width more does not fit on more layers evenly spaced",
}
PLAIN_FORMATS = (Format.KEEP, Format.HALF, Format.INTEGER)
END_ROLES = (Role.EMBEDDING, Role.HEAD)


@dataclass(frozen=True)
class Runner:
    """A plan under a name that is safe in a file name."""

    name: str
    selection: Selection


def other_readings(menu: Menu, optimum: FormatOptimum, limit_bytes: int) -> tuple[list[Runner], dict[str, str]]:
    """Plans of ours beside the optimum.

    Args:
        menu: The groups and their offers.
        optimum: The optimum within the limit.
        limit_bytes: Bytes of the whole folder's tensors at most.

    Returns:
        The plans, and for each that does not exist the reason.
    """
    room = limit_bytes - menu.other_bytes
    readings: dict[str, Callable[[], Selection | LeftOut]] = {
        "optimum-one-anchor": lambda: _one_anchor(menu, room),
        "optimum-unanchored": lambda: _weighed(menu, room, _unanchored),
        "optimum-integers": lambda: _integers(menu, room),
        "optimum-tempered": lambda: _weighed(menu, room, _tempered),
        "optimum-safe-ends": lambda: _safe_ends(menu, optimum, room),
    }
    return _apart({name: make() for name, make in readings.items()}, [Runner(OPTIMUM, optimum.selection)])


def baselines(menu: Menu, limit_bytes: int) -> tuple[list[Runner], dict[str, str]]:
    """Uniform widths by both roundings, plain and topped up, and 8-bit factors by plain and whitened SVD.

    A baseline keeps to the policies where they leave one of its kind. Where they do not, it runs with all that the curves hold,
    so that there is something to lose to; `barred` tells such a one.

    Args:
        menu: The groups and their offers.
        limit_bytes: Bytes of the whole folder's tensors at most.

    Returns:
        The plans, and for each that does not exist the reason.
    """
    makers: dict[str, Callable[[Menu], Selection | LeftOut]] = {}
    for rounding in (Rounding.NEAREST, Rounding.SECOND_ORDER):
        for suffix, is_topped_up in (("", False), ("-topped-up", True)):
            makers[f"uniform-{rounding}{suffix}"] = partial(
                uniform_plan, limit_bytes=limit_bytes, rounding=rounding, is_topped_up=is_topped_up
            )
    for rounding in (Rounding.PLAIN, Rounding.WHITENED):
        makers[f"{rounding}-int8"] = partial(low_rank_plan, limit_bytes=limit_bytes, rounding=rounding)
    found = {name: make(menu) for name, make in makers.items()}
    if any(isinstance(made, LeftOut) for made in found.values()):
        wide = without_policies(menu)
        found = {name: makers[name](wide) if isinstance(made, LeftOut) else made for name, made in found.items()}
    runners, left_out = _apart(found, [])
    for runner in runners:
        unused = limit_bytes - menu.size_of(runner.selection)
        why = next((why for ending, why in _STOPPED_BY.items() if runner.name.endswith(ending)), None)
        if why is not None and unused > _UNUSED * limit_bytes:
            left_out[f"{runner.name} at all bytes"] = f"{why}, so it runs with {unused:,} bytes fewer"
    return runners, left_out


def barred(menu: Menu, selection: Selection) -> str | None:
    """Why the policies forbid to write a plan; none where they allow it."""
    names = [
        offer.scheme.name for group, offer in zip(menu.groups, selection, strict=True) if offer.scheme not in group.roundings
    ]
    return f"the policies leave out {few(list(dict.fromkeys(names)))}" if names else None


def _apart(found: dict[str, Selection | LeftOut], earlier: Sequence[Runner]) -> tuple[list[Runner], dict[str, str]]:
    """Merge plans that make the same choice into the first of them."""
    kept: list[Runner] = []
    left_out = {}
    for name, made in found.items():
        if isinstance(made, LeftOut):
            left_out[name] = made.reason
            continue
        same = next((other.name for other in [*earlier, *kept] if choice_of(other.selection) == choice_of(made)), None)
        if same is None:
            kept.append(Runner(name, made))
        else:
            left_out[name] = f"the same choice as {same}"
    return kept, left_out


def choice_of(selection: Selection) -> list[tuple[Scheme, Rounding]]:
    """What tells two plans apart: scheme and rounding of every member of every group."""
    return [(option.scheme, option.rounding) for offer in selection for option in offer.options]


def _weighed(menu: Menu, room: int, loss_of: Callable[[Menu, MatrixGroup, Offer], float]) -> Selection | LeftOut:
    offers = [
        [Offer(each.scheme, each.options, each.size_bytes, loss_of(menu, group, each)) for each in group.offers]
        for group in menu.groups
    ]
    found = optimal_formats(offers, room)
    return LeftOut("nothing fits") if found is None else tuple(Offer.of(each.scheme, each.options) for each in found.selection)


def _one_anchor(menu: Menu, room: int) -> Selection | LeftOut:
    if all(option.family_anchor == 1 for matrix in menu.curves.matrices for option in matrix.options):
        return LeftOut("no family has an anchor of its own")
    return _weighed(
        menu, room, lambda _, __, offer: math.fsum(each.predicted_loss / each.family_anchor for each in offer.options)
    )


def _unanchored(menu: Menu, group: MatrixGroup, offer: Offer) -> float:
    anchors = [matrix.anchor for matrix in menu.matrices_of(group)]
    return math.fsum(
        option.predicted_loss / (option.family_anchor * anchor) for option, anchor in zip(offer.options, anchors, strict=True)
    )


def _tempered(menu: Menu, group: MatrixGroup, offer: Offer) -> float:
    return math.fsum(math.sqrt(option.predicted_loss) for option in offer.options)


def _integers(menu: Menu, room: int) -> Selection | LeftOut:
    offers = [[offer for offer in group.offers if offer.scheme.format in PLAIN_FORMATS] for group in menu.groups]
    if not all(offers):
        return LeftOut("a layer has no integers on offer")
    found = optimal_formats(offers, room)
    return LeftOut("integers alone do not fit") if found is None else found.selection


def _safe_ends(menu: Menu, optimum: FormatOptimum, room: int) -> Selection | LeftOut:
    offers: list[Sequence[Offer]] = []
    is_safer = False
    for group, chosen in zip(menu.groups, optimum.selection, strict=True):
        better = [step for step in staircase(group.offers) if step.loss < chosen.loss]
        if better and any(matrix.role in END_ROLES for matrix in menu.matrices_of(group)):
            offers.append(better)
            is_safer = True
        else:
            offers.append(group.offers)
    if not is_safer:
        return LeftOut("embedding and head have nothing better on offer")
    found = optimal_formats(offers, room)
    return LeftOut("a better embedding and head leave too few bytes") if found is None else found.selection
