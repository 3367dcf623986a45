"""The tables that `predicted_gain.py` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 150


def print_layers(model: str, part: dict[str, Any]) -> None:
    """One row for each score, against both ground truths."""
    title = (
        f"{model}: {len(part['layers'])} layers one at a time, {part['steps']} steps of {part['batch_size']}, seeds "
        f"{','.join(map(str, part['seeds']))}, {part['held_out']} held-out samples, loss before {part['start_loss']:.3f}"
    )
    table = Table(title=title)
    table.add_column("score")
    truths = list(part["agreement"])
    for truth in truths:
        for head in (f"{truth}: Spearman", "95 %", "in role", "pooled", "top ¼"):
            table.add_column(head, justify="right")
    for score in part["scores"]:
        cells = []
        for truth in truths:
            row = part["agreement"][truth][score]
            interval = row["interval"]
            cells += [shown(row["spearman"]), "" if interval is None else f"{interval[0]:.2f} … {interval[1]:.2f}"]
            cells += [shown(row["within_role"]), shown(row["pooled"]), "" if row["top"] is None else f"{row['top']:.0%}"]
        table.add_row(score, *cells)
    console = Console(width=WIDTH)
    console.print(table)
    for name, row in part["ceilings"].items():
        if row is not None:
            what = "one half of seeds and samples against the other" if name in truths else "one truth against the other"
            console.print(
                f"{name}, {what}: Spearman {shown(row['spearman'])}, in role {shown(row['within_role'])}, top {row['top']:.0%}"
            )
    console.print(f"rates {part['rates']}, chosen from {part['sweeps']}")
    gains = part["gains"]["lora"]
    console.print(f"LoRA of rank {part['rank']} gains {min(gains):.3f} … {max(gains):.3f} nats")


def print_plans(model: str, part: dict[str, Any]) -> None:
    """Every plan by its final loss, then every predictor."""
    plans = Table(
        title=f"{model}: {len(part['plans'])} plans of at most {part['budget']:,} parameters, {part['steps']} steps of "
        f"{part['batch_size']}, seeds {','.join(map(str, part['seeds']))}, loss before {part['start_loss']:.3f}"
    )
    for head in ("plan", "parameters", "layers", "largest rank", "final loss", "± seeds"):
        plans.add_column(head, justify="left" if head == "plan" else "right")
    for plan in sorted(part["plans"], key=lambda plan: plan["loss"]):
        plans.add_row(
            plan["name"], f"{plan['params']:,}", str(plan["layers"]), str(plan["largest_rank"]), f"{plan['loss']:.4f}",
            f"{plan['seed_spread']:.4f}",
        )  # fmt: skip
    table = Table(title="predicted order against final order")
    for head in ("kind", "predictor", "Spearman", "95 %", "other seeds", "better half", "pick", "regret, nats", "cost in runs"):
        table.add_column(head, justify="left" if head in ("kind", "predictor", "pick") else "right")
    for row in part["predictors"]:
        interval = "" if row["interval"] is None else f"{row['interval'][0]:.2f} … {row['interval'][1]:.2f}"
        cost = f"{row['cost']:.2f}" if row["cost"] else ""
        table.add_row(
            row["kind"], row["name"], shown(row["spearman"]), interval, shown(row["crossed"]), shown(row["upper"]), row["pick"],
            f"{row['regret']:.4f}", cost,
        )  # fmt: skip
    console = Console(width=WIDTH)
    console.print(plans)
    console.print(table)
    console.print(
        f"learning rate {part['learning_rate']:g} of {part['sweep']}; one seed's order against the other's: Spearman "
        f"{shown(part['ceiling'])}; best minus uniform {part['best_minus_uniform']:+.4f} nats"
    )


def shown(value: float | None) -> str:
    """Two digits; a dash where it is not defined."""
    return "–" if value is None else f"{value:.2f}"
