"""How long a person waits for `layerlens --help`, and what planning imports.

    python benchmarks/startup.py [--repeats 9] [--out runs/benchmarks/startup.json]

Prints the median wall time of the installed command in a fresh process, beside an empty Python process, and
whether planning imported torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TARGET_SECONDS = 0.5


def wall_seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a command after one warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/startup.json"))
    options = parser.parse_args()
    installed = str(Path(sys.executable).parent / "layerlens")
    rows = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "layerlens --help": [installed, "--help"],
        "layerlens plan --help": [installed, "plan", "--help"],
    }
    figures = {name: wall_seconds(command, options.repeats) for name, command in rows.items()}
    code = "import sys, layerlens.workflow.plan; print('torch' in sys.modules)"
    imports_torch = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    table = Table(title=f"start-up, median of {options.repeats}")
    for column in ("command", "seconds", "target", "kept"):
        table.add_column(column)
    for name, seconds in figures.items():
        is_ours = name.startswith("layerlens")
        target, kept = (f"≤ {TARGET_SECONDS}", "yes" if seconds <= TARGET_SECONDS else "NO") if is_ours else ("", "")
        table.add_row(name, f"{seconds:.3f}", target, kept)
    table.add_row("planning imports torch", imports_torch, "False", "yes" if imports_torch == "False" else "NO")
    Console().print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"seconds": figures, "planning_imports_torch": imports_torch == "True"}, indent=2) + "\n")


if __name__ == "__main__":
    main()
