"""A search that costs what it may, keeps what it measured, and trains what was best."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from layerlens.adapting.arms import search
from layerlens.adapting.arms.job import ArmJob
from layerlens.adapting.arms.ranks import with_ranks
from layerlens.adapting.arms.search import STATE_FILE, budget_steps, option, trial_steps
from layerlens.adapting.runner import Runner
from layerlens.artifacts.plan import Plan, Race
from layerlens.config import RaceConfig
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError, DataError, NotFiniteError
from layerlens.words import ROLE_SETS, Role
from tests.unit.adapting.arms.settings import QUICK, Setting, made

pytest.importorskip("optuna", reason="the extra `search` is not installed")
CONFIG = QUICK.model_copy(update={"max_steps": 4})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return made(tmp_path_factory.mktemp("search"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, int], int]]:
    """Ranks and steps of every run that really trains; what it gives is made up, and least for the fewest layers."""
    runs: list[tuple[dict[str, int], int]] = []

    def counted(self: Runner, plan: Plan, steps: int, seed: int) -> np.ndarray:
        runs.append((plan.ranks, steps))
        return np.full(len(self.held_out), float(len(plan.ranks)))

    monkeypatch.setattr(Runner, "_train_and_score", counted)
    return runs


def raced(plan: Plan, *, share: float, tuning_steps: int) -> Plan:
    race = Race(
        candidates=[],
        winner="x",
        margin=None,
        interval=None,
        share_of_tuning=share,
        verdict="",
        details={"tuning_steps": tuning_steps},
    )
    return plan.model_copy(update={"race": race})


@pytest.mark.parametrize("budget", [1, 2, 7, 100])
@pytest.mark.parametrize("name", ["search", "search-10x"])
def test_it_never_costs_more_than_it_may(
    name: str, budget: int, setting: Setting, trained: list[tuple[dict[str, int], int]]
) -> None:
    arm = setting.run(name, f"{name}-{budget}", config=CONFIG, search_steps=budget)
    allowed = budget * (10 if name == "search-10x" else 1)
    assert arm.details["steps_allowed"] == allowed
    assert 0 < arm.details["steps_spent"] == sum(steps for _, steps in trained) <= allowed
    assert all(steps <= CONFIG.max_steps for _, steps in trained)
    assert len({tuple(sorted(ranks.items())) for ranks, _ in trained}) == len(trained), "nothing is measured twice"
    if allowed > 1:
        assert len(trained) > 1


def test_what_measured_best_is_trained_and_told(setting: Setting, trained: list[tuple[dict[str, int], int]]) -> None:
    arm = setting.run("search", "best", config=CONFIG, search_steps=40)
    losses = arm.details["held_out_loss"]
    fewest = min(len(ranks) for ranks, _ in trained)
    assert losses[arm.details["chosen"]] == fewest
    assert arm.trainable_params == setting.plan.params


def test_proposals_follow_what_was_measured(
    setting: Setting, trained: list[tuple[dict[str, int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def seen(plan: Plan, role_set: str, cut: int, rank: int) -> tuple[str, Plan] | None:
        found = option(plan, role_set, cut, rank)
        sizes.append(len(found[1].ranks) if found else 0)
        return found

    monkeypatch.setattr(search, "option", seen)
    # Fewer layers always score better here, so a search that learns ends among them.
    setting.run("search-10x", "learns", config=CONFIG, search_steps=16)
    assert len(sizes) >= 40
    assert np.mean(sizes[-20:]) < np.mean(sizes[:10])
    assert sizes[-20:].count(2) > 10


def test_a_search_that_was_stopped_goes_on_and_finds_the_same(
    setting: Setting, trained: list[tuple[dict[str, int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = setting.run("search", "whole", config=CONFIG, search_steps=24)
    runs, trained[:] = list(trained), []
    counted = Runner._train_and_score

    def stops(self: Runner, plan: Plan, steps: int, seed: int) -> np.ndarray | None:
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(self, plan, steps, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_train_and_score", stops)
        with pytest.raises(KeyboardInterrupt):
            setting.run("search", "stopped", config=CONFIG, search_steps=24)
    assert setting.run("search", "stopped", config=CONFIG, search_steps=24) == whole.model_copy(
        update={"train_seconds": ANY, "peak_memory_bytes": ANY}
    )
    assert trained == runs, "three before the stop, the others after it, none twice"
    trained.clear()
    setting.run("search", "stopped", config=CONFIG, search_steps=24)
    assert trained == []
    assert (setting.folder / "stopped" / STATE_FILE).exists()


class _Any:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


ANY = _Any()


def test_it_costs_what_the_race_did_or_would(setting: Setting) -> None:
    config = QUICK.model_copy(update={"max_steps": 300})
    assert budget_steps(setting.job("search", "x", config=config)) == 30
    assert budget_steps(setting.job("search", "x", config=config, search_steps=7)) == 7
    plan = raced(setting.plan, share=0.25, tuning_steps=200)
    assert budget_steps(setting.job("search", "x", config=config, plan=plan)) == 50
    assert budget_steps(setting.job("search-10x", "x", config=config, plan=plan)) == 500
    uncontested = raced(setting.plan, share=0.0, tuning_steps=200)
    assert budget_steps(setting.job("search", "x", config=config, plan=uncontested)) == 30


@pytest.mark.parametrize(("budget", "expected"), [(1, 1), (2, 1), (30, 15), (100, 20), (240, 20), (960, 40), (10**6, 500)])
def test_trials_are_as_long_as_a_race_is_at_least_and_two_always_fit(budget: int, expected: int) -> None:
    assert trial_steps(budget, shortest=20, longest=500, most_trials=24) == expected


@pytest.mark.parametrize("role_set", ROLE_SETS)
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("rank", [1, 3, 30])
def test_an_option_keeps_to_its_roles_and_depth_at_the_plans_parameters(
    role_set: str, cut: int, rank: int, setting: Setting
) -> None:
    found = option(setting.plan, role_set, cut, rank)
    assert found is not None
    name, plan = found
    assert name.startswith(f"{role_set}@{cut}")
    entries = {entry.layer: entry for entry in plan.adapted}
    assert all((entry.block or 0) >= cut for entry in entries.values())
    roles = ROLE_SETS[role_set] or set(Role)
    assert all(entry.role in roles for entry in entries.values())
    assert setting.plan.params - max(entry.in_features + entry.out_features for entry in entries.values()) < plan.params
    assert plan.params <= setting.plan.params
    if rank == 3 and role_set == "all" and cut == 0:
        assert max(plan.ranks.values()) >= 3
        assert len(plan.ranks) < len(setting.plan.layers)


def test_layers_that_cannot_hold_the_parameters_are_no_option(setting: Setting) -> None:
    bigger = setting.plan.model_copy(
        update={
            "layers": [*setting.plan.layers, setting.plan.layers[0].model_copy(update={"site": "sublayer", "params": 50_000})]
        }
    )
    assert option(bigger, "query+value", 1, 1) is None


def test_a_budget_below_one_rank_of_the_layers_is_no_option(setting: Setting) -> None:
    # Tiny BERT's attention layers take 64 parameters a rank, its MLP's more.
    poor = with_ranks(setting.plan, {setting.plan.layers[0].layer: 1})
    assert poor.params == 64
    assert option(poor, "mlp", 0, 1) is None
    assert option(poor, "attention", 0, 1) is not None
    assert option(with_ranks(setting.plan, {}), "attention", 0, 1) is None


def test_a_search_goes_on_past_layers_that_are_too_large_and_says_where_all_are(
    setting: Setting, trained: list[tuple[dict[str, int], int]]
) -> None:
    poor = with_ranks(setting.plan, {setting.plan.layers[0].layer: 1})
    arm = setting.run("search", "poor", config=CONFIG, plan=poor, search_steps=8)
    assert arm.trainable_params == 64
    with pytest.raises(ConfigError, match="no proposed layers can hold the plan's 0 parameters"):
        setting.run("search", "none left", config=CONFIG, plan=with_ranks(setting.plan, {}), search_steps=8)


def test_trials_are_as_long_and_as_well_measured_as_the_race_that_they_are_compared_with(
    tmp_path: Path, trained: list[tuple[dict[str, int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, config = made(tmp_path, num=160), QUICK.model_copy(update={"max_steps": 12})
    scored: list[int] = []
    begun = Runner.__init__

    def seen(self: Runner, *args: object, **options: object) -> None:
        begun(self, *args, **options)  # type: ignore[arg-type]
        scored.append(len(self.held_out))

    monkeypatch.setattr(Runner, "__init__", seen)
    race = RaceConfig(min_steps=3, held_out_samples=8)
    assert setting.run("search", "as raced", config=config, search_steps=24, race=race).details["steps_per_trial"] == 3
    assert {steps for _, steps in trained} == {3}
    assert scored == [8]
    assert 8 < len(setting.part.race) < RaceConfig().held_out_samples
    # A race by default has a final of 20 steps, more than a run of this arm takes.
    assert setting.run("search", "by default", config=config, search_steps=24).details["steps_per_trial"] == 12
    assert scored[1:] == [len(setting.part.race)]


def test_nothing_that_trials_kept_in_memory_is_there_in_the_final_training(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves: list[weakref.ref[object]] = []
    left: list[object] = []
    begun, final = Runner.__init__, ArmJob.run_plan

    def seen(self: Runner, *args: object, **options: object) -> None:
        begun(self, *args, **options)  # type: ignore[arg-type]
        shelves.append(weakref.ref(self.shelf))

    def looked(self: ArmJob, *args: object) -> object:
        left.extend(shelf() for shelf in shelves)
        return final(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "__init__", seen)
    monkeypatch.setattr(ArmJob, "run_plan", looked)
    setting.run("search", "lets go", config=CONFIG, search_steps=8)
    assert left == [None]


def test_what_stops_a_search_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Setting(
        setting.task_model, setting.data, Partition(setting.part.train, (), setting.part.test), setting.plan, setting.folder
    )
    with pytest.raises(DataError, match="needs training and held-out samples, got 42 and 0"):
        empty.run("search", "empty", config=CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(search, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"needs optuna; install it with: pip install \"layerlens-plan\[search\]\""):
            setting.run("search", "none", config=CONFIG)

    def diverges(self: Runner, plan: Plan, steps: int, seed: int) -> Sequence[float] | None:
        return None

    monkeypatch.setattr(Runner, "_train_and_score", diverges)
    with pytest.raises(NotFiniteError, match="every trial diverged with learning rate"):
        setting.run("search", "diverged", config=CONFIG, search_steps=8)
