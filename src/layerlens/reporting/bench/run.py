"""The page about a suite: what came out in plain words, all cells together, then each cell; torch is not needed."""

from __future__ import annotations

from pathlib import Path

from layerlens.artifacts.bench import Bench, Outcome, OverallArm
from layerlens.artifacts.plan import UNIFORM
from layerlens.artifacts.store import read_json
from layerlens.errors import ManifestError
from layerlens.reporting.bench.arms import FULL, LAYERLENS, difference, ratio
from layerlens.reporting.bench.cell import cell_section
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.page import render_page
from layerlens.reporting.quantities import count, counted, percent
from layerlens.reporting.section import Cell as TableCell
from layerlens.reporting.section import Column, Section, figure, table
from layerlens.reporting.sections.provenance import commands, fact_list, version_facts
from layerlens.reporting.summary import Tile
from layerlens.reporting.verdict import Statement, Tone
from layerlens.words import SCHEMA_VERSION

BENCH_FILE = "bench.json"


def is_bench(folder: Path) -> bool:
    """Whether a folder holds a suite's results."""
    return (folder / BENCH_FILE).is_file()


def build_bench_report(folder: Path) -> str:
    """Write the page of a suite's folder.

    Args:
        folder: Holds `bench.json`.

    Returns:
        HTML that needs no network; the same file gives the same bytes.

    Raises:
        ManifestError: the file is missing, damaged or of another schema.
    """
    bench = read_json(folder / BENCH_FILE, Bench)
    if bench.schema_version != SCHEMA_VERSION:
        path, found = folder / BENCH_FILE, bench.schema_version
        raise ManifestError(f"{path} has schema version {found}, this LayerLens reads {SCHEMA_VERSION}; run it again")
    kicker = f"LayerLens · suite {bench.suite}"
    sections = [
        section for section in (_overall(bench), *_cells(bench), _failed(bench), _provenance(bench)) if section is not None
    ]
    return render_page(
        title=kicker,
        kicker=kicker,
        headline=_headline(bench),
        tiles=_tiles(bench),
        statements=[Statement(found.topic, found.text, Tone(found.tone)) for found in bench.findings],
        sections=sections,
        missing=[],
    )


def _headline(bench: Bench) -> str:
    done = len(bench.runs) - len(bench.failed)
    size = ", ".join(map(counted, (len(bench.arms), len(bench.seeds), len(bench.cells)), ("arm", "seed", "cell")))
    if not done:
        return f"No run of {bench.suite} came to an end."
    ours = [paired for cell in bench.cells if (arm := cell.arm(LAYERLENS)) and (paired := arm.against(UNIFORM))]
    if not ours:
        return f"{size}: {counted(done, 'run')}."
    better, worse = (sum(paired.outcome == word for paired in ours) for word in ("better", "worse"))
    rest = len(ours) - better - worse
    if len(ours) == 1:
        word = {Outcome.BETTER: "is better than", Outcome.WORSE: "is worse than"}.get(ours[0].outcome, "is not told apart from")
        return f"LayerLens {word} uniform LoRA over {counted(len(ours[0].seeds), 'seed')}."
    return (
        f"Against uniform LoRA, LayerLens is better in {better}, worse in {worse}, not told apart in {rest} of {len(ours)} cells."
    )


def _tiles(bench: Bench) -> list[Tile]:
    found = []
    ours = next((arm for arm in bench.overall if arm.arm == LAYERLENS), None)
    cell = bench.cells[0] if len(bench.cells) == 1 else None
    alone = cell.arm(LAYERLENS) if cell is not None else None
    source = ours or alone
    where = f"mean over {ours.cells} cells" if ours else cell.name if cell else ""
    if source is not None and source.share_of_full is not None:
        found.append(Tile("Score of full fine-tuning kept", percent(source.share_of_full), where))
    if source is not None and source.time_ratio is not None:
        found.append(Tile("Training time", ratio(source.time_ratio), "of full fine-tuning, same steps"))
    if source is not None and source.memory_ratio is not None:
        found.append(Tile("Peak memory", ratio(source.memory_ratio), "of full fine-tuning"))
    dead = len(bench.failed)
    found.append(Tile("Runs", count(len(bench.runs) - dead), f"{dead} died" if dead else "all came to an end"))
    return found


def _overall(bench: Bench) -> Section | None:
    if not bench.overall:
        return None
    references = [name for name in (UNIFORM, FULL) if any(arm.arm == name for arm in bench.overall)]
    heads = ("Of full's score", "In the worst cell", "Time", "Memory", "Cells")
    columns = [
        Column("Arm"),
        *(Column(head, is_number=True) for head in heads),
        *(Column(f"Minus {name}") for name in references),
    ]
    order = sorted(bench.overall, key=lambda arm: -(arm.share_of_full or 0.0))
    rows = [_overall_row(arm, references) for arm in order]
    caption = (
        "Scores as shares of full fine-tuning's mean in each cell, averaged over cells. Differences are of these shares, each "
        "seed's mean over the cells, with the 95 % interval over seeds."
    )
    shown = table("All cells", columns, rows, highlighted=[arm.arm == LAYERLENS for arm in order], is_sortable=True)
    return Section("overall", "All cells together", figure(shown, caption))


def _overall_row(arm: OverallArm, references: list[str]) -> list[TableCell | str | Markup | int | None]:
    return [
        TableCell(arm.arm),
        TableCell("–" if arm.share_of_full is None else percent(arm.share_of_full), arm.share_of_full),
        TableCell("–" if arm.least_share_of_full is None else percent(arm.least_share_of_full), arm.least_share_of_full),
        TableCell(ratio(arm.time_ratio), arm.time_ratio),
        TableCell(ratio(arm.memory_ratio), arm.memory_ratio),
        str(arm.cells),
        *(difference(arm.against(name), is_share=True) for name in references),
    ]


def _cells(bench: Bench) -> list[Section]:
    return [cell_section(cell, number) for number, cell in enumerate(bench.cells)]


def _failed(bench: Bench) -> Section | None:
    if not bench.failed:
        return None
    columns = [Column("Arm"), Column("Model"), Column("Task"), Column("Seed", is_number=True), Column("Why")]
    rows: list[list[TableCell | str]] = [
        [TableCell(run.arm), run.model, run.task, str(run.seed), run.error or ""] for run in bench.failed
    ]
    shown = table("Runs that died", columns, rows)
    return Section(
        "failed", "Runs that died", figure(shown, "Type the same command again to run them once more; the others stay.")
    )


def _provenance(bench: Bench) -> Section:
    facts: list[tuple[str, Markup | str]] = [("Suite", bench.suite)]
    facts += [("About", bench.description)] if bench.description else []
    facts += [("Seeds", ", ".join(map(str, bench.seeds))), ("Arms", ", ".join(bench.arms))]
    facts += [("Machine", bench.machine)] if bench.machine else []
    notes = element("ul", join(element("li", note) for note in bench.notes))
    facts += version_facts(bench.versions)
    return Section("provenance", "How the figures are meant", join([notes, fact_list(facts), commands({"Suite": bench.command})]))
