"""A clear winner wins, equals give way to the simplest, and a blind race leaves the choice to the prior."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.adapting.sight import Sight
from layerlens.adapting.verdict import Stop, decide
from layerlens.artifacts.plan import Plan
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.unit.adapting.plans import make_plan, tiny_task_model

SEEING = Sight(start_loss=4.0, best_loss=2.0, screened_loss=3.0, difference=0.1, agreement=0.9)
BLIND = Sight(start_loss=0.62, best_loss=0.60, screened_loss=0.61, difference=0.02, agreement=0.9)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    task_model = tiny_task_model("bert", tmp_path_factory.mktemp("bert"), TaskKind.CLASSIFICATION)
    mlp = [spec.layer for spec in describe_layers(task_model.model).layers if spec.role.is_mlp]
    ranks = {"uniform": 2, "rank-1": 1, "mlp": dict.fromkeys(mlp, 4), "optimum": {mlp[0]: 3, mlp[1]: 7}}
    return {name: make_plan(task_model, TaskKind.CLASSIFICATION, found, name=name) for name, found in ranks.items()}


def losses(mean: float, *, noise: float, seed: int) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(0.0, noise, size=(2, 100))


def test_a_margin_beyond_noise_decides(candidates: dict[str, Plan]) -> None:
    finals = {"uniform": losses(2.2, noise=0.05, seed=0), "mlp": losses(2.0, noise=0.05, seed=1)}
    decision = decide(candidates, finals, SEEING, seed=0)
    assert decision.winner == "mlp"
    assert decision.margin == pytest.approx(0.2, abs=0.02)
    assert decision.interval is not None
    assert 0 < decision.interval[0] < decision.margin < decision.interval[1]
    assert "mlp won by" in decision.verdict


def test_a_margin_within_noise_gives_the_simplest_plan_and_says_so(candidates: dict[str, Plan]) -> None:
    finals = {"optimum": losses(2.00, noise=1.0, seed=0), "uniform": losses(2.01, noise=1.0, seed=1)}
    decision = decide(candidates, finals, SEEING, seed=0)
    assert decision.winner == "uniform"
    assert decision.margin is not None
    assert decision.interval is not None
    assert decision.interval[0] <= 0 <= decision.interval[1]
    assert decision.margin == pytest.approx(float(finals["optimum"].mean() - finals["uniform"].mean()))
    assert "simplest of 2 plans" in decision.verdict
    assert "within noise" in decision.verdict


def test_only_plans_equal_to_the_best_may_be_chosen_for_simplicity(candidates: dict[str, Plan]) -> None:
    noise = losses(0.0, noise=1.0, seed=0)
    finals = {"optimum": 2.0 + noise, "mlp": 2.0 + losses(0.01, noise=1.0, seed=1), "uniform": 3.0 + noise}
    assert decide(candidates, finals, SEEING, seed=0).winner == "mlp"


def test_a_blind_race_leaves_the_choice_to_the_prior_whatever_the_losses(candidates: dict[str, Plan]) -> None:
    finals = {"uniform": losses(2.2, noise=0.01, seed=0), "mlp": losses(2.0, noise=0.01, seed=1)}
    decision = decide(candidates, finals, BLIND, seed=0)
    assert decision.winner == "rank-1"
    assert (decision.margin, decision.interval) == (None, None)
    assert decision.verdict.startswith("blind: the best loss went from 0.620 to 0.610 in the first round and 0.600 in the last")


def test_a_lone_finisher_wins_without_a_margin(candidates: dict[str, Plan]) -> None:
    decision = decide(candidates, {"uniform": losses(2.0, noise=0.1, seed=0)}, SEEING, seed=0)
    assert (decision.winner, decision.margin) == ("uniform", None)


def test_a_stopped_race_that_was_blind_or_whose_plan_diverged_claims_no_win_and_takes_the_prior(
    candidates: dict[str, Plan],
) -> None:
    finals = {"uniform": losses(2.2, noise=0.01, seed=0), "mlp": losses(2.0, noise=0.01, seed=1)}
    far, near = Stop(9.0, 2, 3, 2, is_enough=True), Stop(9.0, 1, 3, 1, is_enough=False)
    for stop, told in ((far, "round 2 of 3, 2 seeds"), (near, "round 1 of 3, 1 seed")):
        blind = decide(candidates, finals, BLIND, seed=0, stop=stop, planned="optimum")
        assert (blind.winner, blind.margin, blind.is_blind) == ("rank-1", None, True)
        assert blind.verdict.startswith(f"stopped by its time limit after {told}, and blind there: the best loss")
        assert "; the prior chose rank-1 (" in blind.verdict
    early = decide(candidates, finals, SEEING, seed=0, stop=near, planned="optimum")
    assert (early.winner, early.margin, early.is_blind) == ("optimum", None, True)
    assert early.verdict.endswith("too little to choose by; the plan stays optimum")
    diverged = decide(candidates, finals, SEEING, seed=0, stop=near, planned=None)
    assert (diverged.winner, diverged.is_blind) == ("rank-1", True)
    assert diverged.verdict.endswith("too little to choose by; the plan diverged, and the prior chose rank-1")
