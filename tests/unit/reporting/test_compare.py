"""Oracle: scipy's paired t-test and its confidence interval."""

from __future__ import annotations

import pytest
from scipy import stats

from layerlens.artifacts.evaluation import Arm
from layerlens.reporting.arms import ArmGroup, kind_of
from layerlens.reporting.compare import Outcome, compare


def _group(name: str, metric: str, values: dict[int, float]) -> ArmGroup:
    arms = [
        Arm(name=name, metrics={metric: value}, trainable_params=1, train_seconds=1.0, peak_memory_bytes=1, seed=seed)
        for seed, value in values.items()
    ]
    return ArmGroup(name, kind_of(name), tuple(arms))


def test_paired_seeds_give_student_s_interval() -> None:
    ours, theirs = {0: 0.81, 1: 0.84, 2: 0.86, 3: 0.80}, {3: 0.79, 2: 0.83, 1: 0.83, 0: 0.80}
    found = compare(_group("a", "accuracy", ours), _group("b", "accuracy", theirs), "accuracy", 500)
    expected = stats.ttest_rel([ours[seed] for seed in range(4)], [theirs[seed] for seed in range(4)]).confidence_interval(0.95)
    assert found is not None
    assert found.interval == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.basis == "4 paired seeds"


def test_only_common_seeds_are_paired() -> None:
    found = compare(_group("a", "f1", {0: 0.5, 1: 0.6, 2: 9.0}), _group("b", "f1", {0: 0.4, 1: 0.5, 7: -9.0}), "f1", 10)
    assert found is not None
    assert found.difference == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("metric", "ours", "outcome"),
    [
        ("f1", [0.90, 0.91, 0.92], Outcome.BETTER),
        ("f1", [0.70, 0.71, 0.72], Outcome.WORSE),
        ("f1", [0.75, 0.85, 0.80], Outcome.NOISE),
        ("loss", [0.90, 0.91, 0.92], Outcome.WORSE),
        ("perplexity", [0.70, 0.71, 0.72], Outcome.BETTER),
    ],
)
def test_a_difference_counts_where_its_interval_excludes_zero_and_a_loss_is_better_when_lower(
    metric: str, ours: list[float], outcome: Outcome
) -> None:
    theirs = dict(enumerate([0.80, 0.81, 0.805]))
    found = compare(_group("a", metric, dict(enumerate(ours))), _group("b", metric, theirs), metric, 100)
    assert found is not None
    assert found.outcome is outcome


def test_equal_differences_of_several_seeds_claim_nothing() -> None:
    theirs = _group("b", "f1", {0: 0.5, 1: 0.7})
    found = compare(_group("a", "f1", {0: 0.6, 1: 0.8}), theirs, "f1", 100)
    assert found is not None
    assert (found.outcome, found.interval, found.basis) == (Outcome.UNKNOWN, None, "2 seeds that all differ by as much")
    same = compare(theirs, theirs, "f1", 100)
    assert same is not None
    assert same.outcome is Outcome.NOISE


def test_one_seed_of_accuracy_has_the_sampling_noise_of_its_samples() -> None:
    few = compare(_group("a", "accuracy", {0: 0.84}), _group("b", "accuracy", {0: 0.80}), "accuracy", 200)
    many = compare(_group("a", "accuracy", {0: 0.84}), _group("b", "accuracy", {0: 0.80}), "accuracy", 20_000)
    assert few is not None
    assert many is not None
    assert (few.outcome, many.outcome) == (Outcome.NOISE, Outcome.BETTER)
    assert few.interval is not None
    # Wald's interval for two proportions, by hand: 1.96 · sqrt(.84·.16/200 + .8·.2/200).
    assert few.interval[1] - 0.04 == pytest.approx(0.0752, abs=1e-4)


def test_one_seed_of_another_metric_cannot_tell() -> None:
    found = compare(_group("a", "f1", {0: 0.84}), _group("b", "f1", {0: 0.80}), "f1", 200)
    assert found is not None
    assert (found.outcome, found.interval) == (Outcome.UNKNOWN, None)


def test_without_the_metric_there_is_no_comparison() -> None:
    assert compare(_group("a", "f1", {0: 0.84}), _group("b", "loss", {0: 0.80}), "f1", 200) is None
