"""A streamed command in a process of its own imports little, and its numbers are those of any other process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.functional.conftest import Workplace

HEAVY = ("accelerate", "scipy.optimize", "sympy", "torch._dynamo", "torch.distributed.tensor", "torchao")

# Leaves with 3 where a heavy package was imported.
WATCHED = f"""
import sys
from layerlens.cli import main
code = main()
sys.exit(code or (3 if {set(HEAVY)} & set(sys.modules) else 0))
"""
# Where transformers is there already, nothing is put off.
ORDINARY = "import sys, transformers; from layerlens.cli import main; sys.exit(main())"


def profile(code: str, workplace: Workplace, out: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["profile", workplace.model, "--data", workplace.data, "--out", out, "--execution", "stream", "--proxy", "off"]
    arguments += ["--num-samples", 8, "--max-length", 16, "--batch-size", 4, "--head-samples", 8, "--max-memory", "2GB"]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_capped_profile_imports_nothing_heavy_and_gives_the_same_bytes(workplace: Workplace, tmp_path: Path) -> None:
    folders = tmp_path / "a" / "profile", tmp_path / "b" / "profile"
    for folder, code in zip(folders, (WATCHED, ORDINARY), strict=True):
        done = profile(code, workplace, folder)
        assert done.returncode == 0, done.stderr
    lean, ordinary = folders
    assert (lean / "profile.safetensors").read_bytes() == (ordinary / "profile.safetensors").read_bytes()
    told, as_ever = ((folder / "profile.json").read_text() for folder in folders)
    assert told.replace(str(lean), "") == as_ever.replace(str(ordinary), "")


def test_a_compression_imports_nothing_heavy_either(workplace: Workplace, tmp_path: Path) -> None:
    arguments = ["compress", workplace.model, "--data", workplace.data, "--out", tmp_path / "small", "--bits-per-weight", 24]
    arguments += ["--num-samples", 8, "--held-out-samples", 4, "--max-length", 16, "--widths", 8, "--probes", "off"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small" / "plan.json").exists()
