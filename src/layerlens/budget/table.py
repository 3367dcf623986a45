"""A plan as a person reads it in a terminal: blocks by roles, and the size that each gets."""

from __future__ import annotations

from collections import defaultdict

from rich.table import Table

from layerlens.artifacts.plan import Plan, PlanLayer
from layerlens.words import Method, Site

#: What stands before a size that is no LoRA's rank.
_MARKS = {Site.SUBLAYER: "a", Site.ATTENTION: "p"}


def plan_table(plan: Plan) -> Table:
    """Draw the table. What lies outside the blocks comes last; sites of one block and role share a cell."""
    is_mixed = any(entry.method is not Method.LORA for entry in plan.adapted)
    table = Table(
        title=f"{plan.chosen.name}: {plan.params:,} adapter parameters, head apart {plan.head_params:,}",
        caption="ranks of LoRA; a: bottleneck of an adapter behind the layer, p: tokens of a prefix" if is_mixed else None,
    )
    cells: dict[tuple[int | None, str], list[PlanLayer]] = defaultdict(list)
    for entry in plan.layers:
        cells[entry.block, entry.role].append(entry)
    roles = list(dict.fromkeys(entry.role for entry in plan.layers))
    table.add_column("block", justify="right")
    for role in roles:
        table.add_column(role.replace("attention.", "attn "), justify="right")
    for block in sorted({block for block, _ in cells}, key=lambda block: (block is None, block)):
        table.add_row("–" if block is None else str(block), *(_cell(cells.get((block, role), [])) for role in roles))
    return table


def _cell(entries: list[PlanLayer]) -> str:
    """The sizes of some sites, kind by kind: `3`, `0–2` where layers of one role differ, `3+a8` with an adapter; `–` for none."""
    sizes = {site: sorted({entry.size for entry in entries if entry.site is site}) for site in Site}
    shown = [
        _MARKS.get(site, "") + "–".join(map(str, dict.fromkeys((found[0], found[-1]))))
        for site, found in sizes.items()
        if any(found)
    ]
    return "+".join(shown) or ("–" if entries else "")
