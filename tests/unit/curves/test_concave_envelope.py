"""The envelope against its definition: the least concave non-decreasing majorant from zero."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from layerlens.curves.concave_envelope import concave_envelope

_CURVES = st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=8)


@given(_CURVES)
def test_the_envelope_lies_above_the_curve_and_is_concave_monotone_and_not_negative(values: list[float]) -> None:
    envelope = concave_envelope(np.array(values))
    steps = np.diff(envelope, prepend=0.0)
    assert (envelope >= np.array(values) - 1e-9).all()
    assert (steps >= -1e-9).all()
    assert (np.diff(steps) <= 1e-9).all()
    assert (envelope >= 0).all()


@given(_CURVES)
def test_no_concave_non_decreasing_curve_above_the_points_is_lower(values: list[float]) -> None:
    """Oracle: the linear program that minimises the sum under just these constraints."""
    size = len(values)
    rows, bounds = [], []
    for rank in range(size):
        step = np.zeros(size)
        step[rank] = -1.0
        if rank:
            step[rank - 1] = 1.0
        rows.append(step)
        bounds.append(0.0)
    for rank in range(1, size):
        bend = np.zeros(size)
        bend[rank] = 1.0
        bend[rank - 1] = -2.0
        if rank > 1:
            bend[rank - 2] = 1.0
        rows.append(bend)
        bounds.append(0.0)
    least = linprog(np.ones(size), A_ub=np.array(rows), b_ub=bounds, bounds=[(max(0.0, value), None) for value in values])
    np.testing.assert_allclose(concave_envelope(np.array(values)), least.x, atol=1e-6)


def test_a_curve_that_falls_is_flat_from_its_maximum_on() -> None:
    np.testing.assert_allclose(concave_envelope(np.array([1.0, 3.0, 2.0, -5.0])), [1.5, 3.0, 3.0, 3.0])


def test_a_curve_below_zero_is_worth_nothing() -> None:
    assert concave_envelope(np.array([-1.0, -0.5])).tolist() == [0.0, 0.0]
