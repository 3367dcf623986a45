"""Every layer of the plan: what it gets, what that costs, and why."""

from __future__ import annotations

from layerlens.artifacts.plan import PlanLayer
from layerlens.artifacts.profile import Profile
from layerlens.reporting.markup import Markup, join
from layerlens.reporting.quantities import count
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Cell, Column, Section, block_cell, figure, module_path, table
from layerlens.words import Method

WORDS = {Method.LORA: "LoRA, rank", Method.ADAPTER: "adapter, bottleneck", Method.PREFIX: "prefix, tokens"}


def layers_section(run: RunFolder) -> Section | None:
    """The plan's table of layers, or the profile's where there is no plan; None without both."""
    if run.plan is not None:
        rows = [_planned(entry) for entry in run.plan.layers]
        columns = [
            Column("Layer", is_mono=True),
            Column("Block", is_number=True),
            Column("Role"),
            Column("Gets"),
            Column("Utility", is_number=True),
            Column("Weighted value" if run.plan.is_weighted else "Value, nats", is_number=True),
            Column("Parameters", is_number=True),
            Column("Why"),
        ]
        marked = [entry.method is not Method.NONE for entry in run.plan.layers]
        caption = "Layers that are adapted are tinted. Press a column's head to sort by it; the table scrolls inside its box."
        body = table("Layers of the plan", columns, rows, highlighted=marked, is_sortable=True, is_tall=True)
    elif run.profile is not None:
        body, caption = _profiled(run.profile), "Press a column's head to sort by it."
    else:
        return None
    return Section("layers", "Every layer", join([figure(body, caption)]))


def _planned(entry: PlanLayer) -> list[Cell | str]:
    return [
        Cell(module_path(entry.layer)),
        block_cell(entry.block),
        entry.role,
        Cell(f"{WORDS[entry.method]} {entry.size}" if entry.method in WORDS else "none", entry.size),
        Cell(f"{entry.utility:.3f}", entry.utility),
        Cell(f"{entry.value:.5f}", entry.value),
        Cell(count(entry.params), entry.params),
        entry.why,
    ]


def _profiled(profile: Profile) -> Markup:
    metrics = list(dict.fromkeys(name for layer in profile.layers for name in layer.metrics))
    heads = [Column("Layer", is_mono=True), Column("Block", is_number=True), Column("Role"), Column("Utility", is_number=True)]
    columns = [*heads, *(Column(name.replace("_", " "), is_number=True) for name in metrics)]
    rows: list[list[Cell | str]] = []
    for layer in profile.layers:
        values = [layer.metrics.get(name) for name in metrics]
        rows.append(
            [
                Cell(module_path(layer.layer)),
                block_cell(layer.block),
                layer.role.value,
                Cell(f"{layer.utility:.3f}", layer.utility),
                *(Cell("–" if value is None else f"{value:.4g}", value) for value in values),
            ]
        )
    return table("Layers of the profile", columns, rows, is_sortable=True, is_tall=True)
