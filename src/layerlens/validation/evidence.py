"""Was the choice measured, and how far does the measurement carry?"""

from __future__ import annotations

from layerlens.artifacts.plan import UNIFORM, Plan, Race
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.judging import FOR_INFORMATION, holds, not_applicable

MIN_STEPS, MIN_SEEDS = 20, 2


def check_evidence(plan: Plan) -> list[Check]:
    """Whether a race ran, saw anything, included uniform, and trained its winner long enough."""
    target = "a race that saw differences"
    meaning = "The plan was picked by short training runs on held-out data; short runs can still order plans wrongly."
    race = plan.race
    if race is None:
        value = "no race was run: the choice rests on predicted value"
        return [holds("race", False, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)]
    has_run = len(race.candidates) > 1
    value = f"{len(race.candidates)} candidates ran" if has_run else "nothing raced: there was one candidate"
    if race.is_blind:
        value = "was stopped before it could decide" if race.is_stopped else "ran, but was blind: the prior decided"
    is_so = has_run and not race.is_blind
    ran = holds("race", is_so, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)
    if not has_run:
        return [ran]
    return [
        ran,
        _share(race),
        _uniform_ran(race),
        _winner_ran_long(race),
        _margin(race),
    ]


def _share(race: Race) -> Check:
    meaning = "Training steps of the race over steps of the tuning run; the price of the evidence, not its quality."
    value = f"{race.share_of_tuning:.1%} of the tuning run".replace("%", " %")
    return not_applicable("race_share", FOR_INFORMATION, value=value, meaning=meaning)


def _uniform_ran(race: Race) -> Check:
    runners = {candidate.name: candidate.steps for candidate in race.candidates}
    steps, longest = runners.get(UNIFORM), max(runners.values(), default=0)
    value = "uniform did not run" if steps is None else f"{steps} of {longest} steps"
    return holds(
        "race_has_uniform",
        steps is not None and steps == longest,
        value=value,
        target="uniform runs to the end",
        meaning="The winner ran against the obvious plan for as long as against any other; not that uniform is a strong rival.",
        otherwise=Verdict.WARN,
    )


def _winner_ran_long(race: Race) -> Check:
    name, target = "race_winner_length", f"≥ {MIN_STEPS} steps from ≥ {MIN_SEEDS} seeds"
    meaning = "The winner was trained for long enough to leave the noise of the first steps; not that a full run agrees."
    if race.is_blind:
        return not_applicable(name, target, value=f"no measurement chose {race.winner}", meaning=meaning)
    winner = next((candidate for candidate in race.candidates if candidate.name == race.winner), None)
    if winner is None:
        value = f"{race.winner} is not among the runners"
        return holds(name, False, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)
    is_long = winner.steps >= MIN_STEPS and len(set(winner.seeds)) >= MIN_SEEDS
    value = f"{winner.steps} steps from {len(set(winner.seeds))} seeds"
    return holds(name, is_long, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)


def _margin(race: Race) -> Check:
    meaning = (
        "Loss of the best other finalist minus the chosen plan's, with its 95 % interval; within noise the simplest is taken."
    )
    if race.margin is None:
        absent = "too little was measured" if race.is_stopped else "no runner-up"
        return not_applicable("race_margin", FOR_INFORMATION, value=absent, meaning=meaning)
    value = f"{race.margin:.4f} nats"
    if race.interval is not None and len(race.interval) == 2:
        low, high = race.interval
        value += f" [{low:.4f}, {high:.4f}]" + (", within noise" if low <= 0 <= high else "")
    return not_applicable("race_margin", FOR_INFORMATION, value=value, meaning=meaning)
