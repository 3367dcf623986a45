"""What came out, in plain sentences: a difference is claimed only where the interval of paired seeds excludes zero."""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.artifacts.bench import ArmSummary, Bench, Cell, Finding, Outcome, OverallArm, Paired
from layerlens.benching.summary import FULL, LAYERLENS, LAYERLENS_TIME, RANDOM, SHUFFLED, UNIFORM

#: The customary controls, whose results are told for each cell.
_TOLD = (UNIFORM, FULL, RANDOM, SHUFFLED)
_WHO = {
    UNIFORM: "uniform LoRA at the same budget",
    FULL: "full fine-tuning",
    RANDOM: "the random plan",
    SHUFFLED: "the shuffled plan",
}
#: Parameters that differ by so small a share count as equal.
_EQUAL_SHARE = 0.01


def findings_of(bench: Bench) -> list[Finding]:
    """Everything worth saying, over all cells first, then cell by cell, then what went wrong."""
    found = _overall(bench.overall)
    for cell in bench.cells:
        found += _cell(cell)
    if bench.failed:
        names = ", ".join(f"{run.arm} of {run.model} on {run.task}, seed {run.seed}" for run in bench.failed[:4])
        more = f" and {len(bench.failed) - 4} more" if len(bench.failed) > 4 else ""
        text = f"{len(bench.failed)} of {len(bench.runs)} did not come to an end: {names}{more}. Means are over the others."
        found.append(Finding(topic="Runs that died", text=text, tone="bad"))
    return found


def _cell(cell: Cell) -> list[Finding]:
    ours = cell.arm(LAYERLENS)
    if ours is None:
        best = _best(cell)
        return [] if best is None else [Finding(topic=cell.name, text=f"{best.arm} has the best mean, {_score(best.mean)}.")]
    found = []
    if cell.arm(UNIFORM) is None:
        text = "Uniform LoRA was not measured, so nothing here says whether planning was worth it."
        found.append(Finding(topic=cell.name, text=text, tone="caution"))
    for name in _TOLD:
        other, paired = cell.arm(name), ours.against(name)
        if other is not None and paired is not None:
            found.append(Finding(topic=cell.name, text=_sentence(cell, ours, other, paired), tone=_tone(name, paired)))
    found += _in_less_time(cell)
    found += _without_effect(cell)
    best = _best(cell)
    # An equal mean is no better one.
    if best is not None and best.mean != ours.mean and best.arm not in _TOLD:
        paired = ours.against(best.arm)
        is_worse = paired is not None and paired.outcome is Outcome.WORSE
        says = "the two have no seed in common" if paired is None else paired.verdict
        says = _interval(paired) if paired is not None and is_worse else says
        text = f"The best mean is {best.arm}'s, {_score(best.mean)}; LayerLens has {_score(ours.mean)}: {says}."
        found.append(Finding(topic=cell.name, text=text, tone="bad" if is_worse else "caution"))
    if edges := [choice.arm for choice in cell.rates if choice.is_at_edge]:
        text = f"The best learning rate lies at the edge of its grid for {', '.join(edges)}; a better one may lie outside."
        found.append(Finding(topic=cell.name, text=text, tone="caution"))
    return found


def _in_less_time(cell: Cell) -> list[Finding]:
    """What the time budget costs or gains beside uniform LoRA."""
    ours, uniform = cell.arm(LAYERLENS_TIME), cell.arm(UNIFORM)
    paired = None if ours is None else ours.against(UNIFORM)
    if ours is None or uniform is None or paired is None or not uniform.train_seconds:
        return []
    text = (
        f"With a time budget LayerLens has {cell.metric} {_score(ours.mean)} in {ours.train_seconds / uniform.train_seconds:.0%}"
    )
    text += f" of the time of uniform LoRA, which has {_score(uniform.mean)}: "
    text += paired.verdict if paired.outcome is Outcome.UNKNOWN else f"{paired.verdict}; {_interval(paired)}"
    return [Finding(topic=cell.name, text=f"{text}.", tone=_tone(UNIFORM, paired))]


def _without_effect(cell: Cell) -> list[Finding]:
    """Variants that the race has led to LayerLens's own plan: their scores are equal whatever was switched off."""
    same: dict[str, bool] = {}
    for plan in cell.plans:
        same[plan.arm] = plan.is_as_layerlens and same.get(plan.arm, True)
    names = [arm for arm, is_same in same.items() if is_same]
    if not names:
        return []
    text = f"{', '.join(names)} trained the very plan that LayerLens did, so nothing here tells what they leave out or add."
    return [Finding(topic=cell.name, text=text, tone="caution")]


