"""Peak memory, time and success of `layerlens profile` over published shapes, streamed and in memory, beside other libraries.

    python benchmarks/memory.py [--shapes bert-base,gpt2,… | all] [--modes stream,stream-bf16,memory] [--peers] [--no-plain]
                                [--max-memory 2GB --num-samples N --head-samples N --max-length 128 --batch-size 16]
                                [--threads 2 --timeout 3600]
    python benchmarks/memory.py --show              (prints the table and draws the plot from what is measured)

Each row is a process of its own: `python -m layerlens profile …` on a shape of `shapes.py`, proxies off, or `peers.py`. Peak is
the child's own `ru_maxrss` as `os.wait4` gives it, mapped file pages included. Linux starts a child's figure at its parent's
resident set, so this file imports no torch and no numpy; its own peak is in the JSON. "anonymous" is what of it is no file page,
sampled ten times a second; "store" is the most that the output folder took meanwhile, next to all of it activations.

Seconds are the whole process's wall time. "pass ÷ plain" are the seconds of the profile's stages without head fit, proxies and
block timing, and for another library those of its work, over those of a plain forward and backward with all weights trainable
(`peers.py plain`, same batches, a process of its own, float32 in memory); where only some batches were done, per sample.
`stream-bf16` (`--precision bf16`) is compared with `plain-bf16`, the same pass under autocast; `plain-onednn` is the plain pass
with float32 products by the library that LayerLens takes them to (`linalg/fast_products.py`), to tell what of a ratio is that.
A profile "in memory" and the plain pass hold float32, also of a bfloat16 checkpoint. What would not fit into the memory that is
free is not started, and says so. `uni-layer` runs on one batch: each metric of each block is a pass of its own.

"utility variance" is the variance of the layers' utilities and, in brackets, their coefficient of variation: 0 would mean that
the profile tells nothing apart. (With random weights it shows that the machinery works, and no more.)

MB and GB here are powers of ten, those of `--max-memory` powers of 1,024, as in the command.

Results gather in runs/benchmarks/memory.json, a row for each shape and kind, newest wins; the plot in memory.svg beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from memory_plot import draw
from published_shapes import SHAPES
from shapes import ROOT, data_of

HERE = Path(__file__).resolve().parent
OUT = Path("runs/benchmarks/memory.json")
PROFILES = Path("runs/benchmarks/memory")
MODES = ("stream", "stream-bf16", "memory")
PLAINS = ("plain", "plain-onednn", "plain-bf16")
PEERS = ("opacus-ghost", "opacus-grad-sample", "curvlinops", "eva", "uni-layer")
#: Batches of a peer where not all: what takes passes by the dozen.
PEER_BATCHES = {"uni-layer": 1}
#: Samples of 128 tokens by default; others get 128.
NUM_SAMPLES = {"gpt-neo-1.3b": 32, "llama-3.2-1b": 32, "llama-2-7b": 8}
#: Copies of all weights in float32 that a kind holds at least, and copies per sample of a batch; only to skip what cannot fit.
COPIES = {
    "memory": 3.0,
    "plain": 2.2,
    "plain-onednn": 2.2,
    "plain-bf16": 2.7,
    "opacus-ghost": 2.2,
    "curvlinops": 3.0,
    "eva": 1.2,
    "uni-layer": 2.4,
}
COPIES_PER_SAMPLE = {"opacus-grad-sample": 1.0}
APART_BYTES = 1.5e9
#: Stages of a profile that are not the pass.
APART_STAGES = ("head_fit", "proxies", "timing")
#: Peak in bytes and seconds: to reach, and hoped for.
TARGETS = {"bert-base": ((500e6, None), (450e6, None)), "llama-2-7b": ((2.0e9, 1800.0), (1.5e9, 900.0))}
#: For the rest: peak over the bytes of the weights.
MAX_RATIO = 2.0
PASS_TARGET = {"stream": (2.0, 1.6), "stream-bf16": (2.0, 1.6), "memory": (2.0, 1.5)}


def measured(command: list[str], log: Path, timeout: float, watched: Path | None = None) -> dict[str, Any]:
    """Run a command and report what the operating system says of it.

    Args:
        command: What to run.
        log: Where its output goes.
        timeout: Seconds after which it is stopped.
        watched: A folder whose size is followed meanwhile.

    Returns:
        `outcome` ("completes", or the line that says why not), `seconds`, `processor_seconds`, `peak_bytes`,
        `anonymous_bytes`, `store_bytes`, `output`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    anonymous = store = 0
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        is_stopped = False
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            anonymous = max(anonymous, _anonymous_bytes(child.pid))
            store = max(store, _folder_bytes(watched) if watched is not None else 0)
            if not is_stopped and time.perf_counter() - start > timeout:
                child.kill()
                is_stopped = True
            time.sleep(0.1)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = lines[-1] if lines else ""
    failed = "killed, perhaps for memory" if child.returncode == -9 else f"exit {child.returncode}: {told}"
    return {
        "outcome": f"stopped after {timeout:g} s" if is_stopped else "completes" if child.returncode == 0 else failed,
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "anonymous_bytes": anonymous,
        "store_bytes": store,
        "output": told,
    }


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total


