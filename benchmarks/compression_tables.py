"""How the results of `compression.py` are shown: sizes, plans, and predictions, and which goals they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compression_points import worse
from compression_predictions import summary
from rich.table import Table

#: Ratio to the best baseline that counts as clearly better, and the share of points that shall be so.
CLEARLY, SHARE = 0.8, 0.5
#: Spearman of predicted against measured: to reach, and hoped for.
SPEARMAN_REACH, SPEARMAN_GOAL = 0.9, 0.97
#: Columns of baselines, shortest names that still tell them apart.
BASELINES = {
    "uniform-nearest": "RTN",
    "uniform-nearest-topped-up": "RTN topped up",
    "uniform-second-order": "2nd order",
    "uniform-second-order-topped-up": "2nd order topped up",
    "plain-svd-int8": "SVD int8",
    "whitened-svd-int8": "whitened SVD int8",
}


def points_table(name: str, points: Sequence[Mapping[str, Any]]) -> Table:
    """One row a size: what LayerLens wrote, every baseline, and the ratio to the best of them."""
    compared = next((point["compared"] for point in points if "compared" in point), "")
    unit = "1 − cosine" if compared == "embedding" else "KL in nats"
    table = Table(title=f"{name}: {unit} on the final test, against the original; 95 % intervals over samples in brackets")
    for column in ("bits", "used", "choice", "LayerLens", *BASELINES.values(), "÷ best baseline", "same top", "predicted"):
        table.add_column(column, justify="left" if column == "choice" else "right")
    if any("spearman" in point for point in points):
        table.add_column("STS-B Spearman")
    for point in points:
        if "infeasible" in point:
            table.add_row(f"{point['bits']:g}", "", point["infeasible"])
            continue
        chosen = point["plans"][point["choice"]]
        row = [f"{point['bits']:g}", f"{chosen['bits_used']:.3f}", point["choice"], _figure(chosen["test"])]
        row += [_figure(point["plans"][key]["test"]) if key in point["plans"] else "" for key in BASELINES]
        row.append(_ratio(point["ratio"]))
        row.append("" if chosen["same_top"] is None else f"{chosen['same_top']:.1%}")
        row.append(f"{point['predicted_loss'] / chosen['test']:.2f} ×" if chosen["test"] > 0 else "")
        if "spearman" in point:
            row.append(", ".join(f"{value:.4f} {_short(key)}" for key, value in point["spearman"].items()))
        table.add_row(*row)
    return table


def _short(name: str) -> str:
    return BASELINES.get(name, name)


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return "no baseline fits"
    return f"{ratio['value']:.2f} \\[{ratio['low']:.2f}, {ratio['high']:.2f}]"


def verdicts(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many points are clearly better than the best baseline, and which are worse."""
    compared = [point for point in points if point.get("ratio")]
    better = [point["bits"] for point in compared if point["ratio"]["value"] <= CLEARLY]
    surely = [point["bits"] for point in compared if point["ratio"]["high"] <= CLEARLY]
    return {
        "points": len(compared),
        "clearly_better": better,
        "clearly_better_by_interval": surely,
        "above_one": [point["bits"] for point in compared if point["ratio"]["value"] > 1],
        "worse_by_interval": [point["bits"] for point in worse(compared)],
        "is_goal": len(better) >= SHARE * len(compared) and bool(compared),
        "is_never_worse": not worse(compared),
    }


def verdict_line(name: str, found: Mapping[str, Any]) -> str:
    """The verdicts as a sentence."""

    def listed(bits: Sequence[float]) -> str:
        return ", ".join(f"{value:g}" for value in bits) or "none"

    goal = "goal met" if found["is_goal"] else "goal NOT met"
    return (
        f"{name}: ≥ 20 % lower than the best baseline at {len(found['clearly_better'])} of {found['points']} points "
        f"({listed(found['clearly_better'])}; the interval says so at {listed(found['clearly_better_by_interval'])}): {goal}; "
        f"above it at {listed(found['above_one'])}, worse beyond the interval at {listed(found['worse_by_interval'])}"
    )


def predictions_table(name: str, checked: Mapping[str, list[dict[str, Any]]]) -> Table:
    """One row for each kind of option, and one for all of them."""
    table = Table(title=f"{name}: predicted against measured, each matrix alone; anchored at 3-bit codes on other samples")
    for column in ("option", "matrices", "Spearman", "unanchored", "within a factor (median)", "sum predicted", "sum measured"):
        table.add_column(column, justify="left" if column == "option" else "right")
    table.add_column(f"≥ {SPEARMAN_REACH:g} / {SPEARMAN_GOAL:g}")
    kinds = dict(checked)
    if len(checked) > 1:
        kinds["all"] = [row for rows in checked.values() for row in rows]
    for kind, rows in kinds.items():
        if len(rows) < 3:
            continue
        found = summary(rows)
        met = "goal" if found["spearman"] >= SPEARMAN_GOAL else "yes" if found["spearman"] >= SPEARMAN_REACH else "NO"
        table.add_row(
            kind,
            str(found["matrices"]),
            f"{found['spearman']:.3f}",
            f"{found['unanchored_spearman']:.3f}",
            f"{found['median_factor']:.2f}",
            _figure(found["total_predicted"]),
            _figure(found["total_measured"]),
            met,
        )
    return table
