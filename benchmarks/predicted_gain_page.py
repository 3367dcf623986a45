"""One self-contained page of `predicted_gain.py`: predicted against measured, layer by layer and plan by plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from predicted_gain_tables import shown

from layerlens.artifacts.store import write_bytes
from layerlens.reporting.chart import Chart, chart_box, plain, rounded
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.page import render_page
from layerlens.reporting.section import Cell, Column, Section, figure, table
from layerlens.reporting.summary import Tile
from layerlens.reporting.verdict import Statement
from layerlens.validation.association import average_ranks

#: Predictors of plans that get a picture: the best of each kind, so many kinds at most.
MOST_PICTURES = 8
HEIGHT = 260


def write_page(path: Path, content: dict[str, Any]) -> Path:
    """Write the page of everything that was measured so far."""
    sections, tiles = [], []
    for name, subject in content["subjects"].items():
        if (layers := subject.get("layers")) is not None:
            sections.append(_layers_section(name, layers))
            best = _best(layers)
            gain = next(iter(layers["scores"]))
            own = layers["agreement"]["lora"]
            tiles.append(
                Tile(
                    f"{name}: {gain}", shown(own[gain]["spearman"]), f"Spearman over layers; best: {best}, {_spearman(own, best)}"
                )
            )
        if (plans := subject.get("plans")) is not None:
            sections.append(_plans_section(name, plans))
    html = render_page(
        title="LayerLens · is the prediction true?",
        kicker=f"LayerLens · {content.get('machine', '')}",
        headline="Predicted gain against measured gain, layer by layer and plan by plan",
        tiles=tiles,
        statements=[
            Statement(
                "How to read",
                "Horizontal is the order that a score predicts, from worst to best; vertical is what held-out samples measured.",
            )
        ],
        sections=sections,
        missing=[],
    )
    write_bytes(path, html.encode())
    return path


def _layers_section(name: str, part: dict[str, Any]) -> Section:
    """A chart for each score, against LoRA and whole weight, and the table."""
    charts, panels = [], []
    for number, (score, values) in enumerate(part["scores"].items()):
        chart = _layer_chart(f"{_safe(name)}-layers-{number}", part, score, values)
        charts.append(chart)
        row = part["agreement"]["lora"][score]
        heading = f"{score}: {shown(row['spearman'])}, in role {shown(row['within_role'])}"
        panels.append(element("div", element("h3", heading), chart_box(chart)))
    caption = (
        f"Drop of held-out loss (nats) after {part['steps']} steps of {part['batch_size']} on one layer alone, LoRA of rank "
        f"{part['rank']}, seeds {part['seeds']}; a point is a layer, its colour its role."
    )
    columns = [Column("score"), *(Column(head, is_number=True) for head in ("Spearman", "95 %", "in role", "pooled", "top ¼"))]
    tables = []
    for truth, rows in part["agreement"].items():
        cells = [[score, *_figures(row)] for score, row in rows.items()]
        tables.append(element("h3", f"Against {truth}, one layer alone"))
        tables.append(table(f"{name}: scores against {truth}", columns, cells, is_sortable=True))
    key = [element("span", f"● {role}  ", style=f"color:var(--{_role_color(role)})") for role in sorted(set(part["roles"]))]
    body = join([element("p", join(key)), figure(element("div", join(panels), class_="multiples"), caption), *tables])
    return Section(f"{_safe(name)}-layers", f"{name}: layers", body, tuple(charts))


def _layer_chart(id_: str, part: dict[str, Any], score: str, values: list[float]) -> Chart:
    places, gains = average_ranks(values), part["gains"]["lora"]
    traces = []
    for role in sorted(set(part["roles"])):
        members = [number for number, own in enumerate(part["roles"]) if own == role]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded([places[number] for number in members]),
                "y": rounded([gains[number] for number in members]),
                "text": [plain(part["layers"][number]) for number in members],
                "hovertemplate": "%{text}<br>%{y:.4f} nats<extra></extra>",
                "marker": {"color": f"@{_role_color(role)}", "size": 8},
            }
        )
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "place by score"}, "nticks": 6},
        "yaxis": {"title": {"text": "gain, nats"}, "nticks": 6},
    }
    return Chart(id_, traces, layout, HEIGHT, f"Measured gain of {len(gains)} layers in the order of {score}")


def _plans_section(name: str, part: dict[str, Any]) -> Section:
    """Predicted order against final order for the best predictor of each kind, and all of them in a table."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in part["predictors"]:
        is_shown = row["scores"] is not None and row["spearman"] is not None and row["kind"] != "control"
        if is_shown and (row["kind"] not in chosen or row["spearman"] > chosen[row["kind"]]["spearman"]):
            chosen[row["kind"]] = row
    default = next(row for row in part["predictors"] if row["name"].endswith("(the default)"))
    pictured = [default, *(row for row in chosen.values() if row is not default)][:MOST_PICTURES]
    charts = [_plan_chart(f"{_safe(name)}-plans-{number}", part, row) for number, row in enumerate(pictured)]
    panels = [
        element("div", element("h3", f"{row['kind']}: {row['name']}, {shown(row['spearman'])}"), chart_box(chart))
        for row, chart in zip(pictured, charts, strict=True)
    ]
    caption = (
        f"Final held-out loss of {len(part['plans'])} plans of at most {part['budget']:,} parameters after {part['steps']} steps "
        f"of {part['batch_size']}, seeds {part['seeds']}, against their place in a predicted order, worst first."
    )
    heads = ("Spearman", "95 %", "other seeds", "better half", "regret, nats", "cost")
    columns = [Column("predictor"), Column("kind"), *(Column(head, is_number=True) for head in heads), Column("pick")]
    rows = [
        [
            row["name"], row["kind"], Cell(shown(row["spearman"]), -2.0 if row["spearman"] is None else row["spearman"]),
            _range(row["interval"]), shown(row["crossed"]), shown(row["upper"]), f"{row['regret']:.4f}", f"{row['cost']:.2f}",
            row["pick"],
        ]
        for row in part["predictors"]
    ]  # fmt: skip
    plan_columns = [
        Column("plan"),
        *(Column(head, is_number=True) for head in ("parameters", "layers", "largest rank", "final loss")),
    ]
    plan_rows = [
        [plan["name"], f"{plan['params']:,}", str(plan["layers"]), str(plan["largest_rank"]), f"{plan['loss']:.4f}"]
        for plan in sorted(part["plans"], key=lambda plan: plan["loss"])
    ]
    body = join(
        [
            figure(element("div", join(panels), class_="multiples"), caption),
            table(f"{name}: predictors of plans", columns, rows, is_sortable=True, is_tall=True),
            element("h3", "The plans by final loss"),
            table(f"{name}: plans", plan_columns, plan_rows, is_sortable=True, is_tall=True),
        ]
    )
    return Section(f"{_safe(name)}-plans", f"{name}: plans", body, tuple(charts))