def free_bytes() -> int:
    """Memory that the machine can still give."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))


def profiled(name: str, mode: str, options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """One profile in a process of its own."""
    folder = PROFILES / f"{name}-{mode}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "layerlens", "profile", str(ROOT / name), "--data", str(data_of(name)), "--out", str(folder)]
    command += ["--proxy", "off", "--execution", mode.removesuffix("-bf16"), *_flags(settings)]
    command += ["--precision", "bf16"] if mode.endswith("-bf16") else []
    if mode.startswith("stream") and options.max_memory:
        command += ["--max-memory", options.max_memory]
    row = measured(command, PROFILES / f"{name}-{mode}.log", options.timeout, folder)
    row["command"] = " ".join(["layerlens", *command[3:]])
    if row["outcome"] == "completes":
        profile = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        stages = json.loads((folder / "timing.json").read_text(encoding="utf-8")).get("stages", {})
        utilities = [layer["utility"] for layer in profile["layers"]]
        mean = sum(utilities) / len(utilities)
        variance = sum((value - mean) ** 2 for value in utilities) / len(utilities)
        row |= {
            "stages": stages,
            "pass_seconds": sum(seconds for stage, seconds in stages.items() if stage not in APART_STAGES),
            "samples": profile["data"]["num_samples"],
            "utility_variance": variance,
            "utility_variation": variance**0.5 / mean if mean else 0.0,
            "layers": len(utilities),
        }
    return row


def peer(name: str, kind: str, options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Another library, or the plain pass, in a process of its own."""
    command = [sys.executable, str(HERE / "peers.py"), kind, str(ROOT / name), str(data_of(name)), *_flags(settings)]
    if kind in PEER_BATCHES:
        command += ["--batches", str(PEER_BATCHES[kind])]
    row = measured(command, PROFILES / f"{name}-{kind}.log", options.timeout)
    row["command"] = " ".join(["python", "benchmarks/peers.py", *command[2:]])
    if row["outcome"] == "completes":
        found = json.loads(row["output"])
        row |= {"pass_seconds": found["seconds"], "samples": found["samples"]}
    return row


