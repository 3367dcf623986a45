"""What came out, in plain words: the headline and the statements under it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from layerlens.artifacts.evaluation import Evaluation, is_lower_better
from layerlens.artifacts.plan import UNIFORM, Plan
from layerlens.artifacts.validation import Validation, Verdict
from layerlens.reporting.arms import ArmGroup, ArmKind, find_arm, group_arms
from layerlens.reporting.compare import Comparison, Outcome, compare
from layerlens.reporting.quantities import NO_BREAK, count, difference, percent, scaled, score
from layerlens.reporting.run_folder import RunFolder
from layerlens.words import Method

METHOD_WORDS = {Method.LORA: "LoRA", Method.ADAPTER: "bottleneck adapters", Method.PREFIX: "prefixes", Method.NONE: "nothing"}


class Tone(StrEnum):
    """How a statement is marked."""

    GOOD = "good"
    PLAIN = "plain"
    CAUTION = "caution"
    BAD = "bad"


@dataclass(frozen=True)
class Statement:
    """One finding: a few words to skim by, and a sentence."""

    topic: str
    text: str
    tone: Tone = Tone.PLAIN


def headline(run: RunFolder) -> str:
    """The one sentence that a reader takes away."""
    if run.evaluation is not None and run.evaluation.arms:
        return _measured_headline(run.evaluation)
    if run.plan is not None:
        return _planned_headline(run.plan)
    if run.profile is not None:
        data = run.profile.data
        return f"{len(run.profile.layers)} layers measured on {count(data.num_samples)} samples of {data.id}; no plan yet."
    if run.validation is not None:
        return f"Checks of {run.validation.plan}; neither plan nor results are here."
    return "An evaluation without arms."


def statements(run: RunFolder) -> list[Statement]:
    """Everything else worth knowing, most important first."""
    found = [*_comparisons(run)]
    if run.plan is not None:
        found += [*_realised(run), _layout(run.plan), _race(run.plan), _paper(run.plan)]
    if run.validation is not None:
        found.append(_checks(run.validation))
    if run.plan is not None:
        found += [Statement("Note", note, Tone.CAUTION) for note in run.plan.metadata.notes]
    if run.profile is not None:
        found += [Statement("Profile", warning, Tone.CAUTION) for warning in run.profile.warnings]
    return found


def _measured_headline(evaluation: Evaluation) -> str:
    metric, groups = evaluation.primary_metric, group_arms(evaluation)
    ours, full = find_arm(groups, ArmKind.LAYERLENS), find_arm(groups, ArmKind.FULL)
    if ours is None or (reached := ours.mean(metric)) is None:
        scored = [(mean, group.name) for group in groups if (mean := group.mean(metric)) is not None]
        if not scored:
            return f"{len(groups)} arms were run; none has the metric {metric}."
        best, name = (min if is_lower_better(metric) else max)(scored)
        return f"{name} leads with {_named(metric, best)}."
    params = f"{count(ours.arms[0].trainable_params)} adapter parameters"
    text = f"{_named(metric, reached)} with {params}"
    if full is not None and (theirs := full.mean(metric)) is not None:
        return f"{text}; full fine-tuning of {scaled(full.arms[0].trainable_params)} reaches {score(metric, theirs)}."
    return f"{text}."


def _planned_headline(plan: Plan) -> str:
    share = percent(plan.params / plan.model.num_parameters)
    size = f"{count(plan.params)} adapter parameters in {len(plan.adapted)} of {len(plan.layers)} sites, {share} of the model"
    if plan.race is None:
        return f"Planned, not yet measured: {size}."
    if plan.race.is_blind and plan.race.is_stopped:
        return f"The race was stopped before it could decide; the plan is {plan.chosen.name}: {size}."
    if plan.race.is_blind:
        return f"The race was blind, so the prior chose {plan.chosen.name}: {size}."
    return f"The race chose {plan.chosen.name}: {size}."


def _comparisons(run: RunFolder) -> list[Statement]:
    if run.evaluation is None:
        return []
    groups = group_arms(run.evaluation)
    ours = find_arm(groups, ArmKind.LAYERLENS)
    if ours is None:
        return []
    found = []
    for kind in (ArmKind.UNIFORM, ArmKind.FULL):
        other = find_arm(groups, kind)
        if other is None:
            continue
        compared = compare(ours, other, run.evaluation.primary_metric, run.evaluation.eval_samples)
        if compared is not None:
            found.append(_compared(run.evaluation.primary_metric, run.plan, other, compared))
    if find_arm(groups, ArmKind.UNIFORM) is None:
        text = "Uniform LoRA was not measured, so nothing here says whether planning was worth it."
        found.insert(0, Statement("Against uniform", text, Tone.CAUTION))
    return found


def _compared(metric: str, plan: Plan | None, other: ArmGroup, compared: Comparison) -> Statement:
    reached = other.mean(metric) or 0.0
    gap = difference(metric, compared.difference)
    is_uniform = other.kind is ArmKind.UNIFORM
    # Where a budget of depth cuts the plan short, this arm keeps the parameters and breaks that budget.
    budget = "with as many parameters, over all layers," if plan is not None and plan.is_cut_short else "at the same budget"
    who = f"uniform LoRA {budget}" if is_uniform else "full fine-tuning"
    topic = "Against uniform" if is_uniform else "Against full fine-tuning"
    direction = "lower" if compared.difference > 0 else "higher"
    theirs = f"{score(metric, reached)}, {gap} {direction}" if compared.difference else f"{score(metric, reached)}, the same"
    if is_uniform and plan is not None and plan.chosen.name == UNIFORM and not plan.is_cut_short:
        return Statement(
            topic,
            f"The plan that was chosen is uniform itself: the arms differ by {gap}, by chance or by learning rate.",
            Tone.PLAIN,
        )
    match compared.outcome:
        case Outcome.BETTER:
            return Statement(topic, f"Better than {who}, which reaches {theirs}; {_interval(metric, compared)}.", Tone.GOOD)
        case Outcome.WORSE:
            verb = "would have done better" if is_uniform else "does better"
            return Statement(topic, f"{_upper(who)} {verb}: {theirs}; {_interval(metric, compared)}.", Tone.BAD)
        case Outcome.NOISE:
            verb = "would have done as well" if is_uniform else "does as well, as far as this run can tell"
            tone = Tone.CAUTION if is_uniform else Tone.GOOD
            return Statement(topic, f"{_upper(who)} {verb}: {theirs}; {_interval(metric, compared)}.", tone)
        case Outcome.UNKNOWN:
            text = f"{_upper(who)} reaches {theirs}; {compared.basis} cannot tell whether that is chance."
            return Statement(topic, text, Tone.CAUTION)


def _interval(metric: str, compared: Comparison) -> str:
    if compared.interval is None:
        return "without an interval"
    low, high = (f"{'−' if value < 0 else '+'}{difference(metric, value)}" for value in compared.interval)
    low = low.removesuffix(f"{NO_BREAK}points")
    includes = "includes" if compared.outcome is Outcome.NOISE else "excludes"
    return f"the 95{NO_BREAK}% interval of the difference, {low} to {high}, {includes} zero ({compared.basis})"


def _realised(run: RunFolder) -> list[Statement]:
    """Say so where the arm that was measured is not this plan."""
    ours = find_arm(group_arms(run.evaluation), ArmKind.LAYERLENS) if run.evaluation else None
    if run.plan is None or ours is None or ours.arms[0].trainable_params == run.plan.params:
        return []
    trained = count(ours.arms[0].trainable_params)
    text = f"The results are of another plan: {trained} adapter parameters were trained, this plan has {count(run.plan.params)}."
    return [Statement("Mismatch", text, Tone.BAD)]


def _layout(plan: Plan) -> Statement:
    """Which sites get something, and which blocks nothing at all."""
    if not plan.adapted:
        return Statement("The plan", f"{plan.chosen.name} adapts nothing: only the task head is trained.", Tone.CAUTION)
    sizes = sorted({entry.size for entry in plan.adapted})
    methods = ", ".join(dict.fromkeys(METHOD_WORDS[entry.method] for entry in plan.adapted))
    span = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    text = f"{plan.chosen.name}: {methods} of size {span} on {len(plan.adapted)} of {len(plan.layers)} sites"
    lowest = min((entry.block for entry in plan.adapted if entry.block is not None), default=0)
    if lowest > 0:
        below = "block 0 gets" if lowest == 1 else f"blocks 0 to {lowest - 1} get"
        text += f"; {below} nothing, so training needs no backward pass there"
    return Statement("The plan", f"{text}.")


def _race(plan: Plan) -> Statement:
    if plan.race is None:
        return Statement("Race", "Not run: the choice rests on predicted value alone.", Tone.CAUTION)
    share = f"It took {percent(plan.race.share_of_tuning)} of the steps of one tuning run."
    tone = Tone.CAUTION if plan.race.is_blind or plan.race.is_stopped else Tone.PLAIN
    return Statement("Race", f"{sentence(plan.race.verdict)} {share}", tone)


def _paper(plan: Plan) -> Statement:
    solver = plan.solver
    found = f"{solver.value:.4g}"
    value = f"has a weighted value of {found}" if plan.is_weighted else f"is predicted to gain {found} nats"
    text = f"The exact optimum {value} (relative gap {max(solver.gap, 0.0):.1g})"
    if solver.uniform_value is not None:
        text += f", uniform {solver.uniform_value:.4g}"
    text += f", the chosen plan {plan.chosen.value:.4g}. Gains of layers do not add up, so this ranks plans and promises nothing."
    return Statement("On paper", text)


def _checks(validation: Validation) -> Statement:
    failed = [check_words(check.name) for check in validation.checks if check.verdict is Verdict.FAIL]
    warned = [check_words(check.name) for check in validation.checks if check.verdict is Verdict.WARN]
    judged = [check for check in validation.checks if check.verdict is not Verdict.NOT_APPLICABLE]
    if failed:
        return Statement("Checks", f"{len(failed)} of {len(judged)} fail: {', '.join(failed)}.", Tone.BAD)
    if warned:
        return Statement("Checks", f"{len(warned)} of {len(judged)} warn: {', '.join(warned)}; none fails.", Tone.CAUTION)
    return Statement("Checks", f"All {len(judged)} that apply pass.", Tone.GOOD)


def _named(metric: str, value: float) -> str:
    return f"{score(metric, value)} {metric}" if metric == "accuracy" else f"{metric} {score(metric, value)}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def check_words(name: str) -> str:
    """`rank_utility_spearman` → `Rank utility Spearman`."""
    words = name.replace("_", " ").replace(".", ": ", 1)
    for plain, proper in (
        ("pearson", "Pearson"),
        ("spearman", "Spearman"),
        ("fisher", "Fisher"),
        ("vram", "VRAM"),
        ("flops", "FLOPs"),
    ):
        words = words.replace(plain, proper)
    return _upper(words)


def sentence(text: str) -> str:
    """A verdict as a sentence of its own; a candidate's name at its start keeps its case."""
    text = _upper(text) if text.startswith(("blind: ", "stopped by ", "nothing was ")) else text
    return text if text.endswith((".", "!")) else f"{text}."
