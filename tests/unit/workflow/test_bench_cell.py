"""What each stage of a cell runs, and what it takes from the records of the stages before it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan, candidates_folder, save_plan
from layerlens.artifacts.store import write_json
from layerlens.benching.cells import cells_of
from layerlens.benching.job import DONE_FILE, Done, JobKind, record_folder
from layerlens.budget.run import make_plan
from layerlens.config import OptimizationConfig
from layerlens.errors import ManifestError
from layerlens.workflow import bench_cell
from layerlens.workflow.bench_cell import BenchCell
from tests.unit.benching.suites import suite
from tests.unit.budget.small_models import small

GRID = [1e-4, 1e-3, 1e-2]


def cell_of(root: Path, **changes: Any) -> BenchCell:
    """A cell whose plans lie there; none of them is ever read."""
    asked = suite(**({"learning_rates": {"full": [1e-4], "adapter": GRID}} | changes))
    (place,) = cells_of(asked)
    cell = BenchCell(asked, place, "model", root)
    for path in (cell.plan_path("layerlens"), *(cell.raced_path("layerlens", seed) for seed in cell.race_seeds)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return cell


@cache
def small_plans() -> tuple[Plan, dict[str, Plan]]:
    """The plan of a small model, and its candidates."""
    made, options = small(), OptimizationConfig(max_trainable_params=3000)
    return make_plan(made.profile, made.arrays, made.timing, options, profile_path="p", command="c")


def finish(cell: BenchCell, scores: list[tuple[float, float] | None]) -> None:
    """Write the records of uniform's trials: metric and loss of each rate, None where it diverged."""
    for job, found in zip(cell.base_rate_jobs(), scores, strict=True):
        arm = None
        if found is not None:
            metrics = {"accuracy": found[0], "perplexity": found[0], "loss": found[1]}
            arm = Arm(name="uniform", metrics=metrics, trainable_params=1, train_seconds=1.0, peak_memory_bytes=1, seed=0)
        metric = cell.place.task.metric or "accuracy"
        done = Done(job=job, seconds=1.0, arm=arm, metric=metric, has_diverged=arm is None)
        write_json(record_folder(cell.root, job) / DONE_FILE, done)


