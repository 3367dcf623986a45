"""One cell of a suite: the charts, and every arm with its interval, its paired differences and its costs."""

from __future__ import annotations

from layerlens.artifacts.bench import ArmSummary, Cell
from layerlens.artifacts.plan import UNIFORM
from layerlens.reporting.bench.arms import FULL, LAYERLENS, difference, p_values, ranked, ratio, score, with_interval
from layerlens.reporting.bench.pareto import pareto_figure
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import count, duration, memory, percent
from layerlens.reporting.section import Cell as TableCell
from layerlens.reporting.section import Column, Section, figure, table


def cell_section(cell: Cell, number: int) -> Section:
    """Charts and tables of a cell; `number` is its place in the suite."""
    picture, charts = pareto_figure(cell, number)
    better = "lower" if cell.is_lower_better else "higher"
    ours = cell.arm(LAYERLENS)
    facts = (
        f"{cell.metric.replace('_', ' ')} on {count(cell.eval_samples)} test samples, {better} is better; {count(cell.steps)} "
        f"training steps; adapters of at most {count(cell.params_limit)} parameters."
    )
    body = [
        element("p", facts),
        picture if charts else None,
        figure(_scores(cell), _SCORES_CAPTION, title="Scores"),
        figure(_paired(cell), _paired_caption(cell), title="Paired differences") if _has_pairs(cell) else None,
        figure(_ours(cell, ours), "LayerLens minus each other arm.", title="LayerLens against every arm")
        if ours and ours.paired
        else None,
        figure(_costs(cell), _COSTS_CAPTION, title="What came before training") if cell.costs else None,
        figure(_plans(cell), "The plan that each LayerLens arm trained; time as a share of full fine-tuning's.", title="Plans")
        if cell.plans
        else None,
        figure(_rates(cell), _RATES_CAPTION, title="Learning rates") if cell.rates else None,
    ]
    return Section(f"cell-{number}", cell.name, join(body), charts)


_SCORES_CAPTION = (
    "Mean over seeds ± half of its 95 % interval (Student's t). Parameters of adapters, the head apart; seconds and peak memory "
    "are means of training alone. Ratios are to full fine-tuning at the same seeds."
)
_COSTS_CAPTION = (
    "Seconds of profile, plan and race as measured here, beside the training seconds of one run of the arm that is named, and "
    "beside 5,000 steps at that run's pace."
)
_RATES_CAPTION = "Peak learning rates, tuned on validation samples; the metric of each trial in the order of the grid."


def _scores(cell: Cell) -> Markup:
    columns = [
        Column("Arm"),
        Column("No.", is_number=True),
        *(
            Column(head, is_number=True)
            for head in ("Mean", "Of full", "Parameters", "Seconds", "Time", "Peak memory", "Memory", "Seeds")
        ),
    ]
    order = ranked(cell)
    rows: list[list[TableCell | str]] = [
        [
            TableCell(arm.arm),
            TableCell(str(place), place),
            TableCell(with_interval(arm), arm.mean),
            TableCell("–" if arm.share_of_full is None else percent(arm.share_of_full), arm.share_of_full),
            TableCell(count(arm.trainable_params), arm.trainable_params),
            TableCell(duration(arm.train_seconds), arm.train_seconds),
            TableCell(ratio(arm.time_ratio), arm.time_ratio),
            TableCell(memory(arm.peak_memory_bytes), arm.peak_memory_bytes),
            TableCell(ratio(arm.memory_ratio), arm.memory_ratio),
            str(len(arm.seeds)),
        ]
        for place, arm in enumerate(order, 1)
    ]
    return table(f"Scores of {cell.name}", columns, rows, highlighted=[arm.arm == LAYERLENS for arm in order], is_sortable=True)


def _has_pairs(cell: Cell) -> bool:
    return any(arm.paired for arm in cell.arms)


