from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Check, Validation, Verdict
from layerlens.reporting.quantities import NO_BREAK
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.verdict import Statement, Tone, check_words, headline, sentence, statements
from tests.unit.reporting import artifacts


def _run(**parts: Any) -> RunFolder:
    nothing: dict[str, Any] = {
        "name": "run",
        "profile": None,
        "arrays": {},
        "timing": None,
        "plan": None,
        "candidates": {},
        "evaluation": None,
        "validation": None,
        "missing": (),
    }
    return RunFolder(**{**nothing, **parts})


def _statement(run: RunFolder, topic: str) -> Statement:
    return next(statement for statement in statements(run) if statement.topic == topic)


def _exact(scores: dict[str, list[float]], metric: str = "accuracy") -> Evaluation:
    """An evaluation with these scores, by arm and seed."""
    made = artifacts.evaluation(tuple(range(len(next(iter(scores.values()))))), dict.fromkeys(scores, 0.5))
    arms = [arm.model_copy(update={"metrics": {metric: scores[arm.name][arm.seed]}}) for arm in made.arms]
    return made.model_copy(update={"arms": arms, "primary_metric": metric})


def _spoken(text: str) -> str:
    return text.replace(NO_BREAK, " ")


def test_the_headline_says_the_score_the_parameters_and_full_fine_tuning() -> None:
    run = _run(evaluation=_exact({"layerlens": [0.836], "full": [0.842], "uniform": [0.83]}))
    assert _spoken(headline(run)) == "83.6 % accuracy with 49,920 adapter parameters; full fine-tuning of 22.6 M reaches 84.2 %."


def test_without_full_fine_tuning_the_headline_does_not_invent_it() -> None:
    assert _spoken(headline(_run(evaluation=_exact({"layerlens": [0.836]})))) == "83.6 % accuracy with 49,920 adapter parameters."


def test_without_a_plan_s_own_arm_the_best_arm_leads() -> None:
    assert "head leads with loss 0.200" in headline(_run(evaluation=_exact({"head": [0.2], "full": [0.3]}, "loss")))
    assert "full leads with f1 0.300" in headline(_run(evaluation=_exact({"head": [0.2], "full": [0.3]}, "f1")))


@pytest.mark.parametrize(
    ("plan", "start"),
    [
        (artifacts.plan(), "Planned, not yet measured"),
        (artifacts.raced_plan(), "The race chose blocks-2-5"),
        (artifacts.plan(race=artifacts.race(is_blind=True)), "The race was blind, so the prior chose whitened"),
        (artifacts.plan(race=artifacts.race(is_blind=True, is_stopped=True)), "The race was stopped before it could decide"),
    ],
)
def test_a_plan_without_results_says_how_it_was_chosen(plan: Plan, start: str) -> None:
    assert headline(_run(plan=plan)).startswith(start)


@pytest.mark.parametrize(
    ("uniform", "tone", "words"),
    [
        ([0.80, 0.82, 0.81], Tone.GOOD, "Better than uniform LoRA at the same budget"),
        ([0.90, 0.92, 0.91], Tone.BAD, "Uniform LoRA at the same budget would have done better"),
        ([0.87, 0.84, 0.86], Tone.CAUTION, "Uniform LoRA at the same budget would have done as well"),
    ],
)
def test_it_says_whether_uniform_would_have_done_as_well(uniform: list[float], tone: Tone, words: str) -> None:
    run = _run(evaluation=_exact({"layerlens": [0.85, 0.86, 0.87], "uniform": uniform}))
    found = _statement(run, "Against uniform")
    assert found.tone is tone
    assert found.text.startswith(words)
    assert ("includes zero" in found.text) is (tone is Tone.CAUTION)
    assert "3 paired seeds" in found.text


def test_a_lower_loss_is_better() -> None:
    run = _run(evaluation=_exact({"layerlens": [0.50, 0.51, 0.52], "uniform": [0.60, 0.62, 0.61]}, "loss"))
    found = _statement(run, "Against uniform")
    assert found.tone is Tone.GOOD
    assert "0.610, 0.100 higher" in found.text


def test_one_seed_of_a_metric_without_an_interval_is_not_called_a_win() -> None:
    found = _statement(_run(evaluation=_exact({"layerlens": [0.9], "uniform": [0.1]}, "f1")), "Against uniform")
    assert found.tone is Tone.CAUTION
    assert "one seed cannot tell" in found.text


def test_seeds_that_all_differ_by_as_much_are_not_called_a_win() -> None:
    run = _run(evaluation=_exact({"layerlens": [0.85, 0.86, 0.87], "uniform": [0.80, 0.81, 0.82]}))
    found = _statement(run, "Against uniform")
    assert found.tone is Tone.CAUTION
    words = "5.0 points lower; 3 seeds that all differ by as much cannot tell whether that is chance."
    assert _spoken(found.text).endswith(words)