def _flags(settings: dict[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def lacking(kind: str, num_weights: int, batch_size: int) -> str | None:
    """Why a kind is not started; None where it may fit."""
    copies = COPIES.get(kind, 1.2) + COPIES_PER_SAMPLE.get(kind, 0.0) * batch_size
    needed, free = copies * 4 * num_weights + APART_BYTES, free_bytes()
    if kind.startswith("stream") or needed <= free:
        return None
    return f"not started: needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"


def run(name: str, kinds: list[str], options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measure a shape's rows, and save each as it comes."""
    subprocess.run([sys.executable, str(HERE / "shapes.py"), name, "--root", str(ROOT)], check=True, stdout=subprocess.DEVNULL)
    facts = json.loads((ROOT / name / "shape.json").read_text(encoding="utf-8"))
    num_weights = facts["weight_bytes"] // (2 if facts["dtype"] == "bfloat16" else 4)
    settings = {
        "num_samples": options.num_samples or NUM_SAMPLES.get(name, 128),
        "max_length": options.max_length,
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    for kind in kinds:
        reason = lacking(kind, num_weights, options.batch_size)
        make = profiled if kind in MODES else peer
        own = settings | {"head_samples": options.head_samples} if kind in MODES and options.head_samples else settings
        row: dict[str, Any] = {"outcome": reason} if reason else make(name, kind, options, own)
        row |= {
            "shape": name,
            "kind": kind,
            "parameters": num_weights,
            "weight_bytes": facts["weight_bytes"],
            "dtype": facts["dtype"],
        }
        row |= {"settings": settings, "max_memory": options.max_memory if kind.startswith("stream") else None}
        row |= {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
        row["harness_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        results[f"{name} {kind}"] = row
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"{name} {kind}: {row['outcome']}", file=sys.stderr)


def ratio(row: dict[str, Any], results: dict[str, Any]) -> float | None:
    """A row's work over the plain pass's, per sample; None unless both were measured with the same settings."""
    yardstick = "plain-bf16" if row["kind"] == "stream-bf16" else "plain"
    plain = results.get(f"{row['shape']} {yardstick}", {})
    if "pass_seconds" not in row or "pass_seconds" not in plain or row["settings"] != plain["settings"]:
        return None
    return float(row["pass_seconds"] / row["samples"] / (plain["pass_seconds"] / plain["samples"]))


def verdicts(row: dict[str, Any], over_plain: float | None) -> str:
    """What of the targets a profile's row meets."""
    if row["kind"] not in MODES or row["outcome"] != "completes":
        return ""
    told = []
    if row["kind"].startswith("stream"):
        for word, limits in zip(("reach", "goal"), TARGETS.get(row["shape"], ((MAX_RATIO * row["weight_bytes"], None),))):
            kept = row["peak_bytes"] <= limits[0] and (limits[1] is None or row["seconds"] <= limits[1])
            told.append(
                f"{word} {limits[0] / 1e6:.0f} MB{f', {limits[1]:.0f} s' if limits[1] else ''}: {'yes' if kept else 'NO'}"
            )
    if over_plain is not None:
        reach, goal = PASS_TARGET[row["kind"]]
        told.append(f"÷ {reach:g}/{goal:g}: {'goal' if over_plain <= goal else 'yes' if over_plain <= reach else 'NO'}")
    return "; ".join(told)


def show(results: dict[str, Any], out: Path) -> None:
    """Print every row, and draw the plot."""
    table = Table(title="one process a row; peak is its own maximum resident set, file pages included")
    left = ("shape", "kind", "outcome")
    right = ("weights GB", "samples", "seconds", "peak MB", "anonymous", "store MB", "÷ weights", "pass ÷ plain")
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    table.add_column("utility variance")
    table.add_column("targets", overflow="fold")
    order = {name: place for place, name in enumerate(SHAPES)}
    kinds = {kind: place for place, kind in enumerate((*MODES, *PLAINS, *PEERS))}
    for row in sorted(results.values(), key=lambda row: (order[row["shape"]], kinds[row["kind"]])):
        over_plain = ratio(row, results)
        cells = [f"{row['weight_bytes'] / 1e9:.2f}", str(row.get("samples", ""))]
        is_run = "peak_bytes" in row
        cells += (
            [f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}", f"{row['anonymous_bytes'] / 1e6:.0f}"]
            if is_run
            else [""] * 3
        )
        cells.append(f"{row['store_bytes'] / 1e6:.0f}" if row.get("store_bytes") else "")
        cells.append(f"{row['peak_bytes'] / row['weight_bytes']:.2f}" if is_run else "")
        cells.append("" if over_plain is None else f"{over_plain:.2f}")
        cells.append(f"{row['utility_variance']:.4f} ({row['utility_variation']:.2f})" if "utility_variance" in row else "")
        kind = f"{row['kind']} ≤ {row['max_memory']}" if row["max_memory"] else row["kind"]
        table.add_row(row["shape"], kind, row["outcome"], *cells, verdicts(row, over_plain))
    Console(width=190).print(table)
    plot = out.with_suffix(".svg")
    plot.write_text(draw(list(results.values())), encoding="utf-8")
    print(f"{out}, {plot}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="bert-base", help=f"comma-separated, or all: {', '.join(SHAPES)}")
    parser.add_argument("--modes", default="stream,memory", help=f"of {', '.join(MODES)}; '' for none")
    parser.add_argument(
        "--peers", nargs="?", const=",".join(PEERS), default="", help=f"all other libraries, or those named; {PLAINS[1]} too"
    )
    parser.add_argument("--no-plain", action="store_true", help="leave the plain pass out")
    parser.add_argument("--max-memory", default=None, help="cap of the streamed rows, as 2GB")
    parser.add_argument("--num-samples", type=int, default=None, help="128, 32 above a billion weights, 8 for 7B if not given")
    parser.add_argument("--head-samples", type=int, default=None, help="samples a new head is fitted on")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of one row at most")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    names = list(SHAPES) if options.shapes == "all" else [name for name in options.shapes.split(",") if name]
    kinds = [kind for kind in options.modes.split(",") if kind]
    if not options.no_plain:
        kinds += ["plain", *(["plain-bf16"] if "stream-bf16" in kinds else [])]
    kinds += [kind for kind in options.peers.split(",") if kind]
    if unknown := [*(set(names) - set(SHAPES)), *(set(kinds) - {*MODES, *PLAINS, *PEERS})]:
        parser.error(f"unknown {', '.join(sorted(unknown))}")
    results: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if not options.show:
        for name in names:
            run(name, kinds, options, results)
    show(results, options.out)


if __name__ == "__main__":
    main()
