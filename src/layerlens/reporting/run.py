"""`layerlens report`: one self-contained page about whatever a run left."""

from __future__ import annotations

from pathlib import Path

from layerlens.reporting.bench.run import build_bench_report, is_bench
from layerlens.reporting.compression.folder import is_compressed
from layerlens.reporting.compression.run import build_compression_report
from layerlens.reporting.page import render_page
from layerlens.reporting.run_folder import RunFolder, read_run
from layerlens.reporting.sections.budgets import budgets_section
from layerlens.reporting.sections.checks import checks_section
from layerlens.reporting.sections.gains import gains_section
from layerlens.reporting.sections.layers import layers_section
from layerlens.reporting.sections.losses import losses_section
from layerlens.reporting.sections.pareto import pareto_section
from layerlens.reporting.sections.plan_map import plan_map_section
from layerlens.reporting.sections.provenance import provenance_section
from layerlens.reporting.sections.race import race_section
from layerlens.reporting.sections.results import results_section
from layerlens.reporting.sections.time_ratios import time_ratios_section
from layerlens.reporting.summary import tiles
from layerlens.reporting.verdict import headline, statements

SECTIONS = (
    results_section,
    time_ratios_section,
    plan_map_section,
    budgets_section,
    race_section,
    pareto_section,
    gains_section,
    losses_section,
    checks_section,
    layers_section,
    provenance_section,
)


def build_report(folder: Path) -> str:
    """Write the page of a run folder.

    Args:
        folder: Holds any of `profile/`, `plan.json`, `plan.candidates/`, `evaluation.json`, `validation.json`, or is a
            compressed folder or a suite's; parts that are missing are left out, and the page says so.

    Returns:
        HTML that needs no network; the same files give the same bytes.

    Raises:
        ManifestError: there is nothing to report, or a file is damaged or does not add up.
    """
    if is_compressed(folder):
        return build_compression_report(folder)
    if is_bench(folder):
        return build_bench_report(folder)
    run = read_run(folder)
    kicker = f"LayerLens · {_subject(run)}"
    return render_page(
        title=kicker,
        kicker=kicker,
        headline=headline(run),
        tiles=tiles(run),
        statements=statements(run),
        sections=[section for make in SECTIONS if (section := make(run)) is not None],
        missing=run.missing,
    )


def _subject(run: RunFolder) -> str:
    model = (
        run.plan.model.id if run.plan else run.profile.model.id if run.profile else run.evaluation.model if run.evaluation else ""
    )
    data = run.profile.data.id if run.profile else ""
    short = model.rstrip("/").rsplit("/", 1)[-1]
    return " on ".join(part for part in (short, data.rstrip("/").rsplit("/", 1)[-1]) if part) or run.name