def _sentence(cell: Cell, ours: ArmSummary, other: ArmSummary, paired: Paired) -> str:
    who = _WHO[other.arm]
    scores = f"{cell.metric} {_score(ours.mean)} against {_score(other.mean)}"
    if other.arm == FULL and ours.share_of_full is not None:
        # Shares are such that more is better; where less is, the scores stand to each other the other way round.
        ratio, aside = (1 / ours.share_of_full, ", lower is better,") if cell.is_lower_better else (ours.share_of_full, "")
        scores += f", {ratio:.1%} of it{aside} with {_params(ours)}"
    elif abs(ours.trainable_params - other.trainable_params) > _EQUAL_SHARE * max(1, other.trainable_params):
        scores += f" with {_params(ours)} against {other.trainable_params:,}"
    if other.arm == UNIFORM and any(
        plan.chosen == UNIFORM and not plan.is_cut_short for plan in cell.plans if plan.arm == LAYERLENS
    ):
        scores += "; the plan that was chosen is uniform itself"
    match paired.outcome:
        case Outcome.UNKNOWN:
            seeds = "One seed" if len(paired.seeds) == 1 else f"{len(paired.seeds)} seeds that all differ by the same amount"
            return f"LayerLens beside {who}: {scores}. {seeds} cannot tell whether that is chance."
        case Outcome.NO_DIFFERENCE:
            did = "Uniform did as well, as far as these seeds can tell. " if other.arm == UNIFORM else ""
            return f"LayerLens beside {who}: {scores}. {did}No difference shown: {_interval(paired)}."
        case outcome:
            return f"LayerLens is {outcome} than {who}: {scores}; {_interval(paired)}."


def _overall(arms: Sequence[OverallArm]) -> list[Finding]:
    ours = next((arm for arm in arms if arm.arm == LAYERLENS), None)
    if ours is None or ours.share_of_full is None:
        return []
    text = f"LayerLens keeps {ours.share_of_full:.1%} of full fine-tuning's score in the mean over {ours.cells} cells"
    text += f", {ours.least_share_of_full:.1%} in the worst" if ours.least_share_of_full is not None else ""
    text += f", in {ours.time_ratio:.0%} of its time" if ours.time_ratio is not None else ""
    text += f" and {ours.memory_ratio:.0%} of its memory" if ours.memory_ratio is not None else ""
    found = [Finding(topic="All cells", text=f"{text}.")]
    for paired in ours.paired:
        if paired.against == FULL or paired.outcome is Outcome.UNKNOWN:
            continue
        word = {Outcome.BETTER: "better than", Outcome.WORSE: "worse than"}.get(paired.outcome)
        claim = "no difference shown from" if word is None else word
        text = f"LayerLens: {claim} {paired.against}, {paired.difference:+.2%} of full's score in the mean"
        text += f"; {_interval(paired, is_share=True)}."
        found.append(Finding(topic="All cells", text=text, tone=_tone(paired.against, paired)))
    return found


def _tone(against: str, paired: Paired) -> str:
    match paired.outcome:
        case Outcome.BETTER:
            return "good"
        case Outcome.WORSE:
            return "bad"
        case Outcome.NO_DIFFERENCE:
            return "plain" if against == FULL else "caution"
        case Outcome.UNKNOWN:
            return "caution"


def _interval(paired: Paired, *, is_share: bool = False) -> str:
    if paired.interval is None:
        return "without an interval"
    low, high = (f"{value:+.2%}" if is_share else f"{value:+.4g}" for value in paired.interval)
    verb = "includes" if paired.outcome is Outcome.NO_DIFFERENCE else "excludes"
    tests = [
        f"{name} p = {value:.3g}"
        for name, value in (("t", paired.t_p_value), ("sign-flip", paired.permutation_p_value))
        if value is not None
    ]
    basis = ", ".join([f"{len(paired.seeds)} paired seeds", *tests])
    return f"the 95 % interval of the difference, {low} to {high}, {verb} zero ({basis})"


def _best(cell: Cell) -> ArmSummary | None:
    if not cell.arms:
        return None
    return (min if cell.is_lower_better else max)(cell.arms, key=lambda arm: arm.mean)


def _params(arm: ArmSummary) -> str:
    return f"{arm.trainable_params:,} parameters"


def _score(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
