"""From runs to summaries: means, ratios, pairs, and all cells together."""

from __future__ import annotations

import pytest

from layerlens.artifacts.bench import BenchRun, Cell
from layerlens.artifacts.evaluation import is_lower_better
from layerlens.benching.summary import overall, share_of, summarise_arms
from tests.unit.benching.suites import run

ARMS = ["full", "uniform", "layerlens"]


def runs_of(task: str, scores: dict[str, list[float]]) -> list[BenchRun]:
    return [run(arm, seed, value, task=task) for arm, values in scores.items() for seed, value in enumerate(values)]


def cell_of(task: str, runs: list[BenchRun], metric: str = "accuracy") -> Cell:
    return Cell(
        model="tiny", task=task, metric=metric, is_lower_better=is_lower_better(metric), eval_samples=10, steps=4, params_limit=5,
        arms=summarise_arms([one for one in runs if one.task == task], ARMS, metric),
    )  # fmt: skip


def test_a_summary_holds_means_and_ratios_over_the_arms_own_seeds() -> None:
    runs = [
        run("full", 0, 0.8, train_seconds=10.0, peak_memory_bytes=1000),
        run("full", 1, 0.6, train_seconds=30.0, peak_memory_bytes=3000),
        run("uniform", 0, 0.4, train_seconds=4.0, peak_memory_bytes=500),
        run("uniform", 1, None),
    ]
    full, uniform = summarise_arms(runs, ARMS, "accuracy")
    assert (full.mean, full.share_of_full, full.time_ratio) == (pytest.approx(0.7), pytest.approx(1.0), pytest.approx(1.0))
    assert uniform.seeds == [0]
    assert uniform.mean == pytest.approx(0.4)
    # Only the seed that both have tells how much worse and how much faster an arm is.
    assert uniform.share_of_full == pytest.approx(0.4 / 0.8)
    assert uniform.time_ratio == pytest.approx(0.4)
    assert uniform.memory_ratio == pytest.approx(0.5)
    assert uniform.interval is None
    assert [pair.against for pair in uniform.paired] == ["full"]


def test_layerlens_is_held_against_every_arm_and_the_others_against_two() -> None:
    runs = runs_of("docs", {arm: [0.5, 0.6] for arm in (*ARMS, "random")})
    by_arm = {found.arm: found for found in summarise_arms(runs, [*ARMS, "random"], "accuracy")}
    assert [pair.against for pair in by_arm["layerlens"].paired] == ["full", "uniform", "random"]
    assert [pair.against for pair in by_arm["random"].paired] == ["uniform", "full"]


@pytest.mark.parametrize("metric", ["loss", "perplexity", "loss_nats", "mean_squared_error"])
def test_losses_and_errors_are_better_low(metric: str) -> None:
    assert is_lower_better(metric)
    assert share_of(2.0, 1.0, metric) == pytest.approx(0.5)
    assert not any(is_lower_better(name) for name in ("accuracy", "f1", "spearman", "matthews"))


def test_a_share_needs_a_reference_above_zero_and_a_loss_above_zero() -> None:
    assert share_of(0.8, 0.0, "matthews") is None
    assert share_of(0.8, -0.1, "matthews") is None
    assert share_of(0.0, 0.5, "loss") is None
    assert share_of(0.4, 0.8, "accuracy") == pytest.approx(0.5)


def test_a_score_of_nothing_or_less_is_a_share_of_nothing_or_less_where_higher_is_better() -> None:
    assert share_of(0.0, 0.5, "matthews") == 0.0
    assert share_of(-0.1, 0.5, "matthews") == pytest.approx(-0.2)