def test_without_uniform_nothing_is_claimed_for_planning() -> None:
    found = _statement(_run(evaluation=_exact({"layerlens": [0.9], "full": [0.8]})), "Against uniform")
    assert (found.tone, "not measured" in found.text) == (Tone.CAUTION, True)


def test_where_the_chosen_plan_is_uniform_no_win_is_claimed() -> None:
    plan = artifacts.plan("uniform", artifacts.candidate_sizes()["uniform"])
    run = _run(plan=plan, evaluation=_exact({"layerlens": [0.90, 0.91, 0.92], "uniform": [0.80, 0.81, 0.82]}))
    found = _statement(run, "Against uniform")
    assert found.tone is Tone.PLAIN
    assert "uniform itself" in found.text


def test_beside_a_plan_that_a_budget_cut_short_the_arm_uniform_is_another_plan() -> None:
    plan = artifacts.plan("uniform", artifacts.candidate_sizes()["uniform"]).model_copy(update={"reach": 2, "depth_cut": 2})
    run = _run(plan=plan, evaluation=_exact({"layerlens": [0.80, 0.81, 0.82], "uniform": [0.90, 0.92, 0.91]}))
    found = _statement(run, "Against uniform")
    assert found.tone is Tone.BAD
    assert found.text.startswith("Uniform LoRA with as many parameters, over all layers, would have done better")


def test_the_race_is_quoted_and_a_blind_one_is_marked() -> None:
    seen = _statement(_run(plan=artifacts.raced_plan()), "Race")
    assert seen.text.startswith(artifacts.race().verdict)
    assert "11 % of the steps" in _spoken(seen.text)
    blind = artifacts.race(is_blind=True, verdict="blind: the loss did not fall; the prior chose uniform")
    found = _statement(_run(plan=artifacts.plan(race=blind)), "Race")
    assert found.tone is Tone.CAUTION
    assert found.text.startswith("Blind: the loss did not fall")
    assert _statement(_run(plan=artifacts.plan()), "Race").tone is Tone.CAUTION


def test_blocks_without_an_adapter_at_the_bottom_are_named() -> None:
    assert "blocks 0 to 1 get nothing" in _statement(_run(plan=artifacts.raced_plan()), "The plan").text
    one = artifacts.plan("one", artifacts.candidate_sizes()["blocks-1-5"])
    assert "block 0 gets nothing" in _statement(_run(plan=one), "The plan").text
    every = artifacts.plan("uniform", artifacts.candidate_sizes()["uniform"])
    assert "nothing" not in _statement(_run(plan=every), "The plan").text
    assert "adapts nothing" in _statement(_run(plan=artifacts.plan("none", {})), "The plan").text


@pytest.mark.parametrize(
    ("verdicts", "tone", "words"),
    [
        ([Verdict.PASS, Verdict.NOT_APPLICABLE], Tone.GOOD, "All 1 that apply pass."),
        ([Verdict.PASS, Verdict.WARN], Tone.CAUTION, "1 of 2 warn: Rank range; none fails."),
        ([Verdict.FAIL, Verdict.WARN], Tone.BAD, "1 of 2 fail: Rank range."),
    ],
)
def test_checks_are_summed_up_by_the_worst(verdicts: list[Verdict], tone: Tone, words: str) -> None:
    names = ["rank_range", "sums"] if verdicts[0] is Verdict.FAIL else ["sums", "rank_range"]
    checks = [Check(name=name, value=None, target="", verdict=v, meaning="") for name, v in zip(names, verdicts, strict=True)]
    found = _statement(_run(validation=Validation(plan="p", checks=checks)), "Checks")
    assert (found.tone, found.text) == (tone, words)


def test_notes_of_the_plan_and_warnings_of_the_profile_are_passed_on() -> None:
    plan = artifacts.plan()
    noted = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"notes": ["roles are guessed"]})})
    warned = artifacts.profile().model_copy(update={"warnings": ["utilities hardly differ"]})
    texts = [statement.text for statement in statements(_run(plan=noted, profile=warned))]
    assert texts[-2:] == ["roles are guessed", "utilities hardly differ"]


def test_every_statement_is_whole_sentences(tmp_path: Path) -> None:
    run = _run(plan=artifacts.raced_plan(), evaluation=artifacts.evaluation())
    assert all(statement.text.endswith(".") for statement in statements(run))


def test_check_names_are_put_into_words() -> None:
    assert check_words("rank_utility_spearman") == "Rank utility Spearman"
    assert check_words("budget.vram_bytes") == "Budget: VRAM bytes"


def test_a_verdict_keeps_the_case_of_a_candidate_and_gains_a_full_stop() -> None:
    assert sentence("mlp won") == "mlp won."
    assert sentence("blind: no.") == "Blind: no."
    assert sentence("nothing was measured; the plan stays mlp") == "Nothing was measured; the plan stays mlp."
