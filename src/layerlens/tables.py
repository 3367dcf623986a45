"""What each command prints when it is done. A function here says by its result whether every check passed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from layerlens.artifacts.compression_evaluation import CompressionEvaluation, leave_one_out_of
from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Validation
from layerlens.benching.table import bench_tables, cost_lines
from layerlens.budget.table import plan_table
from layerlens.evaluation.table import texts_table
from layerlens.validation.table import validation_table
from layerlens.words import Role

if TYPE_CHECKING:
    from layerlens.workflow.bench import BenchResult
    from layerlens.workflow.compress import CompressResult
    from layerlens.workflow.demo import DemoResult
    from layerlens.workflow.export import ExportResult
    from layerlens.workflow.merge import MergeResult
    from layerlens.workflow.plan import PlanResult
    from layerlens.workflow.profile import ProfileResult
    from layerlens.workflow.race import RaceResult
    from layerlens.workflow.tune import TuneResult

#: Names of files and folders stand in what is printed: brackets and colons in them are no markup.
_console = Console(highlight=False, markup=False, emoji=False)

_WIDE = 110  # columns from which every metric of a result fits beside the rest


def show_compress(result: CompressResult) -> bool:
    """Print what was written and what every candidate and baseline lost, or what a dry run would do."""
    for name, fact in result.facts.items():
        _console.print(f"{name:<8} {fact}")
    plan = result.plan
    if plan is None:
        return True
    before, after = plan.model.size_bytes, plan.size_bytes
    _console.print(
        f"{before:,} bytes → {after:,} ({after / before:.1%}), {plan.bits_per_weight:.3f} bits per weight; "
        f"chosen: {plan.chosen.name}"
    )
    formats = Table(title="what each role is stored as (matrices)")
    formats.add_column("role", no_wrap=True)
    formats.add_column("formats")
    formats.add_column("bytes", justify="right")
    for role in dict.fromkeys(layer.role for layer in plan.layers):
        mine = [layer for layer in plan.layers if layer.role == role]
        counts = Counter(layer.format for layer in mine)
        shown = ", ".join(f"{name} × {count}" for name, count in sorted(counts.items()))
        formats.add_row(role, shown, f"{sum(layer.size_bytes for layer in mine):,}")
    _console.print(formats)
    if plan.measured:
        table = Table(title="measured on held-out samples, best first")
        is_embedding = plan.metadata.get("held_out", {}).get("compared") == "embedding"
        for column in ("plan", "bits per weight", "1 − cosine" if is_embedding else "KL, nats", "predicted"):
            table.add_column(column, justify="left" if column == "plan" else "right")
        for one in plan.measured:
            predicted = "–" if one.predicted_loss is None else f"{one.predicted_loss:.4g}"
            name = f"{one.name} (baseline)" if one.is_baseline else one.name
            table.add_row(name, f"{one.bits_per_weight:.3f}", f"{one.kl_nats:.4g}", predicted)
        _console.print(table)
        _console.print(
            "the probes that anchor predictions are of the same samples as this race; layerlens evaluate measures on others"
        )
    if (trial := leave_one_out_of(plan)) is not None:
        _console.print(f"pillars: {trial.named_pillars}")
    for name, reason in result.left_out.items():
        _console.print(f"left out: {name}: {reason}")
    for name, reason in plan.metadata.get("only_measured", {}).items():
        _console.print(f"measured, not to be written: {name}: {reason}")
    for note in plan.metadata.get("notes", []):
        _console.print(f"note: {note}")
    if plan.measured:
        _console.print(f"{result.folder}: `import layerlens`, then AutoModel….from_pretrained(folder)")
    return True


def show_profile(result: ProfileResult) -> bool:
    """Print each layer's utility and metrics, or what a dry run would measure."""
    if result.profile is None:
        for name, fact in result.facts.items():
            _console.print(f"{name:<8} {fact}")
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
        _console.print("~ proxy interpolated by depth within the layer's role, not measured")
    for warning in profile.warnings:
        _console.print(f"note: {warning}")
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    _console.print(f"{result.folder} ({spent})" if spent else str(result.folder))
    return True


def show_plan(result: PlanResult) -> bool:
    """Print the chosen sizes, the spend and the candidates."""
    _print_plan(result.plan)
    _console.print(f"candidates: {', '.join(result.candidates)}")
    if result.path is not None:
        _console.print(str(result.path))
    _tell_dry_run(is_written=result.path is not None)
    return True


