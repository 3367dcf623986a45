"""What each command prints when it is done. A function here says by its result whether every check passed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Validation
from layerlens.validation.table import validation_table
from layerlens.words import Role

if TYPE_CHECKING:
    from layerlens.workflow.demo import DemoResult
    from layerlens.workflow.plan import PlanResult
    from layerlens.workflow.profile import ProfileResult
    from layerlens.workflow.race import RaceResult
    from layerlens.workflow.tune import TuneResult

_console = Console(highlight=False)

_WIDE = 110  # columns from which every metric of a result fits beside the rest


def show_profile(result: ProfileResult) -> bool:
    """Print each layer's utility and metrics, or what a dry run would measure."""
    if result.profile is None:
        for name, fact in result.facts.items():
            _console.print(f"{name:<8} {fact}", markup=False)
        return True
    profile = result.profile
    table = Table(
        title=f"{profile.model.id}: {len(profile.layers)} layers, {profile.data.num_samples} samples of {profile.data.id}"
    )
    table.add_column("block", justify="right")
    table.add_column("role", no_wrap=True)
    for name in ("gradient energy", "fisher", "proxy", "utility"):
        table.add_column(name, justify="right")
    for layer in profile.layers:
        proxy = layer.metrics.get("proxy_eval")
        shown = "–" if proxy is None else f"{proxy:.4f}" + ("" if layer.proxy_source == "measured" else " ~")
        table.add_row(
            "–" if layer.block is None else str(layer.block),
            layer.role if layer.role is not Role.OTHER else layer.layer.rpartition(".")[2],
            f"{layer.metrics['gradient_energy']:.3g}",
            f"{layer.metrics['fisher']:.3g}",
            shown,
            f"{layer.utility:.3f}",
        )
    _console.print(table)
    if profile.proxy is not None and not profile.proxy.is_complete:
        _console.print("~ proxy interpolated by depth within the layer's role, not measured", markup=False)
    for warning in profile.warnings:
        _console.print(f"note: {warning}", markup=False)
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    _console.print(f"{result.folder} ({spent})" if spent else str(result.folder), markup=False)
    return True


def show_plan(result: PlanResult) -> bool:
    """Print the chosen sizes, the spend and the candidates."""
    _print_plan(result.plan)
    _console.print(f"candidates: {', '.join(result.candidates)}", markup=False)
    _console.print(str(result.path) if result.path else "dry run: nothing was written", markup=False)
    return True


def show_race(result: RaceResult) -> bool:
    """Print the runners as they left the race, and its verdict."""
    race = result.plan.race
    if race is None:
        _console.print(f"would race: {', '.join(result.runners)}", markup=False)
        return True
    table = Table(title=f"race: {race.share_of_tuning:.0%} of the tuning run")
    for name in ("candidate", "held-out loss", "steps", "seeds"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for candidate in race.candidates:
        mark = " ← chosen" if candidate.name == race.winner else ""
        table.add_row(candidate.name + mark, f"{candidate.held_out_loss:.4f}", str(candidate.steps), str(len(candidate.seeds)))
    _console.print(table)
    _console.print(race.verdict, markup=False)
    return True


def show_tune(result: TuneResult) -> bool:
    """Print every arm beside the others."""
    if result.evaluation is None:
        for name, fact in result.facts.items():
            _console.print(f"{name:<8} {fact}", markup=False)
        return True
    _print_arms(result.evaluation)
    _console.print(f"{result.adapter} loads with peft's PeftModel.from_pretrained", markup=False)
    return True


def show_evaluate(result: Evaluation) -> bool:
    """Print every model beside the others."""
    _print_arms(result)
    return True


def show_validate(result: Validation) -> bool:
    """Print every check; false when one failed."""
    _console.print(validation_table(result))
    return not result.has_failed


def show_report(result: Path) -> bool:
    """Say where the page lies."""
    _console.print(str(result), markup=False)
    return True


def show_demo(result: DemoResult) -> bool:
    """Print what the demo came to; false when a check of its plan failed."""
    _print_plan(result.plan)
    _print_arms(result.evaluation)
    if result.plan.race is not None:
        _console.print(f"race: {result.plan.race.verdict}", markup=False)
    failed = [check.name for check in result.validation.checks if check.verdict == "fail"]
    _console.print(f"checks: {'all kept' if not failed else 'failed: ' + ', '.join(failed)}", markup=False)
    _console.print(f"{result.seconds:.0f} s; open {result.report}", markup=False)
    return not failed


def _print_plan(plan: Plan) -> None:
    table = Table(title=f"{plan.chosen.name}: {plan.params:,} adapter parameters, head apart {plan.head_params:,}")
    blocks = sorted({layer.block for layer in plan.layers if layer.block is not None})
    roles = list(dict.fromkeys(layer.role for layer in plan.layers))
    sizes = {(layer.block, layer.role): layer for layer in plan.layers}
    table.add_column("block", justify="right")
    for role in roles:
        table.add_column(role.replace("attention.", "attn "), justify="right")
    for block in blocks:
        cells = [sizes.get((block, role)) for role in roles]
        table.add_row(str(block), *("" if cell is None else str(cell.size) if cell.size else "–" for cell in cells))
    _console.print(table)
    for name, budget in plan.budgets.items():
        if budget.limit is not None:
            _console.print(
                f"{name}: {budget.spent:,.6g} of {budget.limit:,.6g} ({budget.spent / budget.limit:.1%})", markup=False
            )
    solver = plan.solver
    uniform = "" if solver.uniform_value is None else f", uniform has {solver.uniform_value:.4g}"
    _console.print(
        f"optimum: predicted value {solver.value:.4g}, bound {solver.bound:.4g}, gap {solver.gap:.1e}{uniform} "
        "(it ranks plans; layers' gains do not add up to nats)",
        markup=False,
    )
    for note in plan.metadata.notes:
        _console.print(f"note: {note}", markup=False)


def _print_arms(evaluation: Evaluation) -> None:
    """Print what eighty columns hold first: the lesser metrics come only where the terminal is wide enough for them."""
    metrics = list(dict.fromkeys(name for arm in evaluation.arms for name in arm.metrics))
    metrics.sort(key=lambda name: (name != evaluation.primary_metric, name != "loss"))
    several_seeds = len({arm.seed for arm in evaluation.arms}) > 1
    if _console.width < _WIDE:
        metrics = metrics[:2]
    heads = sorted({arm.head_params for arm in evaluation.arms})
    apart = f"task head apart: {' or '.join(f'{head:,}' for head in heads)} parameters" if heads != [0] else None
    table = Table(title=f"{evaluation.task}, {evaluation.eval_samples} held-out samples, {evaluation.machine}", caption=apart)
    table.add_column("arm", no_wrap=True)
    for name in (*metrics, "parameters", "seconds", "peak MiB", *(["seed"] if several_seeds else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in evaluation.arms:
        table.add_row(
            arm.name,
            *(f"{arm.metrics[name]:.4f}" if name in arm.metrics else "–" for name in metrics),
            f"{arm.trainable_params:,}",
            f"{arm.train_seconds:.1f}",
            f"{arm.peak_memory_bytes / 2**20:,.0f}",
            *([str(arm.seed)] if several_seeds else []),
        )
    _console.print(table)
