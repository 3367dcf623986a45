"""Profiles of a model that stays on disk, and by several processes, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.functional.conftest import Run, Workplace
from tests.tiny_models import save_tiny

SMALL = ("--num-samples", 24, "--max-length", 16, "--proxy", "off", "--batch-size", 4)

# Ends the process the hard way after so many parts of the pass.
KILLED = """
import os, signal, sys
from layerlens.cli import main
from layerlens.streaming.memory_guard import MemoryGuard
left = int(sys.argv[1])
def check(self):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
MemoryGuard.check = check
sys.exit(main(sys.argv[2:]))
"""


def numbers(folder: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    profile = json.loads((folder / "profile.json").read_text())
    return profile, load_file(folder / "profile.safetensors")


def test_a_streamed_profile_plans_like_one_in_memory(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    for way in ("memory", "stream"):
        done = run("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / way, "--execution", way, *SMALL)
        assert done.code == 0, done.err
        planned = run("plan", tmp_path / way, "--max-trainable-params", 900, "--out", tmp_path / way / "plan.json")
        assert planned.code == 0, planned.err
    plans = [json.loads((tmp_path / way / "plan.json").read_text())["layers"] for way in ("memory", "stream")]
    assert [(layer["layer"], layer["size"]) for layer in plans[0]] == [(layer["layer"], layer["size"]) for layer in plans[1]]
    assert not (tmp_path / "stream" / "work").exists()
    timing = json.loads((tmp_path / "stream" / "timing.json").read_text())
    assert len(timing["blocks"]) == 2
    assert all(block["backward_seconds"] > 0 for block in timing["blocks"])


def test_intervals_hold_their_metrics(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    done = run("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / "p", "--execution", "stream", *SMALL)
    assert done.code == 0, done.err
    for layer in json.loads((tmp_path / "p" / "profile.json").read_text())["layers"]:
        for metric in ("gradient_energy", "fisher"):
            low, high = layer["intervals"][metric]
            assert low <= layer["metrics"][metric] <= high
        low, high = layer["intervals"]["utility"]
        assert 0.0 <= low <= high <= 1.0


def test_runs_that_are_killed_go_on_to_the_same_bytes(workplace: Workplace, tmp_path: Path) -> None:
    def arguments(out: Path) -> list[str]:
        common = ["profile", str(workplace.model), "--data", str(workplace.data), "--execution", "stream", "--out", str(out)]
        return [*common, *map(str, SMALL)]

    def start(places: int, out: Path) -> int:
        command = [sys.executable, "-c", KILLED, str(places), *arguments(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, check=False, capture_output=True, env=environment).returncode

    whole, stopped = tmp_path / "a" / "profile", tmp_path / "b" / "profile"
    assert start(0, whole) == 0
    codes = [start(places, stopped) for places in (2, 9, 12, 9, 30)]
    codes.append(start(0, stopped))
    assert codes.count(-signal.SIGKILL) >= 4
    assert codes[-1] == 0
    assert (stopped / "profile.safetensors").read_bytes() == (whole / "profile.safetensors").read_bytes()
    mine, theirs = (json.loads((folder / "profile.json").read_text()) for folder in (stopped, whole))
    assert {**mine, "command": ""} == {**theirs, "command": ""}
    assert not (stopped / "work").exists()


def test_a_cap_below_what_is_possible_names_the_least_and_leaves_nothing(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    common = ("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / "p", *SMALL)
    for way in ("auto", "stream", "memory"):
        done = run(*common, "--max-memory", "100MB", "--execution", way)
        assert done.code == 2
        assert done.err.count("\n") == 1
        assert "--max-memory 100 MiB is too little" in done.err
        assert "the least that would do is about" in done.err
        assert not (tmp_path / "p").exists()
    assert "write a number of bytes such as 500MB" in run(*common, "--max-memory", "lots").err


def test_a_store_below_what_is_possible_names_the_least(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    common = ("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / "p", "--execution", "stream", *SMALL)
    done = run(*common, "--max-store", "1KB")
    assert done.code == 2
    assert "--max-store 0 MiB is too little for the hidden states" in done.err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("way", ["memory", "stream"])
def test_a_sample_longer_than_the_positions_is_told(run: Run, workplace: Workplace, tmp_path: Path, way: str) -> None:
    common = ("profile", workplace.model, "--data", workplace.data, "--out", tmp_path / "p", "--execution", way)
    done = run(*common, "--max-length", 100)
    assert done.code == 2
    assert "samples of 100 tokens are longer than the 64 positions of this model; give --max-length 64 or less" in done.err
    assert not (tmp_path / "p").exists()


def shard(folder: Path) -> list[Path]:
    """Cut a model's one weight file into two shards with an index."""
    from safetensors.numpy import save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    paths = [folder / f"model-{number + 1:05d}-of-00002.safetensors" for number in range(2)]
    for path, half in zip(paths, halves, strict=True):
        save_file({name: tensors[name] for name in half}, path, metadata={"format": "pt"})
    weight_map = {name: path.name for path, half in zip(paths, halves, strict=True) for name in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return paths


def test_shards_are_streamed_and_bad_ones_are_told(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(workplace.model, folder)
    first, second = shard(folder)

    def profile(out: Path) -> tuple[int, str]:
        done = run("profile", folder, "--data", workplace.data, "--out", out, "--execution", "stream", *SMALL)
        return done.code, done.err

    code, error = profile(tmp_path / "whole")
    assert code == 0, error
    kept = second.read_bytes()
    second.write_bytes(kept[:-40])
    assert profile(tmp_path / "p") == (2, profile(tmp_path / "p")[1])
    assert "is cut short" in profile(tmp_path / "p")[1]
    second.write_bytes(first.read_bytes())
    assert "it is a shard of another model" in profile(tmp_path / "p")[1]
    second.unlink()
    assert "names shards that are not there" in profile(tmp_path / "p")[1]
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_two_processes_find_what_one_finds(tmp_path: Path, workplace: Workplace, family: str) -> None:
    model = save_tiny(family, tmp_path / "model")
    data = workplace.data
    if family == "gpt2":
        data = tmp_path / "text.txt"
        generator = np.random.default_rng(0)
        data.write_text(" ".join(f"w{number}" for number in generator.integers(0, 190, 900)))
    common = ["-m", "layerlens", "profile", str(model), "--data", str(data), "--execution", "memory", *map(str, SMALL)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    port = ["--main_process_port", str(29500 + os.getpid() % 2000)]
    one = subprocess.run(
        [sys.executable, *common, "--out", str(tmp_path / "one")], capture_output=True, env=environment, check=False
    )
    assert one.returncode == 0, one.stderr.decode()
    two = subprocess.run(
        [*launcher, *port, *common, "--out", str(tmp_path / "two")], capture_output=True, env=environment, check=False
    )
    assert two.returncode == 0, two.stderr.decode()
    (expected, expected_arrays), (found, arrays) = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    for layer, oracle in zip(found["layers"], expected["layers"], strict=True):  # type: ignore[call-overload]
        for metric, value in oracle["metrics"].items():
            scale = oracle["metrics"]["fisher"] / 24 if metric == "gradient_energy" else abs(value)
            assert abs(layer["metrics"][metric] - value) <= 1e-5 * scale, (layer["layer"], metric)
    assert found["data"] == expected["data"]
    largest = max(float(values.max()) for name, values in expected_arrays.items() if name.startswith("gain/"))
    for name, values in expected_arrays.items():
        scale = largest if name.startswith("gain/") else float(values.max())
        np.testing.assert_allclose(arrays[name], values, rtol=0, atol=2e-4 * scale + 1e-30, err_msg=name)