def show_race(result: RaceResult) -> bool:
    """Print the runners as they left the race, and its verdict; of a dry run who would race for how long."""
    for name, fact in result.facts.items():
        _console.print(f"{name:<8} {fact}")
    race = result.plan.race
    if result.facts or race is None:
        return True
    table = Table(title=f"race: {race.share_of_tuning:.0%} of the tuning run")
    for name in ("candidate", "held-out loss", "steps", "seeds"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for candidate in race.candidates:
        mark = " ← chosen" if candidate.name == race.winner else ""
        table.add_row(candidate.name + mark, f"{candidate.held_out_loss:.4f}", str(candidate.steps), str(len(candidate.seeds)))
    if race.candidates:
        _console.print(table)
    _console.print(race.verdict)
    return True


def show_tune(result: TuneResult) -> bool:
    """Print every arm beside the others."""
    if result.evaluation is None:
        for name, fact in result.facts.items():
            _console.print(f"{name:<8} {fact}")
        return True
    _print_arms(result.evaluation)
    # Plain PEFT knows neither our own methods nor what a quantised base was.
    is_plain = not any((result.adapter / name).exists() for name in ("base.json", "layerlens_sites.json"))
    how = "peft's PeftModel.from_pretrained" if is_plain else "layerlens.load_adapted"
    _console.print(f"{result.adapter} loads with {how}")
    return True


def show_evaluate(result: Evaluation | CompressionEvaluation) -> bool:
    """Print every model beside the others, or what a compressed one lost."""
    if isinstance(result, CompressionEvaluation):
        _print_losses(result)
    else:
        _print_arms(result)
    return True


def show_export(result: ExportResult) -> bool:
    """Say what was written."""
    _console.print(f"{result.folder}: {result.size_bytes:,} bytes, {result.form}")
    for note in result.notes:
        _console.print(f"  {note}", soft_wrap=True)
    _tell_dry_run(is_written=result.is_written)
    return True


def show_merge(result: MergeResult) -> bool:
    """Say what was written."""
    _console.print(f"{result.folder}: {result.size_bytes:,} bytes of {result.dtype}, an ordinary checkpoint")
    _tell_dry_run(is_written=result.is_written)
    return True


def _tell_dry_run(*, is_written: bool) -> None:
    if not is_written:
        _console.print("dry run: nothing was written")


def _print_losses(result: CompressionEvaluation) -> None:
    size = result.size_bytes
    _console.print(
        f"{size.before:,} bytes → {size.after:,} ({size.after / size.before:.1%}), {result.bits_per_weight:.3f} bits per weight"
    )
    _console.print(texts_table(result))
    counts = Counter(layer.verdict for layer in result.layers)
    _console.print("layers: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if result.memory is not None:
        before, after = result.memory.before.weight_bytes, result.memory.after.weight_bytes
        _console.print(f"weights in memory: {before:,} bytes → {after:,}")
    if result.speed is not None:
        speed = result.speed.tokens_per_second
        _console.print(f"generation at batch 1: {speed.before:.1f} → {speed.after:.1f} tokens/s")
    if result.travel is not None:
        _console.print(f"errors: {result.travel.summary}")
    if result.leave_one_out is not None:
        _console.print(f"pillars: {result.leave_one_out.named_pillars}")
    for note in result.notes:
        _console.print(f"note: {note}")


def show_validate(result: Validation) -> bool:
    """Print every check; false when one failed."""
    _console.print(validation_table(result))
    return not result.has_failed


def show_report(result: Path) -> bool:
    """Say where the page lies."""
    _console.print(str(result))
    return True


def show_bench(result: BenchResult) -> bool:
    """Print the arms of each cell beside each other and what that shows; false when a run died."""
    if result.bench is None:
        for stage in result.planned:
            steps = "" if stage.steps is None else f", {stage.steps:,} steps each"
            _console.print(f"{stage.cell:<28} {stage.stage:<14} {stage.arm:<16} × {stage.count}{steps}")
        _console.print(f"would be written to {result.folder}; nothing was touched")
        return True
    for table in bench_tables(result.bench, width=_console.width):
        _console.print(table)
    for line in (*cost_lines(result.bench), *(f"{found.topic}: {found.text}" for found in result.bench.findings)):
        _console.print(line)
    for name, error in result.failures.items():
        _console.print(f"died: {name}: {error}")
    _console.print(f"{result.report}")
    return not result.failures and not result.bench.failed


def show_demo(result: DemoResult) -> bool:
    """Print what the demo came to; false when a check of its plan failed."""
    _print_plan(result.plan)
    _print_arms(result.evaluation)
    if result.plan.race is not None:
        _console.print(f"race: {result.plan.race.verdict}")
    failed = [check.name for check in result.validation.checks if check.verdict == "fail"]
    _console.print(f"checks: {'all kept' if not failed else 'failed: ' + ', '.join(failed)}")
    _console.print(f"{result.seconds:.0f} s; open {result.report}")
    return not failed


def _print_plan(plan: Plan) -> None:
    _console.print(plan_table(plan))
    for name, budget in plan.budgets.items():
        if budget.limit is not None:
            _console.print(
                f"{name}: {budget.spent:,.6g} of {budget.limit:,.6g} ({budget.spent / budget.limit:.1%})", markup=False
            )
    solver = plan.solver
    uniform = "" if solver.uniform_value is None else f", uniform has {solver.uniform_value:.4g}"
    _console.print(
        f"optimum: {'weighted' if plan.is_weighted else 'predicted'} value {solver.value:.4g}, bound {solver.bound:.4g}, "
        f"gap {solver.gap:.1e}{uniform} (it ranks plans; layers' gains do not add up to nats)"
    )
    for note in plan.metadata.notes:
        _console.print(f"note: {note}")


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