def test_all_cells_together_average_shares_and_pair_their_means_by_seed() -> None:
    scores = {"a": {"full": [0.8, 0.8], "uniform": [0.4, 0.4], "layerlens": [0.6, 0.7]},
              "b": {"full": [0.5, 0.5], "uniform": [0.5, 0.5], "layerlens": [0.5, 0.6]}}  # fmt: skip
    runs = [entry for task, given in scores.items() for entry in runs_of(task, given)]
    found = {arm.arm: arm for arm in overall([cell_of(task, runs) for task in scores], runs, ARMS)}
    ours = found["layerlens"]
    assert ours.share_of_full == pytest.approx(((0.65 / 0.8) + (0.55 / 0.5)) / 2)
    assert ours.least_share_of_full == pytest.approx(0.65 / 0.8)
    against = ours.against("uniform")
    assert against is not None
    expected = [(0.6 / 0.8 + 0.5 / 0.5) / 2 - 0.75, (0.7 / 0.8 + 0.6 / 0.5) / 2 - 0.75]
    assert against.difference == pytest.approx(sum(expected) / 2)


def test_a_seed_that_died_in_one_cell_is_left_out_of_the_pairs_over_all() -> None:
    runs = runs_of("a", {arm: [0.5, 0.6, 0.7] for arm in ARMS}) + runs_of("b", {arm: [0.5, 0.6, 0.7] for arm in ARMS})
    runs = [run("layerlens", 1, None, task="b") if (r.arm, r.task, r.seed) == ("layerlens", "b", 1) else r for r in runs]
    found = {arm.arm: arm for arm in overall([cell_of("a", runs), cell_of("b", runs)], runs, ARMS)}
    against = found["layerlens"].against("uniform")
    assert against is not None
    assert against.seeds == [0, 2]


def test_an_arm_that_failed_in_one_cell_pays_for_it_in_its_mean_its_worst_cell_and_its_pairs() -> None:
    scores = {"a": {"full": [0.5, 0.5], "uniform": [0.5, 0.5], "layerlens": [0.5, 0.5]},
              "b": {"full": [0.5, 0.5], "uniform": [0.5, 0.5], "layerlens": [0.0, -0.1]}}  # fmt: skip
    runs = [entry for task, given in scores.items() for entry in runs_of(task, given)]
    found = {arm.arm: arm for arm in overall([cell_of(task, runs) for task in scores], runs, ARMS)}
    ours = found["layerlens"]
    # Full's mean is 0.5 in both cells, so the shares are 1 and 1 in one of them, 0 and -0.2 in the other.
    assert (ours.cells, ours.share_of_full, ours.least_share_of_full) == (2, pytest.approx(0.45), pytest.approx(-0.1))
    against = ours.against("uniform")
    assert against is not None
    assert (against.seeds, against.difference) == ([0, 1], pytest.approx((-0.5 - 0.6) / 2))


@pytest.mark.parametrize("full", [[None, None], [0.0, -0.1]])
def test_a_cell_without_a_reference_is_left_out_for_every_arm_and_ends_no_pair(full: list[float | None]) -> None:
    runs = runs_of("a", {arm: [0.5, 0.6] for arm in ARMS}) + runs_of("b", {"uniform": [0.1, 0.2], "layerlens": [0.9, 0.9]})
    runs += runs_of("c", {"full": [0.5, 0.5], "uniform": [0.4, 0.4], "layerlens": [0.5, 0.5]})
    runs += [run("full", seed, score, task="b") for seed, score in enumerate(full)]
    found = {arm.arm: arm for arm in overall([cell_of(task, runs) for task in "abc"], runs, ARMS)}
    assert [found[arm].cells for arm in ARMS] == [2, 2, 2]
    against = found["layerlens"].against("uniform")
    assert against is not None
    assert (against.seeds, against.difference) == ([0, 1], pytest.approx((0.0 + (0.5 - 0.4) / 0.5) / 2))


def test_one_cell_has_nothing_over_all() -> None:
    runs = runs_of("a", {arm: [0.5, 0.6] for arm in ARMS})
    assert overall([cell_of("a", runs)], runs, ARMS) == []
