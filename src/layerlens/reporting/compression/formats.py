"""What each matrix is stored as: two maps of blocks × roles, and the table with the reasons."""

from __future__ import annotations

import math
from collections import defaultdict

from layerlens.artifacts.compression import PlanMatrix, Rounding
from layerlens.reporting.compression.folder import CompressedFolder, bits_per_weight
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import memory, nats, percent
from layerlens.reporting.section import Cell, Column, Section, block_cell, figure, module_path, table
from layerlens.reporting.sections.heat_map import Place, Shade, heat_map, scale
from layerlens.reporting.sections.plan_map import place_of

Key = tuple[int | None, Place]


def formats_section(folder: CompressedFolder) -> Section:
    """Maps of bits and of predicted loss."""
    cells: dict[Key, list[PlanMatrix]] = defaultdict(list)
    for entry in folder.plan.layers:
        cells[entry.block, place_of(entry.role.value)].append(entry)
    rows = _rows(cells)
    widest = max(2.0, *(bits_per_weight(entries) for entries in cells.values()))
    bits = {key: _bits(entries, widest) for key, entries in cells.items()}
    maps = [
        figure(
            join(
                [heat_map("Bits per weight by block and role", rows, bits), scale("1 bit", f"{_short(widest)} bits, logarithmic")]
            ),
            "Bytes of a matrix over its weights, scales and padding included. Point at a cell for its format.",
            title="Bits per weight",
        )
    ]
    total = sum(entry.predicted_loss for entry in folder.plan.layers)
    if total > 0:
        shares = {key: sum(entry.predicted_loss for entry in entries) / total for key, entries in cells.items()}
        largest = max(shares.values())
        losses = {key: _loss(cells[key], share, largest, folder.unit) for key, share in shares.items()}
        maps.append(
            figure(
                join([heat_map("Share of the predicted loss by block and role", rows, losses), scale("0", percent(largest))]),
                f"Percent of the {folder.loss(total)} that are predicted in all. An exact plan need not level these: it "
                "levels what the next byte would save.",
                title="Share of the predicted loss, %",
            )
        )
    return Section("plan", "The plan", element("div", join(maps), class_="pair"))


def matrices_section(folder: CompressedFolder) -> Section:
    """The table of matrices with the reasons."""
    columns = [
        Column("Matrix", is_mono=True),
        Column("Block", is_number=True),
        Column("Role"),
        Column("Format"),
        Column("Rows × columns", is_number=True),
        Column("Before", is_number=True),
        Column("After", is_number=True),
        Column("Bits per weight", is_number=True),
        Column(f"Loss, {folder.unit}", is_number=True),
        Column("Why"),
    ]
    rows = [_row(folder, entry) for entry in folder.plan.layers]
    caption = (
        f"Loss as predicted, in {folder.whole_unit}; after the format stands how its numbers were found. Press a column's head "
        "to sort by it; the table scrolls inside its box."
    )
    body = table("Format of each matrix", columns, rows, is_sortable=True, is_tall=True)
    return Section("layers", "Every matrix", figure(body, caption))


def _row(folder: CompressedFolder, entry: PlanMatrix) -> list[Cell | str]:
    weights, before = entry.out_features * entry.in_features, folder.bytes_before[entry.layer]
    tied = f" (tied: {', '.join(entry.tied)})" if entry.tied else ""
    found_by = None if entry.rounding is Rounding.NONE else f" {entry.rounding}"
    bits = bits_per_weight([entry])
    return [
        Cell(join([module_path(entry.layer), tied])),
        block_cell(entry.block),
        entry.role.value,
        Cell(join([element("code", entry.format), found_by]), entry.format),
        Cell(f"{entry.out_features} × {entry.in_features}", weights),
        Cell(memory(before), before),
        Cell(memory(entry.size_bytes), entry.size_bytes),
        Cell(f"{bits:.2f}", bits),
        Cell(nats(entry.predicted_loss), entry.predicted_loss),
        entry.why,
    ]


def _rows(cells: dict[Key, list[PlanMatrix]]) -> list[int | None]:
    blocks = {block for block, _ in cells}
    return [*sorted(block for block in blocks if block is not None), *([None] if None in blocks else [])]


def _short(bits: float) -> str:
    return f"{bits:.2f}".rstrip("0").rstrip(".")


def _bits(entries: list[PlanMatrix], widest: float) -> Shade:
    bits = bits_per_weight(entries)
    hint = "; ".join(f"{entry.layer}: {entry.format}, {bits_per_weight([entry]):.2f} bits per weight" for entry in entries)
    return Shade(_short(bits), min(1.0, max(0.0, math.log(bits) / math.log(widest))) if bits > 0 else 0.0, hint)


def _loss(entries: list[PlanMatrix], share: float, largest: float, unit: str) -> Shade:
    hint = "; ".join(f"{entry.layer}: {entry.format}, {nats(entry.predicted_loss)} {unit}" for entry in entries)
    return Shade(_percent(share), share / largest if share > 0 else None, hint)


def _percent(share: float) -> str:
    """A share in percent, as short as a small cell needs."""
    value = 100 * share
    if value == 0:
        return "·"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removeprefix("0") if value >= 0.05 else "<.1"


def format_counts(layers: list[PlanMatrix]) -> Markup:
    """How many matrices have each format, most frequent first."""
    found: dict[str, int] = defaultdict(int)
    for entry in layers:
        found[entry.format] += 1
    order = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return join([f"{name} on {number}" for name, number in order], ", ")
