"""Correlations within roles, the overlap of the leading layers, and intervals, against scipy and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from predicted_gain_agreement import agreement, draw, leading, pooled_within_role, regret, top_overlap, within_role
from scipy.stats import spearmanr

ROLES = ["query"] * 5 + ["up"] * 6 + ["down"] * 3


def test_within_role_is_the_mean_of_scipys_spearman_over_roles_with_enough_layers() -> None:
    random = np.random.default_rng(0)
    scores, gains = random.random(14).tolist(), random.random(14).tolist()
    expected = np.mean([spearmanr(scores[part], gains[part]).statistic for part in (slice(0, 5), slice(5, 11))])
    assert within_role(scores, gains, ROLES) == pytest.approx(expected)


def test_a_score_that_knows_only_the_role_says_nothing_within_roles() -> None:
    level = {"query": 0.0, "up": 10.0, "down": 5.0}
    random = np.random.default_rng(1)
    gains = [level[role] + random.random() for role in ROLES]
    scores = [level[role] for role in ROLES]
    assert within_role(scores, gains, ROLES) == 0.0
    assert agreement(scores, np.array(gains)[:, None], ROLES, []).spearman > 0.85  # type: ignore[operator]


def test_pooled_ranks_are_perfect_where_each_role_is_in_order_whatever_the_roles_levels() -> None:
    gains = [float(number) for number in range(14)]
    scores = [number + {"query": 100.0, "up": 0.0, "down": 50.0}[role] for number, role in enumerate(ROLES)]
    assert pooled_within_role(scores, gains, ROLES) == pytest.approx(1.0)
    assert pooled_within_role([-score for score in scores], gains, ROLES) == pytest.approx(-1.0)


def test_roles_with_too_few_layers_leave_nothing_to_say() -> None:
    assert within_role([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], ["a", "b", "c"]) is None


def test_the_overlap_counts_leading_layers_that_lead_by_both() -> None:
    gains = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert top_overlap([9.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0], gains) == 0.5
    assert top_overlap(gains, gains) == 1.0
    assert top_overlap(gains[::-1], gains) == 0.0


def test_ties_go_to_the_earlier_layer() -> None:
    assert leading([1.0, 2.0, 2.0, 1.0], 3) == [1, 2, 0]


def test_the_interval_of_a_perfect_score_is_a_point_and_that_of_a_random_one_spans_zero() -> None:
    random = np.random.default_rng(2)
    drops = np.arange(14.0)[:, None] + np.zeros((1, 20))
    draws = draw(drops, num_draws=200)
    perfect = agreement(list(range(14)), drops, ROLES, draws)
    assert perfect.interval == pytest.approx((1.0, 1.0))
    noise = agreement(random.permutation(14).tolist(), random.random((14, 20)), ROLES, draw(random.random((14, 20))))
    assert noise.interval is not None
    assert noise.interval[0] < 0.0 < noise.interval[1]


def test_a_draw_takes_whole_layers_and_means_over_the_samples_it_drew() -> None:
    drops = np.array([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]])
    for layers, gains in draw(drops, num_draws=50):
        shares = gains - 10.0 * layers
        # The same samples for every layer, so the part above the layer's own level is one number.
        assert np.ptp(shares) == pytest.approx(0.0, abs=1e-12)
        assert shares[0] in (0.0, 0.5, 1.0)


def test_a_constant_score_has_no_correlation() -> None:
    found = agreement([1.0] * 14, np.random.default_rng(0).random((14, 4)), ROLES, [])
    assert found.spearman is None
    assert found.top is None


def test_regret_is_what_the_pick_loses_to_the_best() -> None:
    assert regret([0.0, 3.0, 1.0], [2.0, 2.5, 1.0]) == 1.5
    assert regret([0.0, 1.0, 3.0], [2.0, 2.5, 1.0]) == 0.0