def _plan_chart(id_: str, part: dict[str, Any], row: dict[str, Any]) -> Chart:
    losses = [plan["loss"] for plan in part["plans"]]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": rounded(average_ranks(row["scores"])),
        "y": rounded(losses),
        "text": [plain(plan["name"]) for plan in part["plans"]],
        "hovertemplate": "%{text}<br>%{y:.4f} nats<extra></extra>",
        "marker": {"color": "@chosen", "size": 8},
    }
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "predicted place"}, "nticks": 6},
        "yaxis": {"title": {"text": "final loss, nats"}, "nticks": 6},
    }
    return Chart(id_, [trace], layout, HEIGHT, f"Final loss of {len(losses)} plans in the order of {row['name']}")


def _best(part: dict[str, Any]) -> str:
    rows = part["agreement"]["lora"]
    return max(rows, key=lambda score: -2.0 if rows[score]["spearman"] is None else rows[score]["spearman"])


def _spearman(rows: dict[str, Any], score: str) -> str:
    return shown(rows[score]["spearman"])


def _figures(row: dict[str, Any]) -> list[Cell | Markup | str]:
    return [
        Cell(shown(row["spearman"]), -2.0 if row["spearman"] is None else row["spearman"]),
        _range(row["interval"]),
        shown(row["within_role"]),
        shown(row["pooled"]),
        "–" if row["top"] is None else f"{row['top']:.0%}",
    ]


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} … {interval[1]:.2f}"


def _role_color(role: str) -> str:
    """Name of the role's colour in the page's theme."""
    return f"role-{role.replace('.', '-').replace('_', '-')}"


def _safe(name: str) -> str:
    return name.replace(".", "-")
