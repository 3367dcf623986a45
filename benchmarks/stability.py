"""How far a profile, and the plan made from it, depend on the samples, their number, the seed and the settings.

    python benchmarks/stability.py [--models minilm,stories260k] [--seeds 3] [--processes 2] [--keep]
                                   [--out runs/benchmarks/stability.json]

MiniLM (the demo's model) on `stdlib-docs`, classes of docstrings; `stories260k` moved to Shakespeare. Every profile by
`layerlens.profile` with its default numbers of samples, every plan by `layerlens.plan` at one budget of trainable parameters,
proxies off. What varies:

set      disjoint parts of the data, dealt at random, each with its own calibration samples and its own fitted head; one seed. The
         docstrings are too few for more than two such parts, so they are halved twice; only halves of one dealing are compared
seed     one part, other seeds: which of its samples are measured, the random head, the signs and halves of the Grams
count    how many samples are measured, out of all data; each against the most
config   tokens of a sample, samples that fit the head, batch size, rows of the Grams, damping, labels of the Fisher; each against
         the default, and all together, where those that change nothing count too. Batch size, rows and damping cannot change the
         utilities, but they do change the curves and the plan

"Utility variance" is read as the **relative spread**: the standard deviation of a layer's utility over the profiles, averaged
over layers, as a share of the mean utility. So 5 % says that another calibration set moves a typical utility by a twentieth of
the average one. It is the strictest of the common readings that is not ruled by layers of no weight: a squared coefficient of
variation would pass at a spread of 22 %, and a mean of each layer's own coefficient hangs on the layers near zero, which get
nothing either way. Goals: under 5 % over sets and seeds, under 10 % over configs. Beside it stand the other readings, defined in
`stability_readings.py`: the median layer's own coefficient of variation, the mean absolute difference of two profiles' utilities,
the share of all variance that is not the layers', the Spearman correlation; for plans the share of layers whose rank changes,
the rank that moves, the value that one profile's plan keeps under another's curves, and the spread of the predicted value itself.

"Value kept" is what a user loses: 99 % says that the plan is as good as the other profile's own, however many ranks differ (a
concave curve is flat where ranks change hands). Intervals are 95 % bootstrap intervals over layers, or, for the last two, over
profiles (rough, with so few, and none for two). Profiles run in two processes of one thread each; figures depend on neither.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent))

import stability_readings as readings
from settings import SHARED
from stability_readings import Reading
from stability_tables import GOALS, PLAN_COLUMNS, UTILITY_COLUMNS, show

FOLDER = Path("runs/benchmarks/stability")
#: One change each to the default settings, for every model.
CONFIGS: tuple[dict[str, Any], ...] = (
    {"batch_size": 4},
    {"gram_tokens": 2048},
    {"damping": 0.3},
    {"fisher_labels": "true"},
)
DEFAULT_SAMPLES = 512
CHUNK_CHARACTERS = 1000


@dataclass(frozen=True)
class Subject:
    """A model with its data, its settings and its budget.

    Attributes:
        deals: How often the data is dealt anew.
        sets: Disjoint parts of one dealing.
        settings: Where they differ from the defaults.
        counts: Numbers of samples; the last is the reference.
        configs: Changes to the settings beside those that every model gets.
        max_trainable_params: Budget of the plans.
    """

    name: str
    deals: int
    sets: int
    settings: dict[str, Any]
    counts: tuple[int, ...]
    configs: tuple[dict[str, Any], ...]
    max_trainable_params: int


@dataclass(frozen=True)
class Job:
    """One profile to make."""

    subject: str
    axis: str
    variant: str
    data: str
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        return FOLDER / self.subject / f"{self.axis} {self.variant}".replace(" ", "-")


@dataclass(frozen=True)
class Outcome:
    """What is compared: utilities [layers], ranks [layers], curves [layers ranks], and the predicted value of the plan."""

    utilities: np.ndarray
    ranks: np.ndarray
    curves: np.ndarray
    value: float
    seconds: float


SUBJECTS = {
    "minilm": Subject(
        name="minilm",
        deals=2,
        sets=2,
        settings={"max_length": 64},
        counts=(128, 256, 512),
        configs=({"max_length": 32}, {"head_samples": 256}),
        max_trainable_params=50_000,
    ),
    "stories260k": Subject(
        name="stories260k",
        deals=1,
        sets=4,
        settings={},
        counts=(128, 256, 512, 1024),
        configs=({"max_length": 64}, {"gram_tokens": 8192}, {"damping": 0.03}),
        max_trainable_params=5_780,
    ),
}


def model_of(name: str) -> str:
    from layerlens.workflow.demo import demo_model

    return str(demo_model()) if name == "minilm" else str(SHARED / "models" / name)


def written_parts(subject: Subject) -> tuple[list[list[str]], str]:
    """Write the data as disjoint parts and as a whole; returns the files of the parts of each dealing, and that of all."""
    folder = FOLDER / subject.name / "data"
    folder.mkdir(parents=True, exist_ok=True)
    if subject.name == "minilm":
        from layerlens.data.sources.stdlib_docs import read_stdlib_docs

        table = read_stdlib_docs()
        names = table.class_names["part"]
        pairs = zip(table.columns["docstring"], table.columns["part"], strict=True)
        rows = [json.dumps({"text": text, "label": names[part]}) + "\n" for text, part in pairs]
        ending = "jsonl"
    else:
        text = (SHARED / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
        rows, ending = _chunks(text), "txt"

    def write(label: str, members: list[int]) -> str:
        file = folder / f"{label}.{ending}"
        file.write_text("".join(rows[row] for row in sorted(members)), encoding="utf-8")
        return str(file)

    deals = []
    for deal in range(subject.deals):
        order = np.random.default_rng(deal).permutation(len(rows)).tolist()
        deals.append([write(f"{deal}-{part}", order[part :: subject.sets]) for part in range(subject.sets)])
    return deals, write("all", list(range(len(rows))))


def _chunks(text: str) -> list[str]:
    """Pieces of a text of about a thousand characters, cut at line ends."""
    pieces, current = [], ""
    for line in text.splitlines(keepends=True):
        current += line
        if len(current) >= CHUNK_CHARACTERS:
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces


def jobs_of(subject: Subject, num_seeds: int) -> list[Job]:
    """Every profile of one model; the first part with seed 0 and the default settings is the base of two other axes."""
    deals, whole = written_parts(subject)
    base = subject.settings | {"seed": 0}
    jobs = [
        Job(subject.name, "set", f"{deal} {part}", file, base)
        for deal, files in enumerate(deals)
        for part, file in enumerate(files)
    ]
    first = deals[0][0]
    jobs += [Job(subject.name, "seed", str(seed), first, base | {"seed": seed}) for seed in range(1, num_seeds)]
    jobs += [Job(subject.name, "count", str(count), whole, base | {"num_samples": count}) for count in subject.counts]
    for change in (*subject.configs, *CONFIGS):
        name = " ".join(f"{key} {value}" for key, value in change.items())
        jobs.append(Job(subject.name, "config", name, first, base | change))
    return jobs


def measured(job: Job) -> Outcome:
    """Profile and plan; runs in a process of its own."""
    from layerlens.artifacts.profile import load_profile
    from layerlens.config import OptimizationConfig, ProfilingConfig
    from layerlens.workflow.plan import plan
    from layerlens.workflow.profile import profile

    start = time.perf_counter()
    config = ProfilingConfig.model_validate({"num_samples": DEFAULT_SAMPLES, "proxy": "off", "threads": 1} | job.settings)
    profile(model_of(job.subject), job.data, job.folder, config, command="benchmarks/stability.py")
    found, arrays, _ = load_profile(job.folder)
    budget = OptimizationConfig(max_trainable_params=SUBJECTS[job.subject].max_trainable_params)
    best = plan(job.folder, config=budget, dry_run=True).plan
    names = [layer.layer for layer in found.layers]
    return Outcome(
        utilities=np.array([layer.utility for layer in found.layers]),
        ranks=np.array([best.ranks.get(name, 0) for name in names]),
        curves=np.stack([arrays[f"gain/{name}"] for name in names]).astype(np.float64),
        value=best.solver.value,
        seconds=time.perf_counter() - start,
    )


def compared(groups: list[list[Outcome]]) -> dict[str, Reading]:
    """All readings of some profiles of one model; only profiles of one group are compared with each other."""
    utilities = np.array([[outcome.utilities for outcome in group] for group in groups])
    ranks = np.array([[outcome.ranks for outcome in group] for group in groups])
    kept = readings.kept_values(ranks, np.array([[outcome.curves for outcome in group] for group in groups]))
    values = np.array([[outcome.value for outcome in group] for group in groups])
    return {
        "relative_spread": readings.over_layers(readings.relative_spread, utilities),
        "layer_variation": readings.over_layers(readings.layer_variation, utilities),
        "mean_difference": readings.over_layers(readings.mean_difference, utilities),
        "variance_share": readings.over_layers(readings.variance_share, utilities),
        "spearman": readings.over_layers(readings.rank_correlation, utilities),
        "changed_ranks": readings.over_layers(readings.changed_ranks, ranks),
        "moved_rank": readings.over_layers(readings.moved_rank, ranks),
        "kept_value": readings.over_profiles(kept),
        "value_spread": readings.spread_of(values),
    }


def groups_of(subject: Subject, jobs: list[Job], outcomes: list[Outcome]) -> dict[str, list[list[Outcome]]]:
    """What is compared with what, by the name of the row."""
    found: dict[str, dict[str, Outcome]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        found.setdefault(job.axis, {})[job.variant] = outcome
    sets, counts = list(found["set"].values()), list(found["count"].items())
    base = sets[0]
    deals = [sets[start : start + subject.sets] for start in range(0, len(sets), subject.sets)]
    groups = {f"set: {subject.sets} disjoint parts × {subject.deals}": deals}
    seeds = [base, *found.get("seed", {}).values()]
    if len(seeds) > 1:
        groups[f"seed: {len(seeds)} seeds"] = [seeds]
    most, reference = counts[-1]
    groups |= {f"count: {count} against {most}": [[outcome, reference]] for count, outcome in counts[:-1]}
    groups |= {f"config: {name}": [[base, outcome]] for name, outcome in found["config"].items()}
    groups["config: all together"] = [[base, *found["config"].values()]]
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="read profiles of an earlier run again where they are the same")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/stability.json"))
    options = parser.parse_args()
    if not options.keep:
        shutil.rmtree(FOLDER, ignore_errors=True)
    start = time.perf_counter()
    subjects = [SUBJECTS[name] for name in options.models.split(",")]
    jobs = {subject.name: jobs_of(subject, options.seeds) for subject in subjects}
    with ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {name: [pool.submit(measured, job) for job in own] for name, own in jobs.items()}
        outcomes = {name: [future.result() for future in futures] for name, futures in running.items()}
    console, result = Console(width=150), {}
    for subject in subjects:
        groups = groups_of(subject, jobs[subject.name], outcomes[subject.name])
        rows = {row: compared(members) for row, members in groups.items()}
        facts = f"{subject.name}: {len(outcomes[subject.name][0].utilities)} layers, {DEFAULT_SAMPLES} samples"
        console.print(show(f"{facts}, utilities", rows, UTILITY_COLUMNS))
        console.print(show(f"{facts}, plans of {subject.max_trainable_params:,} parameters", rows, PLAN_COLUMNS))
        result[subject.name] = {
            "settings": subject.settings,
            "max_trainable_params": subject.max_trainable_params,
            "rows": {row: {key: asdict(reading) for key, reading in found.items()} for row, found in rows.items()},
            "profiles": {
                f"{job.axis} {job.variant}": {
                    "settings": job.settings,
                    "seconds": outcome.seconds,
                    "value": outcome.value,
                    "utilities": outcome.utilities.tolist(),
                    "ranks": outcome.ranks.tolist(),
                }
                for job, outcome in zip(jobs[subject.name], outcomes[subject.name], strict=True)
            },
        }
    console.print(f"{sum(map(len, jobs.values()))} profiles in {time.perf_counter() - start:.0f} s")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"goals": GOALS, "models": result}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
