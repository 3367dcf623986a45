"""Tokens per second and peak memory of streamed profiles on a CUDA device.

    python benchmarks/device_profile.py [--shapes gpt-neo-1.3b,llama-2-7b --num-samples 128 --max-length 128 --batch-size 16]
                                        [--repeats 1 --cpu --root runs/benchmarks/shapes]
                                        [--out runs/benchmarks/device_profile.json]

Each row is a process of its own: `python -m layerlens profile … --device cuda --execution stream`, proxies off, on a shape of
`shapes.py` (made if it is not there). Tokens are those of the calibration samples without padding; "tokens/s" is over the
pass alone (forward, loss, backward with statistics, curves and spectra), "seconds" the whole process. "device peak" is
`torch.cuda.max_memory_allocated`, "host peak" the process's own maximum resident set, pinned buffers and the device's
libraries included. "two blocks" is twice the weights of the largest block as stored, the least that a block at work and the
next one take. `--cpu` adds the same profile on the processor, for the ratio.

Without a CUDA device it says so and measures nothing. Results gather in --out, newest wins.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from memory import measured
from published_shapes import SHAPES
from shapes import ROOT, data_of, make

OUT = Path("runs/benchmarks/device_profile.json")
#: Stages of a profile that are the pass.
PASS_STAGES = ("forward", "loss", "backward")


def profiled(name: str, device: str, options: argparse.Namespace) -> dict[str, Any]:
    """One profile in a process of its own."""
    folder = options.out.parent / "device_profile" / f"{name}-{device}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "layerlens", "profile", str(options.root / name), "--data", str(data_of(name, options.root))]
    command += ["--out", str(folder), "--device", device, "--execution", "stream", "--proxy", "off"]
    for option in ("num_samples", "max_length", "batch_size"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    command += ["--max-store", options.max_store]
    row = measured(command, folder.with_suffix(".log"), options.timeout, folder)
    row |= {"shape": name, "device": device, "command": " ".join(["layerlens", *command[3:]])}
    if row["outcome"] == "completes":
        profile = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        timing = json.loads((folder / "timing.json").read_text(encoding="utf-8"))
        stages = timing["stages"]
        row |= {
            "name": timing["device"],
            "tokens": profile["data"]["num_tokens"],
            "stages": stages,
            "tokens_per_second": profile["data"]["num_tokens"] / sum(stages[stage] for stage in PASS_STAGES),
            "peak_device_bytes": timing["peak_device_bytes"],
            "two_blocks_bytes": 2 * _block_bytes(profile, options.root / name),
        }
    return row


def _block_bytes(profile: dict[str, Any], folder: Path) -> int:
    """Weights of the largest block as stored."""
    facts = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
    by_block: dict[int, int] = {}
    for layer in profile["layers"]:
        if layer["block"] is not None:
            by_block[layer["block"]] = by_block.get(layer["block"], 0) + layer["in_features"] * layer["out_features"]
    return max(by_block.values()) * (2 if facts["dtype"] == "bfloat16" else 4)


def show(rows: list[dict[str, Any]]) -> None:
    """Print every row."""
    table = Table(title="streamed profiles, one process a row")
    for column in ("shape", "device", "outcome"):
        table.add_column(column, overflow="fold")
    for column in ("tokens", "tokens/s", "seconds", "device peak GB", "two blocks GB", "host peak GB"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [""] * 6
        if row["outcome"] == "completes":
            peak = row["peak_device_bytes"]
            cells = [f"{row['tokens']:,}", f"{row['tokens_per_second']:,.0f}", f"{row['seconds']:.1f}"]
            cells += ["" if peak is None else f"{peak / 1e9:.2f}", f"{row['two_blocks_bytes'] / 1e9:.2f}"]
            cells += [f"{row['peak_bytes'] / 1e9:.2f}"]
        table.add_row(row["shape"], row.get("name", row["device"]), row["outcome"], *cells)
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="gpt-neo-1.3b,llama-2-7b", help=f"comma-separated: {', '.join(SHAPES)}")
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-store", default="8GB", help="disk for hidden states")
    parser.add_argument("--repeats", type=int, default=1, help="profiles of each shape; the fastest is shown")
    parser.add_argument("--cpu", action="store_true", help="the same on the processor beside it")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of one row at most")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the shapes")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    names = [name for name in options.shapes.split(",") if name]
    if unknown := set(names) - set(SHAPES):
        parser.error(f"unknown {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        print(f"device_profile: torch {torch.__version__} finds no CUDA device here; nothing was measured", file=sys.stderr)
        return 2
    results: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in names:
        make(name, options.root)
        for device in ("cuda", "cpu") if options.cpu else ("cuda",):
            rows = [profiled(name, device, options) for _ in range(options.repeats)]
            results[f"{name} {device}"] = max(rows, key=lambda row: float(row.get("tokens_per_second", 0.0)))
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    show(list(results.values()))
    return 0 if all(row["outcome"] == "completes" for row in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