def test_the_best_metric_wins_and_the_loss_decides_between_equals(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    finish(cell, [(0.8, 0.5), (0.9, 0.4), (0.9, 0.3)])
    found = cell.rate("uniform")
    assert found is not None
    assert (found.rate, found.is_at_edge, found.seed) == (1e-2, True, 0)
    assert [trial.rate for trial in found.trials] == GRID


def test_a_lower_perplexity_is_the_better_one(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, tasks={"docs": {"data": "x", "metric": "perplexity"}})
    finish(cell, [(9.0, 0.5), (7.0, 0.6), (8.0, 0.4)])
    found = cell.rate("uniform")
    assert found is not None
    assert (found.rate, found.is_at_edge) == (1e-3, False)


def test_rates_can_be_selected_by_loss(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, learning_rates={"adapter": GRID, "select_by": "loss"})
    finish(cell, [(0.9, 0.5), (0.8, 0.3), (0.7, 0.4)])
    found = cell.rate("uniform")
    assert found is not None
    assert found.rate == 1e-3


def test_a_rate_that_diverged_is_out_and_all_of_them_leave_none(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    finish(cell, [(0.5, 0.5), (0.4, 0.5), None])
    found = cell.rate("uniform")
    assert found is not None
    assert (found.rate, found.trials[2].metrics) == (1e-4, {})
    finish(cell, [None, None, None])
    assert cell.rate("uniform") is None
    reasons = {why for arm, _, _, why in cell.run_jobs() if arm == "uniform"}
    assert reasons == {"no learning rate: training diverged at every rate of its grid"}


def test_no_rate_is_chosen_while_a_trial_is_missing_and_its_death_is_the_reason(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    finish(cell, [(0.5, 0.5), (0.4, 0.5), (0.3, 0.5)])
    died = cell.base_rate_jobs()[1]
    (record_folder(cell.root, died) / DONE_FILE).unlink()
    cell.failures[died.name] = "killed by signal 9"
    assert cell.rate("uniform") is None
    told = {(arm, seed): why for arm, seed, job, why in cell.run_jobs() if job is None}
    assert told["uniform", 0] == told["uniform", 1] == "no learning rate: killed by signal 9"
    # Full fine-tuning has one rate, so nothing was to be tuned for it.
    assert ("full", 0) not in told


def test_the_head_and_full_fine_tuning_wait_for_no_race(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, arms=["full", "layerlens"])
    finish(cell, [(0.5, 0.5), (0.4, 0.5), (0.3, 0.5)])
    cell.failures[cell.race_job("layerlens", None, 1e-4).name] = "killed by signal 9"
    assert {arm for arm, _, job, _ in cell.run_jobs() if job is None} == {"layerlens"}


def test_without_an_arm_that_a_race_matters_to_none_is_run(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, arms=["full", "uniform"])
    assert (cell.raced, cell.base_rate_jobs(), cell.race_jobs()) == ([], [], [])
    assert [job.arm for job in cell.rate_jobs()] == ["uniform"] * 3


def test_the_race_takes_the_rate_of_uniform_and_its_seeds_are_one_or_all(tmp_path: Path) -> None:
    for number, (each, seeds) in enumerate(((False, [None]), (True, [0, 1]))):
        cell = cell_of(tmp_path / str(number), race_each_seed=each)
        assert cell.race_jobs() == []
        finish(cell, [(0.5, 0.5), (0.9, 0.5), (0.3, 0.5)])
        jobs = cell.race_jobs()
        assert [cell.root / job.out for job in jobs] == [cell.raced_path("layerlens", seed).parent for seed in seeds]
        assert [job.config.get("learning_rate", 1e-3) for job in jobs] == [1e-3] * len(seeds)


def test_a_plan_that_ends_as_uniform_takes_its_rate_and_another_is_tuned(tmp_path: Path) -> None:
    optimum, candidates = small_plans()
    cell = cell_of(tmp_path, arms=["layerlens", "query+value"])
    finish(cell, [(0.5, 0.5), (0.9, 0.5), (0.3, 0.5)])
    save_plan(candidates_folder(cell.plan_path("layerlens")) / "uniform.json", candidates["uniform"])

    save_plan(cell.raced_path("layerlens", None), optimum)
    assert [job.arm for job in cell.rate_jobs()] == ["layerlens"] * 3 + ["query+value"] * 3
    assert cell.rate("layerlens") is None

    save_plan(cell.raced_path("layerlens", None), candidates["uniform"])
    assert [job.arm for job in cell.rate_jobs()] == ["query+value"] * 3
    found = cell.rate("layerlens")
    assert found is not None
    assert (found.rate, found.tuned_on) == (1e-3, "uniform")


def test_ablations_of_the_profile_get_a_profile_of_their_own(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, arms=["layerlens", "layerlens-time", "no-depth-cut", "no-debias"])
    jobs = {job.name: job for job in cell.profile_jobs()}
    assert set(jobs) == {"tiny@docs/profile", "tiny@docs/profile-no-debias"}
    assert jobs["tiny@docs/profile-no-debias"].config["debias"] is False
    assert "debias" not in jobs["tiny@docs/profile"].config


def test_without_depth_cuts_only_plans_that_reach_the_lowest_block_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = {name: SimpleNamespace(depth_cut=cut) for name, cut in (("uniform", 0), ("mlp@2", 2), ("mlp", 0), ("top", 1))}
    monkeypatch.setattr(bench_cell, "load_candidates", lambda path: candidates)
    cell = cell_of(tmp_path)
    assert cell.race_job("no-depth-cut", None, 1e-3).config["only"] == ["uniform", "mlp"]
    assert "only" not in cell.race_job("layerlens", None, 1e-3).config
    cell = cell_of(tmp_path, race={"only": ["uniform", "mlp@2", "attention"]})
    assert cell.race_job("no-depth-cut", None, 1e-3).config["only"] == ["uniform"]
    # What a variant's plan does not have cannot race; of LayerLens itself a name that is not there is a fault.
    assert cell.race_job("layerlens-time", None, 1e-3).config["only"] == ["uniform", "mlp@2"]
    assert cell.race_job("layerlens", None, 1e-3).config["only"] == ["uniform", "mlp@2", "attention"]


def test_without_depth_cuts_nothing_races_where_no_plan_over_the_whole_depth_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_cell, "load_candidates", lambda path: {"uniform": SimpleNamespace(depth_cut=2)})
    cell = cell_of(tmp_path, arms=["layerlens", "no-depth-cut"])
    finish(cell, [(0.5, 1.0)] * len(GRID))
    assert {job.out.split("/")[-1].partition("-seed")[0] for job in cell.race_jobs()} == {"layerlens"}
    why = {why for arm, _, job, why in cell.run_jobs() if arm == "no-depth-cut" and job is None}
    assert why == {"no plan over the whole depth keeps the budgets"}


def test_a_trial_is_a_run_at_another_rate_scored_on_other_samples(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    finish(cell, [(0.5, 0.5), (0.9, 0.5), (0.3, 0.5)])
    trial = next(job for job in cell.base_rate_jobs() if job.out.endswith("-0.01"))
    ours = next(job for arm, seed, job, _ in cell.run_jobs() if (arm, seed) == ("uniform", 0))
    assert ours is not None
    assert (trial.kind, ours.kind) == (JobKind.RATE, JobKind.RUN)
    same = trial.config.keys() - {"learning_rate", "max_eval_samples"}
    assert {key: trial.config[key] for key in same} == {key: ours.config[key] for key in same}
    assert ours.config.get("learning_rate", 1e-3) == 1e-3
    assert trial.config["learning_rate"] == 1e-2


def test_a_dead_profile_ends_the_whole_cell(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    cell.failures[cell.profile_job("layerlens").name] = "no such file"
    cell.make_plans()
    assert cell.is_everything_over
    assert (cell.base_rate_jobs(), cell.race_jobs(), cell.rate_jobs()) == ([], [], [])
    assert {why for _, _, _, why in cell.run_jobs()} == {"no plan: no such file"}


def test_a_search_is_told_what_its_trials_share_with_the_race_and_no_other_job_is(tmp_path: Path) -> None:
    arms = ["full", "uniform", "search", "search-10x", "layerlens"]
    race = {"share": 1.0, "min_steps": 30, "held_out_samples": 128}
    rates = {"full": [1e-4], "adapter": [1e-3]}
    cell = cell_of(tmp_path / "own", arms=arms, race=race, learning_rates=rates)
    shared = {"min_steps": 30, "held_out_samples": 128}
    found = {job.arm: job.race for _, _, job, _ in cell.run_jobs() if job is not None}
    assert found == dict.fromkeys(arms) | {"search": shared, "search-10x": shared}
    raced = cell.race_job("layerlens", None, 1e-3).config
    assert {name: raced[name] for name in shared} == shared
    # Where a race is as races are by default there is nothing to tell, and the record is what it was.
    usual = cell_of(tmp_path / "usual", arms=arms, race={"min_steps": 20}, learning_rates=rates)
    assert {job.race for _, _, job, _ in usual.run_jobs() if job is not None} == {None}


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """The plans that are asked for, and whether nothing is to be written; the planner cannot plan for a time budget."""
    asked: list[tuple[Path, bool]] = []

    def plan(profile: Path, out: Path, config: object, *, command: str, dry_run: bool = False) -> None:
        asked.append((out, dry_run))
        if "layerlens-time" in out.name:
            raise RuntimeError("the solver\nfell over")
        if not dry_run:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("{}", encoding="utf-8")

    monkeypatch.setattr(bench_cell, "plan", plan)
    monkeypatch.setattr(bench_cell, "load_plan", lambda path: small_plans()[0])
    monkeypatch.setattr(bench_cell, "load_candidates", lambda path: {})
    monkeypatch.setattr(
        bench_cell, "load_profile", lambda folder: (SimpleNamespace(model=SimpleNamespace(num_parameters=1000)), {}, None)
    )
    return asked


def test_a_planner_that_falls_over_is_the_end_of_its_own_variant_alone(tmp_path: Path, planned: list[tuple[Path, bool]]) -> None:
    budget = {"max_trainable_params": 1000, "max_time_ratio": 0.5}
    cell = cell_of(tmp_path, arms=["layerlens", "layerlens-time", "no-debias"], budget=budget)
    cell.make_plans()
    assert [path for path, _ in planned] == [cell.plan_path(name) for name in ("layerlens", "layerlens-time", "no-debias")]
    assert cell.failures == {"plan:tiny@docs/plans/layerlens-time.json": "no plan: RuntimeError: the solver fell over"}
    assert not cell.is_everything_over
    assert cell.plan_seconds("layerlens-time") is None


def test_a_variant_whose_candidates_are_gone_ends_alone(
    tmp_path: Path, planned: list[tuple[Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(tmp_path, arms=["layerlens", "no-debias"])
    gone = cell.plan_path("no-debias")

    def load(path: Path) -> dict[str, object]:
        if path == gone:
            raise ManifestError("the candidates are missing; make them again")
        return {}

    monkeypatch.setattr(bench_cell, "load_candidates", load)
    cell.make_plans()
    assert cell.failures == {"plan:tiny@docs/plans/no-debias.json": "no plan: the candidates are missing; make them again"}


def test_an_arm_with_nothing_to_train_is_told_without_a_trial(
    tmp_path: Path, planned: list[tuple[Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    headless = small_plans()[0].model_copy(update={"head": [], "head_params": 0})
    monkeypatch.setattr(bench_cell, "load_plan", lambda path: headless)
    rates = {"full": [1e-4], "head": GRID, "adapter": [1e-3]}
    cell = cell_of(tmp_path, arms=["full", "head", "uniform"], learning_rates=rates)
    cell.make_plans()
    assert planned
    assert cell.failures == {}
    assert cell.rate_jobs() == []
    told = {arm: why for arm, _, job, why in cell.run_jobs() if job is None}
    assert told == {"head": f"a plan for {headless.task.kind} trains no head, so nothing would be trained; leave head out"}


def test_a_plan_that_lies_there_without_its_seconds_is_timed_and_stays(tmp_path: Path, planned: list[tuple[Path, bool]]) -> None:
    cell = cell_of(tmp_path, arms=["layerlens", "no-debias"])
    # LayerLens's plan was left by a call that was killed before it wrote the seconds; the variant's was never made.
    cell.make_plans()
    assert planned == [(cell.plan_path("layerlens"), True), (cell.plan_path("no-debias"), False)]
    assert all((cell.plan_seconds(name) or 0.0) > 0.0 for name in ("layerlens", "no-debias"))
    cell.make_plans()
    assert len(planned) == 2, "what is there with its seconds is kept"
