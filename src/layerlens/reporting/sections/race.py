"""The race as it ran: who was measured at which length, who left when, and what the winner won by."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.plan import UNIFORM, Plan, Race, RaceCandidate
from layerlens.reporting.chart import Chart, plain, rounded
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import count, percent
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Cell, Column, Section, chart_figure, figure, table
from layerlens.reporting.verdict import sentence


def race_section(run: RunFolder) -> Section | None:
    """The losses at every rung and the table of runners; None where no race was run."""
    if run.plan is None or run.plan.race is None:
        return None
    race = run.plan.race
    if not race.candidates:
        return Section("race", "The race", element("p", sentence(race.verdict)))
    chart = _chart(race)
    lead = f"{sentence(race.verdict)} The race took {percent(race.share_of_tuning)} of the steps of one tuning run."
    caption = (
        "Each point is a short training run of its own, from scratch, with its whole schedule inside that many steps, scored on "
        "held-out samples; lower is better. A line joins a candidate's runs, a cross marks where it left, a bar spans the seeds."
    )
    order = "Candidates that stayed longest first, then by held-out loss."
    starts = [candidate.start_loss for candidate in race.candidates if candidate.start_loss is not None]
    if starts:
        order += f" Before training the loss was {max(starts):.4f} nats."
    body = [
        element("p", lead),
        chart_figure(chart, caption, title="Held-out loss at each rung"),
        figure(_table(run.plan, race, run.candidates), order, title="The runners"),
    ]
    return Section("race", "The race", join(body), (chart,))


def points(candidate: RaceCandidate) -> list[tuple[int, list[float]]]:
    """Steps and the losses of all seeds, for every length a candidate ran; a race that ran on may repeat a length."""
    found = {int(rung["steps"]): [float(loss) for loss in rung["losses"].values()] for rung in candidate.rungs}
    return sorted(found.items()) or [(candidate.steps, [candidate.held_out_loss])]


def _chart(race: Race) -> Chart:
    traces: list[dict[str, Any]] = []
    order = sorted(race.candidates, key=lambda candidate: (candidate.name == race.winner, candidate.name == UNIFORM))
    longest = max(candidate.steps for candidate in race.candidates)
    has_rest = False
    for candidate in order:
        is_winner, is_uniform = candidate.name == race.winner, candidate.name == UNIFORM
        is_rest = not is_winner and not is_uniform
        color = "@chosen" if is_winner else "@uniform" if is_uniform else "@rest"
        ran = points(candidate)
        means = [sum(losses) / len(losses) for _, losses in ran]
        above = [max(losses) - mean for (_, losses), mean in zip(ran, means, strict=True)]
        below = [mean - min(losses) for (_, losses), mean in zip(ran, means, strict=True)]
        symbols, sizes = ["square" if is_uniform else "circle"] * len(ran), [6 if is_rest else 9] * len(ran)
        if candidate.steps < longest and not is_winner:
            symbols[-1], sizes[-1] = "x-thin-open", 9
        name = "other candidates" if is_rest else f"{plain(candidate.name)} ({'chosen' if is_winner else 'control'})"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "showlegend": not (is_rest and has_rest),
                "legendrank": 3 if is_rest else 1 if is_winner else 2,
                "text": plain(candidate.name),
                "hovertemplate": "%{fullData.text}<br>%{x} steps: %{y:.4f} nats<extra></extra>",
                "x": [steps for steps, _ in ran],
                "y": rounded(means),
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(above),
                    "arrayminus": rounded(below),
                    "color": color,
                    "width": 3,
                    "thickness": 1,
                },
                "line": {"color": color, "width": 1.5 if is_rest else 2.5, "dash": "dot" if is_uniform else "solid"},
                "marker": {
                    "color": color,
                    "size": sizes,
                    "symbol": symbols,
                    "opacity": 1,
                    "line": {"width": 1.5, "color": color},
                },
            }
        )
        has_rest = has_rest or is_rest
    steps = sorted({step for candidate in race.candidates for step, _ in points(candidate)})
    layout = {
        "xaxis": {"title": {"text": "training steps of a run"}, "tickmode": "array", "tickvals": steps},
        "yaxis": {"title": {"text": "held-out loss, nats"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    label = f"Held-out loss of {len(race.candidates)} candidates over {len(steps)} rungs; {race.winner} was chosen"
    return Chart("chart-race", traces, layout, 380, label)


def _table(plan: Plan, race: Race, candidates: dict[str, Plan]) -> Markup:
    columns = [
        Column("Candidate"),
        Column("Outcome"),
        Column("Held-out loss, nats", is_number=True),
        Column("Steps", is_number=True),
        Column("Seeds", is_number=True),
        Column("Adapter parameters", is_number=True),
        Column("Weighted value" if plan.is_weighted else "Predicted value, nats", is_number=True),
    ]
    longest = max((candidate.steps for candidate in race.candidates), default=0)
    order = sorted(race.candidates, key=lambda candidate: (-candidate.steps, candidate.held_out_loss, candidate.name))
    rows: list[list[Cell | str]] = []
    for candidate in order:
        made = plan if candidate.name == plan.chosen.name else candidates.get(candidate.name)
        rows.append(
            [
                Cell(candidate.name),
                _outcome(candidate, race, longest),
                f"{candidate.held_out_loss:.4f}",
                count(candidate.steps),
                count(len(candidate.seeds)),
                "–" if made is None else count(made.params),
                "–" if made is None else f"{made.chosen.value:.4f}",
            ]
        )
    return table("The runners of the race", columns, rows, highlighted=[candidate.name == race.winner for candidate in order])


def _outcome(candidate: RaceCandidate, race: Race, longest: int) -> str:
    if candidate.name == race.winner:
        return "chosen"
    if candidate.steps < longest:
        return f"left after {candidate.steps} steps"
    return "ran until the race was stopped" if race.is_stopped else "ran to the end"
