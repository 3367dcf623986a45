"""Anchored models are judged on plans that they were not fitted to, and pay for what they train."""

from __future__ import annotations

import numpy as np
import pytest
from predicted_gain_plans import crossed
from predicted_gain_predictors import JOINED, Predictor, score_anchored, signal_predictors

LOSSES = np.array([3.0, 2.0, 5.0, 1.0, 4.0, 6.0])
SETS = [[0, 1], [2, 5], [3, 4]]


def test_a_model_that_knows_the_order_finds_the_best_plan() -> None:
    found = score_anchored(lambda anchors: -LOSSES, SETS, LOSSES)
    assert found.spearman == pytest.approx(1.0)
    assert found.regret == 0.0


def test_a_model_that_knows_nothing_ends_with_the_best_of_its_anchors() -> None:
    found = score_anchored(lambda anchors: np.zeros(6), SETS, LOSSES)
    assert found.spearman is None
    assert found.regret == pytest.approx(np.mean([2.0 - 1.0, 5.0 - 1.0, 0.0]))


def test_a_model_that_is_wrong_is_no_worse_than_its_anchors() -> None:
    wrong = score_anchored(lambda anchors: LOSSES, SETS, LOSSES)
    assert wrong.spearman == pytest.approx(-1.0)
    # From anchors of 5 and 6 it picks a plan of 4, which is trained too.
    assert wrong.regret == pytest.approx(np.mean([1.0, 3.0, 0.0]))


def test_signals_cost_what_they_train_and_order_by_loss() -> None:
    names = ["a", "b", "c"]
    training = {name: np.linspace(4.0, 3.0 - place, 40)[None].repeat(2, axis=0) for place, name in enumerate(names)}
    short = {(steps, 8): np.array([[3.9], [3.5], [3.2]]) - steps / 100 for steps in (10, 20)}
    found = {
        predictor.name: predictor
        for predictor in signal_predictors(
            training=training,
            short=short,
            probes={10: np.array([[0.1, 1.0, 2.0], [0.2, 2.0, 1.0], [0.3, 3.0, 0.0]])},
            start_loss=4.0,
            final_steps=40,
            batch_size=8,
            joint=[Predictor("joint", JOINED, np.zeros(3))],
        )
    }
    raced = found["loss after 10 steps of 8, one seed"]
    assert raced.cost == 0.25
    assert raced.scores.argmax() == 2
    assert found["steps to equal loss"].cost == pytest.approx(30 / 40)
    assert np.argsort(found["loss to step 20, one seed"].scores).tolist() == [0, 1, 2]
    assert found["Adam's further step after 10 steps"].scores.tolist() == [2.0, 1.0, 0.0]
    by_seed = found["loss to step 20, one seed"].by_seed
    assert by_seed is not None
    assert by_seed.shape == (2, 3)


def test_a_seeds_signal_is_held_against_the_other_seeds_alone() -> None:
    finals = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    # Each seed foretells its own final order, which is the reverse of the other's.
    assert crossed(-finals.T, finals) == pytest.approx(-1.0)
    assert crossed(-finals.T[::-1], finals) == pytest.approx(1.0)
    assert crossed(-finals.T[:1], finals[:, :1]) is None
