"""Quality of each layer with its verdict, and the layers that hold the model up."""

from __future__ import annotations

from collections import Counter

from layerlens.artifacts.compression_evaluation import OUTPUT_ERROR_LIMITS, LayerQuality, LeaveOneOut, Verdict
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import memory, nats, percent
from layerlens.reporting.section import Cell, Column, Section, block_cell, figure, module_path, table

#: A sign and a class for each verdict, so that colour is never the only cue.
MARKS = {
    Verdict.GOOD: ("✓", "pass"),
    Verdict.FAIR: ("~", "na"),
    Verdict.POOR: ("!", "warn"),
    Verdict.CRITICAL: ("✕", "fail"),
    Verdict.UNSEEN: ("–", "na"),
}
ORDER = {verdict: place for place, verdict in enumerate(Verdict)}


def quality_section(folder: CompressedFolder) -> Section | None:
    """The table of layers, and what each gives back when it is left out; None where neither was measured."""
    layers, trial = folder.evaluation.layers if folder.evaluation else [], folder.leave_one_out
    parts: list[Markup] = []
    if layers:
        counts = Counter(layer.verdict for layer in layers)
        tally = [join([badge(verdict), element("span", f" {counts[verdict]}")]) for verdict in Verdict if counts[verdict]]
        body = join([element("p", join(tally, Markup("&ensp;")), class_="tally"), _table(folder, layers)])
        parts.append(figure(body, _caption(folder), class_="quality"))
    if trial is not None and trial.layers:
        parts.append(_pillars(trial, folder))
    return Section("quality", "Quality of each layer", join(parts)) if parts else None


def badge(verdict: Verdict) -> Markup:
    """A verdict as a sign and a word."""
    mark, name = MARKS[verdict]
    return element("span", element("span", mark, aria_hidden="true"), f" {verdict}", class_=f"badge {name}")


def _caption(folder: CompressedFolder) -> str:
    limits = ", ".join(f"{verdict} up to {limit:g}" for verdict, limit in OUTPUT_ERROR_LIMITS.items())
    text = (
        f"The verdict goes by the relative error of a layer's output on inputs that the original model's layer sees: {limits}, "
        "critical above; no sample ran through an unseen one. Press a column's head to sort by it."
    )
    trial = folder.leave_one_out
    return f"{text} Pillar layers are tinted." if trial is not None and trial.pillars else text


def _table(folder: CompressedFolder, layers: list[LayerQuality]) -> Markup:
    columns = [
        Column("Layer", is_mono=True),
        Column("Block", is_number=True),
        Column("Format"),
        Column("Verdict"),
        Column("Output error", is_number=True),
        Column("Output cosine", is_number=True),
        Column("Weight error", is_number=True),
        Column("Weight cosine", is_number=True),
        Column("Before", is_number=True),
        Column("After", is_number=True),
    ]
    planned = {name: entry for entry in folder.plan.layers for name in (entry.layer, *entry.tied)}
    trial = folder.leave_one_out
    pillars = set(trial.pillars) if trial else set()
    rows: list[list[Cell | str]] = []
    for layer in layers:
        entry = planned.get(layer.layer)
        tied = f" (tied to {layer.tied_to})" if layer.tied_to else ""
        rows.append(
            [
                Cell(join([module_path(layer.layer), tied])),
                block_cell(entry.block if entry else None),
                "–" if entry is None else Cell(element("code", entry.format), entry.format),
                Cell(badge(layer.verdict), ORDER[layer.verdict]),
                _figure(layer.output_error, 4),
                _figure(layer.output_cosine, 5),
                _figure(layer.weight_error, 4),
                _figure(layer.weight_cosine, 5),
                Cell(memory(layer.size_bytes.before), layer.size_bytes.before),
                Cell(memory(layer.size_bytes.after), layer.size_bytes.after),
            ]
        )
    marked = [layer.layer in pillars for layer in layers]
    return table("Quality of each layer", columns, rows, highlighted=marked, is_sortable=True, is_tall=True)


def _figure(value: float | None, decimals: int) -> Cell:
    """A figure; what was not measured comes first."""
    return Cell("–", -2.0) if value is None else Cell(f"{value:.{decimals}f}", value)


def _pillars(trial: LeaveOneOut, folder: CompressedFolder) -> Markup:
    columns = [
        Column("Layer", is_mono=True),
        Column("Pillar"),
        Column(f"Gives back, {folder.unit}", is_number=True),
        Column("95 % interval", is_number=True),
        Column("Share of the divergence", is_number=True),
        Column(f"Divergence left, {folder.unit}", is_number=True),
    ]
    rows: list[list[Cell | str]] = [
        [
            Cell(module_path(entry.layer)),
            "pillar" if entry.is_pillar else "–",
            Cell(nats(entry.gain_nats), entry.gain_nats),
            Cell(f"{nats(entry.low)} to {nats(entry.high)}", entry.low),
            Cell(percent(entry.share), entry.share),
            Cell(nats(entry.kl_nats), entry.kl_nats),
        ]
        for entry in trial.layers
    ]
    named = ", ".join(trial.pillars) or "none stands out"
    caption = (
        "Each layer in turn as it was, all others compressed. With all compressed the divergence is "
        f"{folder.loss(trial.kl_nats)}. Pillars give back far more than an even share, beyond doubt: {named}."
    )
    marked = [entry.is_pillar for entry in trial.layers]
    body = table("Leaving one out", columns, rows, highlighted=marked, is_sortable=True, is_tall=True)
    return figure(body, caption, title="What each layer gives back when it is left as it was")
