"""What is claimed: nothing that the intervals do not show."""

from __future__ import annotations

from layerlens.artifacts.bench import Bench, Cell, Finding, PlanFacts, RateChoice
from layerlens.benching.findings import findings_of
from layerlens.benching.summary import overall, summarise_arms
from tests.unit.benching.suites import bench, run

SEEDS = range(5)
NOISE = (0.0, 0.01, -0.01, 0.02, -0.02)


def results(means: dict[str, float], *, wiggle: dict[str, float] | None = None, **changes: object) -> Bench:
    """A suite of one cell whose arms have these means; an arm's own noise is `wiggle` times another one's."""
    runs = [
        run(arm, seed, mean + NOISE[seed] + (wiggle or {}).get(arm, 0.0) * NOISE[(2 * seed + 1) % 5])
        for arm, mean in means.items()
        for seed in SEEDS
    ]
    cell = Cell(
        model="tiny", task="docs", metric="accuracy", is_lower_better=False, eval_samples=10, steps=4, params_limit=5,
        arms=summarise_arms(runs, list(means), "accuracy"), **changes,
    )  # fmt: skip
    return bench(cells=[cell], runs=runs, arms=list(means))


def about(found: list[Finding], words: str) -> Finding:
    (only,) = [one for one in found if words in one.text]
    return only


def test_a_difference_within_noise_is_no_difference_and_uniform_did_as_well() -> None:
    found = about(findings_of(results({"uniform": 0.70, "layerlens": 0.701}, wiggle={"layerlens": 1.0})), "uniform LoRA")
    assert "No difference shown" in found.text
    assert "Uniform did as well, as far as these seeds can tell." in found.text
    assert "includes zero" in found.text
    assert found.tone == "caution"


def test_a_clear_difference_is_claimed_in_its_own_direction() -> None:
    better = about(findings_of(results({"uniform": 0.60, "layerlens": 0.70}, wiggle={"layerlens": 0.1})), "uniform LoRA")
    assert "LayerLens is better than" in better.text
    assert "excludes zero" in better.text
    assert better.tone == "good"
    worse = about(findings_of(results({"uniform": 0.70, "layerlens": 0.60}, wiggle={"layerlens": 0.1})), "uniform LoRA")
    assert "LayerLens is worse than" in worse.text
    assert worse.tone == "bad"


def test_what_a_time_budget_costs_is_told_beside_uniform() -> None:
    means = {"uniform": 0.70, "layerlens": 0.70, "layerlens-time": 0.60}
    found = about(findings_of(results(means, wiggle={"layerlens-time": 0.1})), "With a time budget")
    assert "0.6000 in 100% of the time of uniform LoRA, which has 0.7000: worse" in found.text
    assert "excludes zero" in found.text
    assert found.tone == "bad"


def test_another_arm_with_the_best_mean_is_named() -> None:
    found = findings_of(results({"uniform": 0.60, "layerlens": 0.70, "mlp": 0.80}, wiggle={"mlp": 0.1}))
    best = about(found, "The best mean is mlp's")
    assert best.tone == "bad"
    assert "excludes zero" in best.text


def test_an_equal_mean_is_no_better_one() -> None:
    found = findings_of(results({"mlp": 0.80, "uniform": 0.60, "layerlens": 0.80}, wiggle={"mlp": 0.1}))
    assert not any("The best mean" in one.text for one in found)


def test_a_variant_that_trained_layerlens_s_own_plan_is_said_to_tell_nothing() -> None:
    same = [
        PlanFacts(arm=arm, seed=seed, chosen="mlp", params=5, is_blind=True, is_as_layerlens=is_same)
        for seed, both in enumerate([(True, True), (True, False)])
        for arm, is_same in zip(("no-debias", "no-whitening"), both, strict=True)
    ]
    found = findings_of(results({"uniform": 0.6, "layerlens": 0.7}, plans=same))
    told = about(found, "the very plan that LayerLens did")
    assert told.text.startswith("no-debias trained ")
    assert told.tone == "caution"


def test_without_uniform_nothing_says_that_planning_was_worth_it() -> None:
    found = findings_of(results({"full": 0.6, "layerlens": 0.7}, wiggle={"layerlens": 0.1}))
    assert "Uniform LoRA was not measured" in about(found, "worth it").text


def test_a_plan_that_is_uniform_itself_is_said_to_be() -> None:
    plan = PlanFacts(arm="layerlens", seed=None, chosen="uniform", params=5, is_blind=True)
    found = findings_of(results({"uniform": 0.7, "layerlens": 0.7}, plans=[plan]))
    assert "uniform itself" in about(found, "uniform LoRA").text
    short = plan.model_copy(update={"is_cut_short": True})
    found = findings_of(results({"uniform": 0.7, "layerlens": 0.7}, plans=[short]))
    assert "uniform itself" not in about(found, "uniform LoRA").text


def test_a_rate_at_the_edge_of_its_grid_is_a_caution() -> None:
    rate = RateChoice(arm="uniform", rate=1e-2, seed=0, tuned_on="uniform", is_at_edge=True)
    found = findings_of(results({"uniform": 0.7, "layerlens": 0.7}, rates=[rate]))
    assert about(found, "edge of its grid").tone == "caution"


def test_runs_that_died_are_told() -> None:
    told = findings_of(bench(runs=[run("uniform", 0, 0.5), run("uniform", 1, None)]))[-1]
    assert "1 of 2" in told.text
    assert "uniform of tiny on docs, seed 1" in told.text
    assert told.tone == "bad"


def test_all_cells_together_come_first() -> None:
    parts = [results({"full": 0.8, "uniform": 0.6, "layerlens": 0.7}, wiggle={"layerlens": 0.1}) for _ in range(2)]
    runs = [one.model_copy(update={"task": f"t{number}"}) for number, part in enumerate(parts) for one in part.runs]
    cells = [part.cells[0].model_copy(update={"task": f"t{number}"}) for number, part in enumerate(parts)]
    arms = ["full", "uniform", "layerlens"]
    found = findings_of(bench(cells=cells, runs=runs, overall=overall(cells, runs, arms)))
    assert "keeps 87.5% of full fine-tuning's score in the mean over 2 cells" in found[0].text
    assert "better than uniform, +12.50% of full's score" in found[1].text


def test_seeds_that_all_differ_by_the_same_amount_are_not_called_one_seed() -> None:
    found = about(findings_of(results({"uniform": 0.60, "layerlens": 0.70})), "uniform LoRA")
    assert "5 seeds that all differ by the same amount cannot tell" in found.text
    assert found.tone == "caution"


def test_a_score_that_is_better_low_is_told_as_the_multiple_that_it_is() -> None:
    runs = [
        run(arm, seed, 0.5, metrics={"perplexity": value + (seed if arm == "full" else -seed), "loss": 1.0})
        for arm, value in (("full", 80.0), ("layerlens", 90.0))
        for seed in (0, 1)
    ]
    cell = Cell(
        model="tiny", task="docs", metric="perplexity", is_lower_better=True, eval_samples=10, steps=4, params_limit=5,
        arms=summarise_arms(runs, ["full", "layerlens"], "perplexity"),
    )  # fmt: skip
    found = about(findings_of(bench(cells=[cell], runs=runs, arms=["full", "layerlens"])), "full fine-tuning")
    assert "perplexity 89.50 against 80.50, 111.2% of it, lower is better, with 0 parameters" in found.text
