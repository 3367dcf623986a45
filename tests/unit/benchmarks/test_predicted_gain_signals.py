"""Early signals on curves whose course is known."""

from __future__ import annotations

import numpy as np
import pytest
from predicted_gain_signals import area, extrapolated, on_the_way, steps_to_equal_loss


def test_a_plan_that_falls_faster_needs_fewer_steps_to_the_same_loss() -> None:
    curves = {0: np.array([4.0, 4.0]), 9: np.array([3.0, 2.0]), 99: np.array([2.0, 1.0])}
    slow, fast = steps_to_equal_loss(curves)
    assert slow == pytest.approx(np.log(100))
    assert fast == pytest.approx(np.log(10))


def test_between_two_horizons_the_crossing_is_linear_in_log_steps() -> None:
    curves = {0: np.array([4.0, 4.0]), 9: np.array([4.0, 3.5]), 99: np.array([3.0, 2.5])}
    assert steps_to_equal_loss(curves)[1] == pytest.approx(1.5 * np.log(10))


def test_a_loss_that_is_linear_in_log_steps_is_continued_exactly() -> None:
    slopes = np.array([0.3, 0.5])
    curves = {steps: 4.0 - slopes * np.log(max(steps, 1)) for steps in (0, 10, 40)}
    np.testing.assert_allclose(extrapolated(curves, 200), 4.0 - slopes * np.log(200))


def test_the_way_counts_its_second_half_and_the_area_all_of_it() -> None:
    training = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    assert on_the_way(training, 4) == 1.5
    assert area(training, 4) == 2.5
