"""Models of joint value against what they must be where layers are independent, and where they are all the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from predicted_gain_joint import (
    Part,
    additive,
    alignment,
    anchor_sets,
    anchored,
    discounted,
    fitted_total,
    grouped,
    of_mlp,
    place_similarity,
    powers,
    redundant,
    saturating,
    shared,
    sublayer,
)

PARTS = [
    Part("q", "attention.query", 0, 0.4),
    Part("up", "mlp.up", 0, 0.9),
    Part("down", "mlp.down", 0, 0.2),
    Part("q2", "attention.query", 1, 0.7),
]


def test_with_much_to_be_had_saturating_gains_add_up() -> None:
    assert saturating(PARTS, 1e7) == pytest.approx(additive(PARTS), rel=1e-6)


def test_one_layer_alone_is_worth_its_gain_and_many_never_more_than_the_total() -> None:
    assert saturating(PARTS[:1], 1.5) == pytest.approx(0.4)
    values = [saturating(PARTS[:1] * number, 1.5) for number in range(1, 40)]
    assert all(earlier < later for earlier, later in pairwise(values))
    assert values[-1] < 1.5
    assert saturating(PARTS, 0.5) == 0.5


def test_what_attention_reads_counts_its_share_and_its_output_counts_whole() -> None:
    parts = [*PARTS, Part("o", "attention.output", 0, 0.3), Part("qkv", "attention.qkv", 1, 0.1)]
    assert shared(parts, 1.0) == pytest.approx(additive(parts))
    assert shared(parts, 0.5) == pytest.approx(additive(parts) - 0.5 * (0.4 + 0.7 + 0.1))
    assert shared(parts, 0.0) == pytest.approx(0.9 + 0.2 + 0.3)


def test_no_layer_is_worth_nothing() -> None:
    assert [model([]) for model in (additive, lambda parts: saturating(parts, 1.0))] == [0.0, 0.0]
    assert redundant([], place_similarity) == 0.0


def test_groups_of_one_add_and_one_group_is_a_power_of_the_sum() -> None:
    assert grouped(PARTS, lambda part: part.layer, 1.0) == pytest.approx(additive(PARTS))
    assert grouped(PARTS, lambda part: part.layer, 0.5) == pytest.approx(powers(PARTS, 0.5))
    assert grouped(PARTS, lambda part: 0, 0.5) == pytest.approx(additive(PARTS) ** 0.5)
    assert grouped(PARTS, sublayer, 0.5) == pytest.approx(0.4**0.5 + 1.1**0.5 + 0.7**0.5)


def test_independent_layers_add_and_copies_of_one_are_worth_one() -> None:
    assert redundant(PARTS, lambda one, other: float(one.layer == other.layer)) == pytest.approx(additive(PARTS))
    assert redundant([PARTS[1]] * 5, lambda one, other: 1.0) == pytest.approx(0.9)


def test_a_power_above_one_prefers_few_large_gains_and_one_below_many_small_ones() -> None:
    few, many = [Part("a", "mlp.up", 0, 1.0)], [Part(str(number), "mlp.up", 0, 0.1) for number in range(10)]
    assert powers(few, 2.0) > powers(many, 2.0)
    assert powers(few, 0.5) < powers(many, 0.5)
    assert powers(few, 1.0) == pytest.approx(powers(many, 1.0))


def test_mlp_layers_count_alone() -> None:
    assert of_mlp(PARTS) == pytest.approx(1.1)


def test_layers_of_one_block_repeat_each_other_more_than_distant_ones() -> None:
    near, far = Part("a", "mlp.up", 3, 1.0), Part("b", "mlp.up", 9, 1.0)
    here = Part("c", "mlp.down", 3, 1.0)
    assert place_similarity(near, near) == 1.0
    assert place_similarity(near, here) > place_similarity(near, far)
    assert redundant([near, far], place_similarity) > redundant([near, here], place_similarity)


def test_without_a_discount_gains_add_and_the_largest_counts_in_full() -> None:
    assert discounted(PARTS, 1.0) == pytest.approx(additive(PARTS))
    assert discounted(PARTS, 0.5) == pytest.approx(0.9 + 0.35 + 0.1 + 0.025)


def test_kernels_align_with_themselves_and_not_with_what_they_never_see() -> None:
    one, other = np.zeros((4, 4)), np.zeros((4, 4))
    one[:2, :2], other[2:, 2:] = 1.0, 3.0
    found = alignment({"a": one, "b": other, "c": 5.0 * one})
    assert found["a", "a"] == pytest.approx(1.0)
    assert found["a", "b"] == 0.0
    assert found["a", "c"] == pytest.approx(1.0)


def test_anchors_fix_a_linear_law_and_nothing_but_their_losses_is_read() -> None:
    features = np.random.default_rng(0).random((12, 2))
    losses = 3.0 - 0.5 * features[:, 0] - 0.2 * features[:, 1]
    anchors = [0, 3, 7, 9]
    predicted = anchored(features, losses, anchors)
    np.testing.assert_allclose(predicted, losses, atol=1e-9)
    hidden = losses.copy()
    hidden[[number for number in range(12) if number not in anchors]] = np.nan
    np.testing.assert_allclose(anchored(features, hidden, anchors), predicted)


def test_a_feature_that_makes_anchors_worse_gets_no_weight() -> None:
    features = np.arange(6.0)[:, None]
    predicted = anchored(features, np.arange(6.0), [0, 2, 5])
    np.testing.assert_allclose(predicted, np.full(6, 7.0 / 3.0))


def test_the_total_that_made_the_losses_is_found_from_anchors() -> None:
    random = np.random.default_rng(1)
    plans = [[Part(str(n), "mlp.up", n, float(random.uniform(0.1, 0.9))) for n in range(1 + k % 7)] for k in range(14)]
    losses = 5.0 - np.array([saturating(parts, 1.0) for parts in plans])
    values = fitted_total(plans, losses, [0, 1, 3, 5, 8, 13], [1.0, 2.0, 8.0])
    np.testing.assert_allclose(values, -losses, atol=1e-9)


def test_anchor_sets_are_distinct_plans_and_the_same_for_the_same_seed() -> None:
    sets = anchor_sets(10, 4, num_draws=30)
    assert all(len(set(own)) == 4 and max(own) < 10 for own in sets)
    assert sets == anchor_sets(10, 4, num_draws=30)
