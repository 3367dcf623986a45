"""Why each matrix is stored as it is: what it gains over the next cheaper offer, what the next one up costs, what stopped it."""

from __future__ import annotations

from layerlens.budget.format_menu import MatrixGroup, Menu, Offer, Selection
from layerlens.budget.format_optimum import staircase

#: How a plan came about, for the offers that it did not take although they would have fitted.
BY_LOSS, BY_RULE, BY_RANK, BY_COSINE = "by loss", "by rule", "by rank", "by cosine"


def reasons(menu: Menu, selection: Selection, limit_bytes: int | None, spending: str) -> list[str]:
    """One sentence per matrix, in the order of the curves.

    Args:
        menu: The groups and their offers.
        selection: The plan.
        limit_bytes: Bytes of the whole folder's tensors at most; none where the plan has no such limit.
        spending: `BY_LOSS`, `BY_RULE`, `BY_RANK` or `BY_COSINE`.
    """
    left = None if limit_bytes is None else limit_bytes - menu.size_of(selection)
    found = {}
    unit = "(1 − cosine)" if menu.curves.compares_embeddings else "nats"
    for group, offer in zip(menu.groups, selection, strict=True):
        is_idle = not any(option.predicted_loss for matrix in menu.matrices_of(group) for option in matrix.options)
        cost = "no calibration sample's loss depends on it" if is_idle else f"predicted to cost {offer.loss:.3g} {unit}"
        sentence = f"{cost}{_reason(group, offer, left, spending)}"
        for place in group.members:
            kept_by = menu.allowed[place].kept_by
            shared = _shared(menu, group, place)
            found[place] = f"kept, as --keep {kept_by} asks" if kept_by else f"{sentence}{shared}"
    return [found[place] for place in range(len(menu.curves.matrices))]


def _reason(group: MatrixGroup, offer: Offer, left: int | None, spending: str) -> str:
    """What the neighbours of an offer would cost, and what stopped the next one up."""
    steps = staircase(group.offers)
    cheaper = next((step for step in reversed(steps) if step.size_bytes < offer.size_bytes), None)
    dearer = next((step for step in steps if step.size_bytes > offer.size_bytes and step.loss < offer.loss), None)
    if cheaper is None:
        text = "; nothing smaller is on offer"
    else:
        saved = offer.size_bytes - cheaper.size_bytes
        gained = cheaper.loss - offer.loss
        compared = f"{gained:.3g} less" if gained >= 0 else f"{-gained:.3g} more"
        text = f", {compared} than {cheaper.scheme.name}, which is {saved:,} bytes smaller"
    if dearer is None:
        return f"{text}; nothing on offer costs less"
    extra = dearer.size_bytes - offer.size_bytes
    text += f"; {dearer.scheme.name} would cost {offer.loss - dearer.loss:.3g} less for {extra:,} bytes more"
    if spending == BY_RANK:
        return f"{text}: the rank was asked for"
    if spending == BY_COSINE:
        return f"{text}: the cosine is reached without it"
    if left is not None and extra > left:
        return f"{text}: only {left:,} left"
    return f"{text}: it would fit, but this plan spends {'by other figures' if spending == BY_LOSS else 'by a rule'}"


def _shared(menu: Menu, group: MatrixGroup, place: int) -> str:
    """Figures of a group are of all its members together."""
    others = [menu.curves.matrices[other].layer for other in group.members if other != place]
    if not others:
        return ""
    named = ", ".join(others) if len(others) < 3 else f"{others[0]} and {len(others) - 1} more"
    kept = next((menu.allowed[other].kept_by for other in group.members if menu.allowed[other].kept_by), None)
    return f" (together with {named}, which --keep {kept} names)" if kept else f" (together with {named})"
