"""Two lists, role and block, that pick which matrix a chart shows; the page's script hides what is not picked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from layerlens.reporting.markup import Markup, element, join


def picker(chart_id: str, entries: Sequence[tuple[str, str, int | None]], first: str) -> Markup:
    """Build the lists.

    Args:
        chart_id: Chart whose traces bear the layer that they belong to as `meta`.
        entries: Role, layer and block of each matrix, in the order to list them.
        first: Layer that is shown first.
    """
    roles = list(dict.fromkeys(role for role, _, _ in entries))
    (chosen,) = {role for role, layer, _ in entries if layer == first}
    twins = Counter((role, block) for role, _, block in entries)
    role_options = [element("option", role, value=role, selected=role == chosen) for role in roles]
    layer_options = [
        element(
            "option",
            layer if block is None or twins[role, block] > 1 else f"block {block}",
            value=layer,
            data_role=role,
            data_block="" if block is None else block,
            selected=layer == first,
        )
        for role, layer, block in entries
    ]
    return element(
        "div",
        element("label", "Role ", element("select", join(role_options), class_="pick-role", autocomplete="off")),
        element("label", "Matrix ", element("select", join(layer_options), class_="pick-layer", autocomplete="off")),
        class_="pick",
        data_chart=chart_id,
    )
