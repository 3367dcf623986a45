"""What nothing else beats in cost and score."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from layerlens.artifacts.bench import ArmSummary, Cell
from layerlens.reporting.bench.pareto import COSTS, pareto_figure, undominated


def arm(name: str, mean: float, seconds: float) -> ArmSummary:
    costs = {"trainable_params": 1, "head_params": 0, "train_seconds": seconds, "peak_memory_bytes": 1}
    return ArmSummary.model_validate({"arm": name, "seeds": [0], "mean": mean, "deviation": None, "interval": None} | costs)


@pytest.mark.parametrize("is_lower_better", [True, False])
def test_the_line_joins_exactly_what_no_other_arm_beats_in_both(is_lower_better: bool) -> None:
    generator = np.random.default_rng(0)
    (seconds,) = (cost for cost in COSTS if cost.key == "seconds")
    for _ in range(50):
        arms = [arm(str(n), float(mean), float(cost)) for n, (mean, cost) in enumerate(generator.integers(0, 6, (6, 2)))]
        found = undominated(arms, seconds, is_lower_better=is_lower_better)
        sign = 1 if is_lower_better else -1

        def beats(one: ArmSummary, other: ArmSummary, sign: int = sign) -> bool:
            pairs = ((one.train_seconds, other.train_seconds), (sign * one.mean, sign * other.mean))
            return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

        assert not [pair for pair in combinations(found, 2) if beats(*pair) or beats(*reversed(pair))]
        front = {(one.mean, one.train_seconds) for one in arms if not any(beats(other, one) for other in arms)}
        assert {(one.mean, one.train_seconds) for one in found} == front


@pytest.mark.parametrize("most", [250.0, 2e6])
def test_the_numbers_beside_the_outermost_dots_have_room(most: float) -> None:
    arms = [arm(f"arm {n}", 0.5 + n / 100, seconds) for n, seconds in enumerate((100.0, 150.0, most))]
    about = {"model": "m", "task": "t", "metric": "accuracy", "is_lower_better": False, "eval_samples": 9, "steps": 9}
    _, charts = pareto_figure(Cell.model_validate(about | {"params_limit": 1, "arms": arms}), 0)
    (axis,) = (chart.layout["xaxis"] for chart in charts if "seconds" in chart.id)
    low, high = axis["range"]
    first, last = (math.log10(value) if axis.get("type") == "log" else value for value in (100.0, most))
    # Two digits and half a dot take a tenth of the smallest chart.
    assert min(first - low, high - last) > 0.1 * (high - low)
