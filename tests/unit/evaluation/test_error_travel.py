"""Fits of how errors travel, on courses whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.evaluation.error_travel import error_travel, fit_power


def power(scale: float, exponent: float, length: int) -> list[float]:
    return [scale * number**exponent for number in range(1, length + 1)]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.7])
def test_a_power_law_is_found_whatever_the_scale_of_each_course(exponent: float) -> None:
    courses = [power(scale, exponent, length) for scale, length in ((1e-4, 6), (3.0, 4), (0.2, 2))]
    fit = fit_power(courses)
    assert fit is not None
    assert fit.exponent == pytest.approx(exponent, abs=1e-12)
    assert fit.rms_log_error == pytest.approx(0.0, abs=1e-12)
    assert fit.num_points == 12
    ends = (6 * 4 * 2) ** (1 / 3)
    assert fit.end_over_start == pytest.approx(ends**exponent)
    assert fit.claimed_end_over_start == pytest.approx(ends**-0.5)
    assert (fit.claimed_rms_log_error < 1e-12) == (exponent == -0.5)


def test_the_exponent_is_that_of_least_squares_with_a_dummy_for_every_course() -> None:
    random = np.random.default_rng(0)
    courses = [np.exp(random.normal(size=length)).tolist() for length in (7, 5, 3)]
    rows = [(number, np.log(step), np.log(e)) for number, course in enumerate(courses) for step, e in enumerate(course, start=1)]
    design = np.array([[x, *(number == k for k in range(3))] for number, x, _ in rows])
    targets = np.array([y for *_, y in rows])
    solution, residual, *_ = np.linalg.lstsq(design, targets)
    fit = fit_power(courses)
    assert fit is not None
    assert fit.exponent == pytest.approx(solution[0])
    assert fit.rms_log_error == pytest.approx((residual[0] / len(rows)) ** 0.5)
    assert fit.claimed_rms_log_error > fit.rms_log_error


def test_single_matrices_and_all_together_stand_beside_the_claim() -> None:
    travel = error_travel({"a": power(0.1, -0.2, 5), "b": [0.3], "c": [0.0, 0.0]}, power(0.2, 0.4, 5))
    assert travel.alone is not None
    assert travel.together is not None
    assert travel.alone.exponent == pytest.approx(-0.2)
    assert travel.together.exponent == pytest.approx(0.4)
    assert travel.claimed_exponent == -0.5
    assert travel.error_after_blocks == power(0.2, 0.4, 5)
    assert (
        "one matrix compressed: N^-0.20 (claimed N^-0.50); at the last block 0.72 of the first error (claimed 0.45)"
        in travel.summary
    )
    assert "all compressed: N^+0.40" in travel.summary


def test_without_errors_there_is_nothing_to_follow() -> None:
    travel = error_travel({}, [0.0, 0.0, 0.0])
    assert (travel.alone, travel.together, travel.summary) == (None, None, "no error to follow")
