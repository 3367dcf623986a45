"""What is lost at equal bytes: LayerLens's choice beside every baseline, on samples that decided nothing.

    python benchmarks/compression.py [--models stdlib-llama,stories260k,deit-tiny,minilm] [--bits 8,6,5,4.25,3.5,3]
                                     [--samples 128 --held-out-samples 32 --max-length 128 --keep PATTERNS]
                                     [--no-predictions] [--anew] [--out runs/benchmarks/compression.json]
    python benchmarks/compression.py --show          (prints the tables of what is measured)

Curves are measured once for a model, as `layerlens compress` does it; then for each number of bits per weight (8 × bytes of all
tensors over parameters, embeddings, norms and scales included) a plan is made, raced on the race's samples against every baseline
at the same bytes, and the winner is what the command would write. Everything is measured once more on a final test; the table
shows that one. "÷ best baseline" compares with whichever baseline does best on the test itself, which nobody knows beforehand.

Baselines: one width everywhere, rounded to nearest or by the second order, the largest that fits, and topped up with one width
more for evenly spaced matrices; plain and activation-whitened SVD with 8-bit factors.

What is compared: KL in nats per predicted token (language models) or image (1,000 classes; there are no ImageNet labels here, so
"same top" is agreement with the original), 1 − cosine per sentence of MiniLM's mean-pooled embeddings, with Spearman's
correlation on STS-B beside it. Models, data and splits: `compression_models.py`.

Results gather in runs/benchmarks/compression.json, point by point: a stopped run goes on where it was, curves included.
Everything is measured anew with `--anew` (after a change of the code), other settings or other curves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compression_models import SUBJECTS
from compression_points import FOLDER, Lab, curves_hash, measure_point, open_lab
from compression_predictions import CHECKED, measure_checked, summary
from compression_tables import points_table, predictions_table, verdict_line, verdicts

BITS = "8,6,5,4.25,3.5,3"


def measured(name: str, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure what is missing of one model, and save each figure as it comes."""
    settings = settings_of(options)
    if options.anew:
        _forget(FOLDER / name)
    entry = results.setdefault(name, {})
    if entry.get("settings") != settings or entry.get("curves") != curves_hash(name):
        # Other curves, as after a change of the code: what was measured with the old ones is no longer of them.
        entry.clear()
        entry |= {"settings": settings, "points": {}, "checked": {}, "seconds": {}}
        saved(results, options.out)
    bits = [f"{float(value):g}" for value in options.bits.split(",")]
    kinds = [] if options.no_predictions else [kind for kind in CHECKED if kind not in entry["checked"]]
    missing = [value for value in bits if value not in entry["points"]]
    if not missing and not kinds:
        return
    start = time.perf_counter()
    lab: Lab = open_lab(SUBJECTS[name], FOLDER / name, settings)
    entry["curves"] = curves_hash(name)
    entry["seconds"].setdefault("curves", time.perf_counter() - start)
    entry["data"] = {**lab.curves.data, "test_samples": len(lab.opened.test_samples)}
    entry["anchors"] = {matrix.layer: matrix.anchor for matrix in lab.curves.matrices}
    for value in missing:
        start = time.perf_counter()
        entry["points"][value] = measure_point(lab, float(value))
        entry["seconds"][value] = time.perf_counter() - start
        saved(results, options.out)
        print(f"{name} {value} bits: {entry['seconds'][value]:.0f} s", file=sys.stderr)
    for kind in kinds:
        entry["checked"][kind] = measure_checked(lab, kind)
        saved(results, options.out)
        print(f"{name} predictions, {kind}: done", file=sys.stderr)
    shutil.rmtree(lab.race.work, ignore_errors=True)


def _forget(folder: Path) -> None:
    """Remove data and curves of a model; what a peer's package made of it stays."""
    for name in ("data", "out.curves"):
        shutil.rmtree(folder / name, ignore_errors=True)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the curves and the test hang on."""
    settings: dict[str, Any] = {"num_samples": options.samples, "held_out_samples": options.held_out_samples}
    settings |= {"max_length": options.max_length, "seed": options.seed}
    return settings | ({"keep": options.keep.split(",")} if options.keep else {})


def saved(results: dict[str, Any], out: Path) -> None:
    for entry in results.values():
        entry["verdicts"] = verdicts(list(entry["points"].values()))
        entry["predictions"] = {kind: summary(rows) for kind, rows in entry["checked"].items() if len(rows) > 2}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def show(results: dict[str, Any], names: list[str]) -> None:
    """Print the tables of some models."""
    console = Console(width=210)
    for name in names:
        entry = results.get(name)
        if entry is None:
            continue
        points = sorted(entry["points"].values(), key=lambda point: -point["bits"])
        console.print(points_table(name, points))
        console.print(verdict_line(name, verdicts(points)))
        if entry["checked"]:
            console.print(predictions_table(name, entry["checked"]))
        console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS))
    parser.add_argument("--bits", default=BITS)
    parser.add_argument("--samples", type=int, default=128, help="calibration samples")
    parser.add_argument("--held-out-samples", type=int, default=32, help="samples of probes and race")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="", help="layers kept as they are, as the command takes them")
    parser.add_argument("--no-predictions", action="store_true", help="leave out each matrix alone")
    parser.add_argument("--anew", action="store_true", help="forget curves and results of these models first")
    parser.add_argument("--show", action="store_true", help="only print what is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compression.json"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    names = options.models.split(",")
    for name in [] if options.show else names:
        measured(name, options, results)
    show(results, names)


if __name__ == "__main__":
    main()
