"""Peak memory and time of `layerlens compress` over published shapes, in a process of its own.

    python benchmarks/compress_memory.py [--shapes gpt-neo-1.3b,llama-2-7b] [--max-memory 2GB,3GB] [--bits 4.25]
                                         [--num-samples 8 --held-out-samples 2 --max-length 128] [--processes 1 --threads 2]
                                         [--timeout 10800] [--out runs/benchmarks/compress_memory.json]
    python benchmarks/compress_memory.py --show        (prints the table of what is measured)

Each row is `python -m layerlens compress` on a shape of `shapes.py` (seeded random weights: what is chosen says nothing, what it
takes does), probes off, a few samples. Peak is the process's own `ru_maxrss`, mapped file pages included, as in `memory.py`;
"anonymous" is what of it is no file page; "disk" the most that the curves' folder took meanwhile, factors and hidden states
together. `--max-memory` names one cap for each shape, or one for all; none where it is empty. MB and GB here are powers of ten,
those of `--max-memory` powers of 1,024, as in the command. The written folder is removed once its bytes are known.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from memory import measured
from published_shapes import SHAPES
from shapes import ROOT, data_of

HERE = Path(__file__).resolve().parent
FOLDER = Path("runs/benchmarks/compress_memory")
#: Peak in bytes: to reach, and hoped for.
TARGETS = {"gpt-neo-1.3b": (2.0e9, 1.5e9), "llama-2-7b": (3.0e9, 2.0e9)}
#: Other models that may stand for a shape in a quick try, with their data.
OTHERS = {
    "stories260k": (
        HERE.parent.parent / "shared" / "models" / "stories260k",
        HERE.parent.parent / "shared" / "data" / "tinystories" / "tinystories_train_part.txt",
    )
}


def compressed(name: str, max_memory: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compress one shape in a process of its own."""
    folder = FOLDER / name / "out"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    if name not in OTHERS:
        subprocess.run(
            [sys.executable, str(HERE / "shapes.py"), name, "--root", str(ROOT)], check=True, stdout=subprocess.DEVNULL
        )
    model, data = OTHERS[name] if name in OTHERS else (ROOT / name, data_of(name))
    settings = {
        "num-samples": options.num_samples,
        "held-out-samples": options.held_out_samples,
        "max-length": options.max_length,
        "batch-size": options.batch_size,
        "threads": options.threads,
        "processes": options.processes,
        "bits-per-weight": options.bits,
    }
    command = [sys.executable, "-m", "layerlens", "compress", str(model), "--data", str(data), "--out", str(folder)]
    command += ["--probes", "off", *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]
    if max_memory:
        command += ["--max-memory", max_memory]
    for flag in ("effort", "widths"):
        if value := getattr(options, flag):
            command += [f"--{flag}", value]
    row = measured(command, FOLDER / f"{name}.log", options.timeout, folder.parent)
    row |= {
        "shape": name,
        "settings": settings,
        "max_memory": max_memory or None,
        "command": " ".join(["layerlens", *command[3:]]),
    }
    row["weight_bytes"] = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    if row["outcome"] == "completes":
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        row |= {"size_bytes": plan["size_bytes"], "bits_per_weight": plan["bits_per_weight"], "chosen": plan["chosen"]["name"]}
    row |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    row["harness_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    shutil.rmtree(folder.parent, ignore_errors=True)
    return row


def verdict(row: dict[str, Any]) -> str:
    """Whether the peak is within reach and goal."""
    if row["outcome"] != "completes" or row["shape"] not in TARGETS:
        return ""
    limits = TARGETS[row["shape"]]
    words = [
        f"{word} {limit / 1e9:.1f} GB: {'yes' if row['peak_bytes'] <= limit else 'NO'}"
        for word, limit in zip(("reach", "goal"), limits)
    ]
    return "; ".join(words)


def show(results: dict[str, Any]) -> None:
    """Print every row."""
    table = Table(title="layerlens compress, one process a row; peak is its own maximum resident set, file pages included")
    left = ("shape", "outcome", "cap")
    right = (
        "weights GB",
        "seconds",
        "cores' seconds",
        "peak MB",
        "anonymous",
        "disk MB",
        "÷ weights",
        "written MB",
        "bits/weight",
    )
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    table.add_column("targets", overflow="fold")
    for row in results.values():
        cells = [f"{row['weight_bytes'] / 1e9:.3f}", f"{row['seconds']:.0f}", f"{row['processor_seconds']:.0f}"]
        cells += [f"{row[key] / 1e6:.0f}" for key in ("peak_bytes", "anonymous_bytes", "store_bytes")]
        cells.append(f"{row['peak_bytes'] / row['weight_bytes']:.2f}")
        cells += [f"{row['size_bytes'] / 1e6:.1f}", f"{row['bits_per_weight']:.3f}"] if "size_bytes" in row else ["", ""]
        table.add_row(row["shape"], row["outcome"], row["max_memory"] or "none", *cells, verdict(row))
    Console(width=180).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join([*SHAPES, *OTHERS])
    parser.add_argument(
        "--shapes", default="gpt-neo-1.3b,llama-2-7b", help=f"comma-separated, of: {known}; NAME@N for N of its blocks"
    )
    parser.add_argument("--max-memory", default="2GB,3GB", help="cap of each shape, or one for all; '' for none")
    parser.add_argument("--bits", type=float, default=4.25)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--held-out-samples", type=int, default=2)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--effort", default="", help="as the command takes it")
    parser.add_argument("--widths", default="", help="as the command takes it; fewer take less time and no less memory")
    parser.add_argument("--timeout", type=float, default=10_800.0, help="seconds for one row")
    parser.add_argument("--show", action="store_true", help="only print what is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compress_memory.json"))
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    names, caps = options.shapes.split(","), options.max_memory.split(",")
    if len(caps) not in (1, len(names)):
        raise SystemExit(f"--max-memory names {len(caps)} caps for {len(names)} shapes; give one, or one for each")
    for name, cap in [] if options.show else zip(names, caps * len(names) if len(caps) == 1 else caps):
        results[name] = compressed(name, cap, options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {results[name]['outcome']}", file=sys.stderr)
    show(results)


if __name__ == "__main__":
    main()
