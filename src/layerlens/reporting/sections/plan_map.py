"""Where the model is sensitive, and where the budget went: two heat maps with the same rows and columns."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from layerlens.artifacts.plan import Plan, PlanLayer
from layerlens.reporting.markup import element, join
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section, figure
from layerlens.reporting.sections.heat_map import Place, Shade, heat_map, scale
from layerlens.words import Method, Role, Site

ROLE_ORDER = {role.value: order for order, role in enumerate(Role)}
SIZE_WORDS = {Method.LORA: "rank", Method.ADAPTER: "bottleneck", Method.PREFIX: "prefix tokens"}

Key = tuple[int | None, Place]


def plan_map_section(run: RunFolder) -> Section | None:
    """Utility, from the plan or the profile, and chosen sizes; None without both."""
    utilities = _utilities(run)
    if not utilities:
        return None
    maps = [
        figure(
            join([heat_map("Utility by block and role", _rows(utilities), utilities), scale("0", "1")]),
            "The weighted mean of a layer's normalised metrics: the stronger the shade, the more the loss reacts to it. "
            "Block 0 is next to the input.",
            title="Utility",
        )
    ]
    if run.plan is not None:
        sizes, largest = _sizes(run.plan)
        marks = (
            ""
            if len({layer.method for layer in run.plan.adapted}) <= 1
            else " LoRA ranks are plain, a is a bottleneck, p a prefix."
        )
        maps.append(
            figure(
                join([heat_map("Chosen size by block and role", _rows(sizes), sizes), scale("0", str(largest))]),
                f"What {run.plan.chosen.name} gives each layer: the LoRA rank, or a dot for nothing.{marks}",
                title="Chosen size",
            )
        )
    return Section("plan", "The plan" if run.plan else "Sensitivity", element("div", join(maps), class_="pair"))


def place_of(role: str, site: Site = Site.LINEAR) -> Place:
    """The column of a site."""
    group, _, name = role.partition(".")
    if not name:
        group, name = "other", role
    if site is Site.SUBLAYER:
        return Place(100 + ROLE_ORDER.get(role, 50), "adapter after", f"{group} {name}")
    if site is Site.ATTENTION:
        return Place(200, "prefix on", "attention")
    return Place(ROLE_ORDER.get(role, 50), group, name.replace("_", " "))


def _rows(cells: dict[Key, Shade]) -> list[int | None]:
    blocks = {block for block, _ in cells}
    return [*sorted(block for block in blocks if block is not None), *([None] if None in blocks else [])]


def _utilities(run: RunFolder) -> dict[Key, Shade]:
    found: dict[Key, list[tuple[str, float]]] = defaultdict(list)
    if run.plan is not None:
        for entry in run.plan.layers:
            if entry.site is Site.LINEAR:
                found[entry.block, place_of(entry.role)].append((entry.layer, entry.utility))
    elif run.profile is not None:
        for layer in run.profile.layers:
            found[layer.block, place_of(layer.role.value)].append((layer.layer, layer.utility))
    shades = {}
    for key, layers in found.items():
        mean = fmean(utility for _, utility in layers)
        hint = "; ".join(f"{name}: utility {utility:.3f}" for name, utility in layers)
        shades[key] = Shade(f"{mean:.2f}".removeprefix("0") if mean < 0.995 else "1", mean, hint)
    return shades


def _sizes(plan: Plan) -> tuple[dict[Key, Shade], int]:
    found: dict[Key, list[PlanLayer]] = defaultdict(list)
    for entry in plan.layers:
        found[entry.block, place_of(entry.role, entry.site)].append(entry)
    used = {place for (_, place), entries in found.items() if any(entry.size for entry in entries)}
    largest = max((entry.size for entry in plan.layers), default=0)
    shades = {}
    for (block, place), entries in found.items():
        if place.order >= 100 and place not in used:
            continue
        sizes = [entry.size for entry in entries]
        shown = _mark(entries[0]) if len(set(sizes)) == 1 else f"{min(sizes)}–{max(sizes)}"
        share = max(sizes) / largest if any(sizes) else None
        shades[block, place] = Shade(shown, share, "; ".join(_hint(entry) for entry in entries))
    return shades, largest


def _mark(entry: PlanLayer) -> str:
    prefix = {Method.ADAPTER: "a", Method.PREFIX: "p"}.get(entry.method, "")
    return f"{prefix}{entry.size}" if entry.size else "·"


def _hint(entry: PlanLayer) -> str:
    if entry.method is Method.NONE:
        return f"{entry.layer}: none"
    return f"{entry.layer}: {SIZE_WORDS[entry.method]} {entry.size}, {entry.params:,} parameters"
