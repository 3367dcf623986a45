"""The baseline that everyone has: one width of integers for every matrix, embedding and head included.

Uniform at a number of bytes is the largest width at which everything fits; topped up, the rest of the bytes buys one
width more for as many evenly spaced groups as fit. Only what the policies keep is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerlens.artifacts.compression import Rounding
from layerlens.artifacts.formats import Format, Scheme
from layerlens.budget.format_menu import MatrixGroup, Menu, Offer, Selection
from layerlens.budget.uniform import evenly_spaced


@dataclass(frozen=True)
class LeftOut:
    """A baseline or candidate that does not exist at these bytes, and why."""

    reason: str


def uniform_plan(menu: Menu, limit_bytes: int, rounding: Rounding, *, is_topped_up: bool = False) -> Selection | LeftOut:
    """Choose the uniform plan.

    Args:
        menu: The groups and their offers.
        limit_bytes: Bytes of the whole folder's tensors at most.
        rounding: How codes are found; a matrix without this rounding takes its best one.
        is_topped_up: Spend what is left on one width more for evenly spaced groups.

    Returns:
        One offer per group, or why there is none.
    """
    widths = sorted({scheme.bits for group in menu.groups for scheme in group.roundings if scheme.format is Format.INTEGER})
    is_offered = any(
        scheme.format is Format.INTEGER and group.is_rounded(scheme, rounding)
        for group in menu.groups
        for scheme in group.roundings
    )
    if not widths or not is_offered:
        return LeftOut(f"no integers by {rounding} rounding are on offer")
    more: Selection | None = None
    for width in reversed(widths):
        base = tuple(integer_offer(menu, group, width, rounding) for group in menu.groups)
        if menu.size_of(base) <= limit_bytes:
            break
        more = base
    else:
        needed = menu.size_of(base)
        return LeftOut(f"{width} bits everywhere take {needed:,} bytes, {needed - limit_bytes:,} more than there are")
    if not is_topped_up:
        return base
    if more is None:
        return LeftOut(f"{width} bits everywhere fit already, and no larger width is on offer")
    return topped_up(menu, limit_bytes, base, more) or LeftOut(
        f"what {width} bits everywhere leave buys one width more for no layer"
    )


def topped_up(menu: Menu, limit_bytes: int, base: Selection, more: Selection) -> Selection | None:
    """Give as many evenly spaced groups as fit the offer that costs more; none where not even one fits."""
    changed = [place for place, (low, high) in enumerate(zip(base, more, strict=True)) if low != high]
    extra = [more[place].size_bytes - base[place].size_bytes for place in changed]
    room = limit_bytes - menu.size_of(base)
    # Spread sets of different sizes are not nested and their bytes need not rise one by one: try from the top.
    for number in range(len(changed), 0, -1):
        chosen = evenly_spaced(len(changed), number).tolist()
        if sum(extra[at] for at in chosen) <= room:
            raised = {changed[at] for at in chosen}
            return tuple(more[place] if place in raised else base[place] for place in range(len(base)))
    return None


def integer_offer(menu: Menu, group: MatrixGroup, width: int, rounding: Rounding) -> Offer:
    """Integers of a width; where the group has none, of the next larger width, else the group as it is kept."""
    schemes = [scheme for scheme in group.roundings if scheme.format is Format.INTEGER and scheme.bits >= width]
    if not schemes:
        return group.rounded(kept_scheme(group), rounding)
    asked = menu.config.group_size
    return group.rounded(min(schemes, key=lambda scheme: (scheme.bits, scheme.group_size != asked, scheme.group_size)), rounding)


def kept_scheme(group: MatrixGroup) -> Scheme:
    """The scheme that keeps a group as it is, or the one that loses least where it cannot be kept."""
    kept = next((scheme for scheme in group.roundings if scheme.format is Format.KEEP), None)
    return kept or min(group.offers, key=lambda offer: offer.loss).scheme