def _paired(cell: Cell) -> Markup:
    references = [name for name in (UNIFORM, FULL) if cell.arm(name) is not None]
    columns = [Column("Arm")]
    for name in references:
        columns += [Column(f"Minus {name}"), Column("p (t / sign-flip)", is_number=True)]
    rows: list[list[TableCell | str]] = []
    for arm in ranked(cell):
        row: list[TableCell | str] = [TableCell(arm.arm)]
        for name in references:
            paired = arm.against(name)
            row += [TableCell(difference(paired), None if paired is None else paired.difference), p_values(paired)]
        rows.append(row)
    return table(f"Paired differences of {cell.name}", columns, rows, highlighted=[a.arm == LAYERLENS for a in ranked(cell)])


def _ours(cell: Cell, ours: ArmSummary) -> Markup:
    columns = [Column("Against"), Column("Difference"), Column("p (t / sign-flip)", is_number=True)]
    rows: list[list[TableCell | str]] = [
        [TableCell(paired.against), TableCell(difference(paired), paired.difference), p_values(paired)] for paired in ours.paired
    ]
    return table(f"LayerLens against every arm of {cell.name}", columns, rows)


def _paired_caption(cell: Cell) -> str:
    seeds = max((len(paired.seeds) for arm in cell.arms for paired in arm.paired), default=0)
    text = (
        "Difference seed by seed, turned so that more is better, with the 95 % interval of its mean. An interval that includes "
        "zero shows no difference; that is not proof that there is none."
    )
    if seeds > 1:
        text += f" With {seeds} seeds the sign-flip test cannot give less than p = {2.0 ** (1 - seeds):.3g}."
    return text


def _costs(cell: Cell) -> Markup:
    heads = ("Profile", "Plan", "Race", "Race steps of a run", "Together", "Of one run", "Of 5,000 steps")
    columns = [Column("Arm"), *(Column(head, is_number=True) for head in heads), Column("Run of")]
    rows: list[list[TableCell | str]] = [
        [
            TableCell(cost.arm),
            duration(cost.profile_seconds),
            duration(cost.plan_seconds),
            duration(cost.race_seconds),
            "–" if cost.race_steps_share is None else percent(cost.race_steps_share),
            duration(cost.seconds),
            percent(cost.share_of_run),
            percent(cost.share_of_5000_steps),
            cost.run,
        ]
        for cost in cell.costs
    ]
    return table(f"Costs of the plans of {cell.name}", columns, rows)


def _plans(cell: Cell) -> Markup:
    heads = ("Parameters", "Time predicted", "Time measured")
    columns = [Column("Arm"), Column("Chosen"), *(Column(head, is_number=True) for head in heads), Column("Race")]
    rows: list[list[TableCell | str]] = [
        [
            TableCell(plan.arm if plan.seed is None else f"{plan.arm}, seed {plan.seed}"),
            plan.chosen,
            count(plan.params),
            ratio(plan.predicted_time_ratio),
            ratio(found.time_ratio if (found := cell.arm(plan.arm)) is not None else None),
            plan.verdict or "not raced",
        ]
        for plan in cell.plans
    ]
    return table(f"Plans of {cell.name}", columns, rows)


def _rates(cell: Cell) -> Markup:
    columns = [Column("Arm"), Column("Rate", is_number=True), Column("Tuned on"), Column("Trials")]
    rows: list[list[TableCell | str]] = []
    for choice in cell.rates:
        trials = ", ".join(
            f"{_rate(trial.rate)}: {score(trial.metrics[cell.metric])}"
            if cell.metric in trial.metrics
            else f"{_rate(trial.rate)}: diverged"
            for trial in choice.trials
        )
        edge = ", at the edge of its grid" if choice.is_at_edge else ""
        rows.append([TableCell(choice.arm), _rate(choice.rate), choice.tuned_on + edge, trials or "one rate given"])
    return table(f"Learning rates of {cell.name}", columns, rows)


def _rate(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")
