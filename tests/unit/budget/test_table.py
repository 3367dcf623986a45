from __future__ import annotations

from io import StringIO

from rich.console import Console

from layerlens.artifacts.plan import Plan
from layerlens.budget.run import make_plan
from layerlens.budget.table import plan_table
from layerlens.config import OptimizationConfig
from layerlens.words import Method, Role, Site
from tests.unit.budget.small_models import small


def planned(**options: object) -> Plan:
    made, config = small(), OptimizationConfig.model_validate(options)
    return make_plan(made.profile, made.arrays, made.timing, config, profile_path="p", command="c")[0]


def drawn(plan: Plan) -> dict[str, dict[str, str]]:
    """The cells by the heads of their row and column."""
    console = Console(file=StringIO(), width=200)
    console.print(plan_table(plan))
    assert isinstance(console.file, StringIO)
    head, *rows = [
        [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()
        if "│" in line or "┃" in line
    ]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_sites_of_one_block_and_role_share_a_cell_and_hide_nothing() -> None:
    plan = planned(max_trainable_params=9000, candidate_methods=[*Method])
    sizes = {(entry.block, entry.role, entry.site): entry.size for entry in plan.layers}
    cells = drawn(plan)
    both = 0
    for block in range(3):
        rank, bottleneck = (sizes[block, Role.MLP_DOWN, site] for site in (Site.LINEAR, Site.SUBLAYER))
        shown = [str(rank)] * bool(rank) + [f"a{bottleneck}"] * bool(bottleneck)
        assert cells[str(block)]["mlp.down"] == ("+".join(shown) or "–")
        tokens = sizes[block, "attention", Site.ATTENTION]
        assert cells[str(block)]["attention"] == (f"p{tokens}" if tokens else "–")
        both += bool(rank and bottleneck)
    assert both


def test_layers_of_one_role_span_their_sizes_and_those_outside_the_blocks_have_a_row() -> None:
    plan = planned(max_trainable_params=10**6)
    first, second, *rest = plan.layers
    assert first.size == 4
    twin = second.model_copy(update={"role": first.role, "size": 0, "method": Method.NONE})
    outside = rest[-1].model_copy(update={"block": None})
    cells = drawn(plan.model_copy(update={"layers": [first, twin, *rest[:-1], outside]}))
    assert cells["0"]["attn query"] == "0–4"
    assert list(cells) == ["0", "1", "2", "–"]
    assert cells["–"] == {head: str(outside.size) if head == outside.role else "" for head in cells["–"]}
