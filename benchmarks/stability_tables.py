"""How the readings of `stability.py` are shown: which columns, which goals, and whether they are met."""

from __future__ import annotations

from rich.table import Table
from stability_readings import Reading

#: Of the relative spread, by what is varied.
GOALS = {"set": 0.05, "seed": 0.05, "config": 0.10}
UTILITY_COLUMNS = {
    "relative_spread": "relative spread",
    "layer_variation": "a layer's own CV",
    "mean_difference": "mean difference",
    "variance_share": "variance not the layers'",
    "spearman": "Spearman",
}
PLAN_COLUMNS = {
    "changed_ranks": "ranks changed",
    "moved_rank": "rank moved",
    "kept_value": "value kept",
    "value_spread": "predicted value's spread",
}
PLAIN_NUMBERS = {"mean_difference", "spearman"}


def shown(reading: Reading, *, is_share: bool = True) -> str:
    """`3.1% [2.0, 4.4]`, or plain numbers."""
    scale, form = (100.0, ".1f") if is_share else (1.0, ".3f")
    interval = ""
    if reading.low is not None and reading.high is not None:
        interval = f" \\[{scale * reading.low:{form}}, {scale * reading.high:{form}}]"
    return f"{scale * reading.value:{form}}{'%' if is_share else ''}{interval}"


def verdict(reading: Reading, goal: float | None) -> str:
    """Whether a goal is met, and whether the interval says so too."""
    if goal is None:
        return ""
    is_met = reading.value < goal
    nearest = reading.high if is_met else reading.low
    is_sure = nearest is not None and (nearest < goal) == is_met
    return f"< {goal:.0%}: {'yes' if is_met else 'NO'}{'' if is_sure else ', unsure'}"


def show(title: str, rows: dict[str, dict[str, Reading]], columns: dict[str, str]) -> Table:
    """A table of some readings; a reading with a goal says whether it is met."""
    table = Table(title=f"{title}; 95 % intervals in brackets")
    table.add_column("varied", no_wrap=True)
    for key, column in columns.items():
        table.add_column(column)
        if key == "relative_spread":
            table.add_column("goal")
    for row, found in rows.items():
        cells = []
        for key in columns:
            cells.append(shown(found[key], is_share=key not in PLAIN_NUMBERS))
            if key == "relative_spread":
                cells.append(verdict(found[key], GOALS.get(row.partition(":")[0])))
        table.add_row(row, *cells)
    return table
