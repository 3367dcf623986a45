"""Real races of tiny models: the better plan wins, nothing leaks, a killed race ends with the same bytes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layerlens.adapting import batch_identity
from layerlens.adapting.race import race
from layerlens.adapting.race_state import RaceState
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.store import read_json
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError, DataError, ManifestError, NotFiniteError
from layerlens.models.load import TaskModel
from layerlens.words import Method
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import make_plan, tiny_task_model
from tests.unit.adapting.races import KIND, QUICK, Parts, Watcher, made_parts, pair


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return made_parts(tmp_path / "model")


@pytest.fixture
def task_model(parts: Parts) -> TaskModel:
    return parts.task_model


@pytest.fixture
def data(parts: Parts) -> LoadedData:
    return parts.data


@pytest.fixture
def part(parts: Parts) -> Partition:
    return parts.part


@pytest.fixture
def candidates(parts: Parts) -> dict[str, Plan]:
    return parts.candidates


def test_a_plan_on_useless_layers_loses_even_as_uniform(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    config = QUICK.model_copy(update={"min_steps": 50, "tuning_steps": 60, "held_out_samples": 40, "batch_size": 16})
    before = {name: tensor.clone() for name, tensor in task_model.model.state_dict().items()}
    # A label that no class has: a race that looked at the final evaluation's samples would fail.
    poisoned = [{**example, "labels": 99} if number in part.test else example for number, example in enumerate(data.examples)]
    raced = race(
        candidates["uniform"],
        pair(candidates, "uniform", "all"),
        task_model,
        replace(data, examples=poisoned),
        part,
        config,
        state_path=None,
    )
    evidence = raced.race
    assert evidence is not None
    assert (evidence.winner, raced.chosen.name, raced.ranks) == ("all", "all", candidates["all"].ranks)
    assert evidence.margin is not None
    assert evidence.interval is not None
    assert 0 < evidence.interval[0] < evidence.margin < evidence.interval[1]
    assert not evidence.is_blind
    assert evidence.share_of_tuning == pytest.approx(2 * 2 * 50 / 60)
    assert [(entry.name, entry.steps, entry.seeds) for entry in evidence.candidates] == [
        ("all", 50, [0, 1]),
        ("uniform", 50, [0, 1]),
    ]
    assert evidence.candidates[1].held_out_loss - evidence.candidates[0].held_out_loss == pytest.approx(evidence.margin)
    for name, tensor in task_model.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_killed_race_ends_with_the_same_bytes(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan], tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"min_steps": 4, "tuning_steps": 200, "share": 0.2, "fit_head": True})
    whole = race(candidates["all"], candidates, task_model, data, part, config, state_path=None)
    state = tmp_path / "state.json"
    for stop_after in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            race(candidates["all"], candidates, task_model, data, part, config, state_path=state, progress=Watcher(stop_after))
    stopped_with = read_json(state, RaceState)
    assert [(run.candidate, run.steps) for run in stopped_with.runs] == [("uniform", 3), ("low", 3), ("mlp", 3)]
    watcher = Watcher()
    resumed = race(candidates["all"], candidates, task_model, data, part, config, state_path=state, progress=watcher)
    assert resumed.model_dump_json() == whole.model_dump_json()
    assert any("3 runs of this race are read" in note for note in watcher.notes)
    assert read_json(state, RaceState).runs[:3] == stopped_with.runs


def test_a_head_that_was_fitted_before_in_this_process_changes_nothing(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    config = QUICK.model_copy(update={"fit_head": True})
    runners = pair(candidates, "uniform", "all")
    other = replace(task_model, model=copy.deepcopy(task_model.model))
    found = []
    for one in (task_model, task_model, other):
        found.append(race(candidates["all"], runners, one, data, part, config, state_path=None).model_dump_json())
        with torch.no_grad():
            for touched in (task_model, other):
                touched.model.get_submodule("classifier").weight.add_(1.0)
    assert found[0] == found[1] == found[2]


def test_a_stopped_race_is_not_gone_on_with_under_other_options(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan], tmp_path: Path
) -> None:
    state, runners = tmp_path / "state.json", pair(candidates, "uniform", "all")
    race(candidates["all"], runners, task_model, data, part, QUICK, state_path=state)
    written, first = state.read_bytes(), read_json(state, RaceState)
    other = QUICK.model_copy(update={"learning_rate": 2e-2})
    with pytest.raises(ConfigError, match=r"state.json holds 4 runs .* \(config.learning_rate was 0.01, now 0.02\)"):
        race(candidates["all"], runners, task_model, data, part, other, state_path=state)
    assert state.read_bytes() == written
    watcher = Watcher()
    race(candidates["all"], runners, task_model, data, part, other, state_path=state, may_start_anew=True, progress=watcher)
    assert any("put aside as state.json.old" in note for note in watcher.notes)
    assert (tmp_path / "state.json.old").read_bytes() == written
    assert read_json(state, RaceState).fingerprint != first.fingerprint
    state.write_text("{ half a")
    race(candidates["all"], runners, task_model, data, part, QUICK, state_path=state)
    assert read_json(state, RaceState).runs == first.runs


def test_a_race_that_was_stopped_while_batches_were_padded_otherwise_is_another_race(
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    candidates: dict[str, Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runners, state = pair(candidates, "uniform", "all"), tmp_path / "state.json"
    race(candidates["all"], runners, task_model, data, part, QUICK, state_path=state)
    monkeypatch.setattr(batch_identity, "TOKENS", 8)
    with pytest.raises(ConfigError, match=r"tokens_padded_to was 16, now 8"):
        race(candidates["all"], runners, task_model, data, part, QUICK, state_path=state)


def test_a_blind_race_says_so_and_believes_the_prior(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    config = QUICK.model_copy(update={"learning_rate": 1e-7})
    raced = race(candidates["mlp"], candidates, task_model, data, part, config, state_path=None)
    assert raced.race is not None
    assert raced.race.is_blind
    assert raced.race.winner == "low"
    assert raced.race.verdict.startswith("blind")
    assert raced.race.share_of_tuning == pytest.approx(4.0)
    assert raced.race.details["unraced"] == ["mlp", "all"]


def test_a_blind_race_runs_on_where_it_may(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    config = QUICK.model_copy(update={"may_extend": True, "tuning_steps": 12, "share": 0.1, "learning_rate": 1e-7})
    runners = pair(candidates, "uniform", "all")
    raced = race(candidates["all"], runners, task_model, data, part, config, state_path=None)
    assert raced.race is not None
    assert [rung["steps"] for rung in raced.race.details["rungs"]] == [3, 6, 12]
    assert raced.race.share_of_tuning == pytest.approx(2 * 2 * (3 + 6 + 12) / 12)
    assert [rung["steps"] for rung in raced.race.candidates[0].rungs] == [3, 6, 12]


def test_a_candidate_that_diverges_leaves_the_race(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    exploding = candidates["all"].model_copy(update={"alpha_over_rank": 1e39})
    watcher = Watcher()
    runners = {"uniform": candidates["uniform"], "exploding": exploding}
    raced = race(candidates["all"], runners, task_model, data, part, QUICK, state_path=None, progress=watcher)
    assert raced.race is not None
    assert raced.race.details["diverged"] == ["exploding"]
    assert [entry.name for entry in raced.race.candidates] == ["uniform"]
    assert any("exploding diverged" in note for note in watcher.notes)
    with pytest.raises(NotFiniteError, match="every candidate diverged"):
        race(exploding, {"one": exploding, "two": exploding}, task_model, data, part, QUICK, state_path=None)


def test_a_blind_race_chooses_no_candidate_that_diverged_nor_runs_it_again(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    exploding = candidates["low"].model_copy(update={"alpha_over_rank": 1e39})
    runners = {"low": exploding, **pair(candidates, "uniform", "all")}
    config = QUICK.model_copy(update={"learning_rate": 1e-7, "share": 1.5, "may_extend": True, "tuning_steps": 12})
    watcher = Watcher()
    raced = race(candidates["all"], runners, task_model, data, part, config, state_path=None, progress=watcher)
    assert raced.race is not None
    assert [rung["steps"] for rung in raced.race.details["rungs"]] == [3, 6, 12]
    # The prior would have believed in rank 1 everywhere first.
    assert (raced.race.is_blind, raced.race.winner, raced.race.details["diverged"]) == (True, "all", ["low"])
    assert len([note for note in watcher.notes if "low diverged" in note]) == 1


def test_a_lone_candidate_is_chosen_without_a_step(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    raced = race(candidates["all"], pair(candidates, "all"), task_model, data, part, QUICK, state_path=None)
    assert raced.race is not None
    assert (raced.race.winner, raced.race.candidates, raced.race.share_of_tuning) == ("all", [], 0.0)


def test_a_plan_that_is_uniform_under_another_name_does_not_race_itself(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    uniform = candidates["uniform"]
    same = uniform.model_copy(update={"chosen": uniform.chosen.model_copy(update={"name": "optimum-whitened"})})
    both = {"optimum-whitened": same, "uniform": uniform}
    raced = race(same, both, task_model, data, part, QUICK, state_path=None)
    assert raced.race is not None
    assert (raced.race.winner, raced.race.candidates) == ("uniform", [])


def test_plans_of_every_method_race_beside_each_other(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan], tmp_path: Path
) -> None:
    runners = pair(candidates, "uniform", "all") | {
        "+".join(methods): mixed_plan(task_model, KIND, methods, blocks=(0,), name="+".join(methods))
        for methods in ((Method.ADAPTER,), (Method.PREFIX,), (Method.LORA, Method.ADAPTER, Method.PREFIX))
    }
    state = tmp_path / "race.json"
    roomy = QUICK.model_copy(update={"share": 10.0})
    raced = race(runners["uniform"], runners, task_model, data, part, roomy, state_path=state)
    assert raced.race is not None
    assert {entry.name for entry in raced.race.candidates} == set(runners)
    firsts = {run.candidate: run.losses for run in reversed(read_json(state, RaceState).runs)}
    # Uniform is the same plan as "all" here.
    assert len({tuple(losses or ()) for losses in firsts.values()}) == len(runners) - 1
    assert race(runners["uniform"], runners, task_model, data, part, roomy, state_path=None) == raced


def test_a_race_of_plans_that_differ_in_a_prefix_alone_is_another_race(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan], tmp_path: Path
) -> None:
    state = tmp_path / "race.json"
    one, two = (
        mixed_plan(task_model, KIND, (Method.LORA, Method.PREFIX), blocks=(0,), tokens=tokens, name="mixed") for tokens in (1, 2)
    )
    race(one, {"mixed": one, **pair(candidates, "uniform")}, task_model, data, part, QUICK, state_path=state)
    with pytest.raises(ConfigError, match=r"this race differs \(candidates.mixed was \w+, now \w+\)"):
        race(two, {"mixed": two, **pair(candidates, "uniform")}, task_model, data, part, QUICK, state_path=state)


def test_faults_of_the_input_are_told(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan], tmp_path: Path
) -> None:
    plan = candidates["all"]
    only = QUICK.model_copy(update={"only": ["nobody"]})
    with pytest.raises(ConfigError, match="no candidate named nobody"):
        race(plan, candidates, task_model, data, part, only, state_path=None)
    with pytest.raises(DataError, match="at least 8 held-out"):
        race(plan, candidates, task_model, data, replace(part, race=part.race[:3]), QUICK, state_path=None)
    other = tiny_task_model("bert", tmp_path / "other", KIND, seed=5)
    with pytest.raises(ManifestError, match="a plan of another model"):
        race(plan, candidates, other, data, part, QUICK, state_path=None)
    foreign = make_plan(other, KIND, 1)
    with pytest.raises(ManifestError, match="candidates of another model"):
        race(plan, {**candidates, "foreign": foreign}, task_model, data, part, QUICK, state_path=None)


def test_only_named_candidates_race_and_uniform_always(
    task_model: TaskModel, data: LoadedData, part: Partition, candidates: dict[str, Plan]
) -> None:
    config = QUICK.model_copy(update={"only": ["mlp"]})
    raced = race(candidates["all"], candidates, task_model, data, part, config, state_path=None)
    assert raced.race is not None
    assert {entry.name for entry in raced.race.candidates} == {"uniform", "mlp"}
