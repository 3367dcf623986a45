"""The main job through the command line, on models of every family."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.functional.conftest import Run, Workplace
from tests.tiny_models import FAMILIES, WORDS, save_tiny

DECODERS = {"gpt2", "gpt_neo", "llama", "mistral", "qwen2"}


def write_data(folder: Path, family: str) -> Path:
    """Data that fits a family: images for ViT, running text for a decoder, a labelled table for an encoder."""
    generator = np.random.default_rng(0)
    if family == "vit":
        labels = generator.integers(0, 2, 80)
        images = generator.integers(0, 120, (80, 16, 16, 3)) + 120 * labels[:, None, None, None]
        np.savez(folder / "images.npz", x=images.astype(np.uint8), y=labels)
        return folder / "images.npz"
    if family in DECODERS:
        (folder / "text.txt").write_text(" ".join(generator.choice(WORDS, 1200)))
        return folder / "text.txt"
    from tests.functional.conftest import write_table

    return write_table(folder / "data.csv", rows=80)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_profiled_planned_and_checked(run: Run, tmp_path: Path, family: str) -> None:
    model, data = save_tiny(family, tmp_path / "model"), write_data(tmp_path, family)
    profiled = run("profile", model, "--data", data, "--out", tmp_path / "profile", "--num-samples", 24, "--max-length", 16)
    assert profiled.code == 0, profiled.err
    planned = run("plan", tmp_path / "profile", "--max-trainable-params", 900, "--out", tmp_path / "plan.json")
    assert planned.code == 0, planned.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert 0 < sum(layer["params"] for layer in plan["layers"]) <= 900
    assert plan["solver"]["gap"] <= 1e-6
    assert not [note for note in plan["metadata"]["notes"] if "guessed" in note]
    assert {"uniform"} <= {path.stem for path in (tmp_path / "plan.candidates").iterdir()}
    assert run("validate", tmp_path / "plan.json").code == 0


def test_the_whole_job_leaves_an_adapter_that_plain_peft_loads(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    for name in ("plan.json", "plan.candidates", "profile"):
        source = workplace.plan.parent / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    common = ("--data", workplace.data, "--max-length", 16, "--batch-size", 8, "--precision", "fp32", "--learning-rate", "5e-3")
    raced = run("race", tmp_path / "plan.json", *common, "--share", 1, "--tuning-steps", 30, "--min-steps", 6)
    assert raced.code == 0, raced.err
    race = json.loads((tmp_path / "plan.json").read_text())["race"]
    assert "uniform" in {candidate["name"] for candidate in race["candidates"]}
    assert not (tmp_path / "plan.race.json").exists()
    tuned = run("tune", tmp_path / "plan.json", *common, "--out", tmp_path, "--max-steps", 100, "--compare", "full,uniform,head")
    assert tuned.code == 0, tuned.err
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    arms = {arm["name"]: arm for arm in evaluation["arms"]}
    assert set(arms) == {"layerlens", "full", "uniform", "head"}
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert arms["layerlens"]["trainable_params"] == sum(layer["params"] for layer in plan["layers"])
    assert arms["layerlens"]["metrics"]["loss"] < arms["head"]["metrics"]["loss"]
    # What was foreseen of the time stands beside what it was, as a share of the full fine-tuning in the same run.
    assert arms["layerlens"]["predicted_time_ratio"] == plan["budgets"]["time_ratio"]["spent"]
    for arm in arms.values():
        assert arm["time_ratio"] == pytest.approx(arm["train_seconds"] / arms["full"]["train_seconds"])
    assert arms["head"]["frozen_blocks"] == 2
    assert arms["full"]["frozen_blocks"] == 0
    assert run("validate", tmp_path / "plan.json").code == 0
    assert run("report", tmp_path).code == 0
    assert "Time and memory against full fine-tuning" in (tmp_path / "report.html").read_text()
    again = run("evaluate", tmp_path, "--data", workplace.data, "--out", tmp_path / "again.json", "--max-length", 16)
    assert again.code == 0, again.err
    code = (
        "import sys\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "from peft import PeftModel\n"
        "base = Auto.from_pretrained(sys.argv[1], num_labels=2)\n"
        "model = PeftModel.from_pretrained(base, sys.argv[2])\n"
        "sys.exit('layerlens' in sys.modules or 'lora' not in str(model).lower())\n"
    )
    loading = [sys.executable, "-c", code, str(workplace.model), str(tmp_path / "adapter")]
    assert subprocess.run(loading, check=False, capture_output=True).returncode == 0


def test_a_profile_is_the_same_bytes_again(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    arguments = ("profile", workplace.model, "--data", workplace.data, "--num-samples", 48, "--max-length", 16)
    assert run(*arguments, "--out", tmp_path / "profile").code == 0
    for name in ("profile.json", "profile.safetensors"):
        mine, theirs = (tmp_path / "profile" / name).read_bytes(), (workplace.profile / name).read_bytes()
        if name == "profile.json":
            mine, theirs = (drop_command(content) for content in (mine, theirs))
        assert mine == theirs, name


def drop_command(content: bytes) -> bytes:
    return json.dumps({**json.loads(content), "command": ""}).encode()


def test_a_plan_is_the_same_bytes_again(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        out = tmp_path / f"{number}" / "plan.json"
        assert run("plan", workplace.profile, "--max-trainable-params", 2000, "--out", out).code == 0
        found = {path.name: path.read_text().replace(str(out), "OUT") for path in sorted(out.parent.rglob("*.json"))}
        contents.append(found)
    assert contents[0] == contents[1]


def test_a_profile_that_is_already_there_is_read_not_made(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in workplace.profile.iterdir()}
    arguments = ("--data", workplace.data, "--out", workplace.profile, "--num-samples", 48, "--max-length", 16)
    outcome = run("profile", workplace.model, *arguments)
    assert outcome.code == 0
    assert "already" in outcome.err
    assert {path.name: path.stat().st_mtime_ns for path in workplace.profile.iterdir()} == before


@pytest.mark.parametrize("command", ["profile", "plan", "race", "tune"])
def test_a_dry_run_touches_nothing(run: Run, workplace: Workplace, tmp_path: Path, command: str) -> None:
    data = ("--data", workplace.data)
    before = {path: path.read_bytes() for path in sorted(workplace.plan.parent.rglob("*")) if path.is_file()}
    arguments = {
        "profile": (workplace.model, *data, "--out", tmp_path / "new"),
        "plan": (workplace.profile, "--max-trainable-params", 500, "--out", tmp_path / "new.json"),
        "race": (workplace.plan, *data),
        "tune": (workplace.plan, *data, "--out", tmp_path / "new"),
    }[command]
    outcome = run(command, *arguments, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()
    assert not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in sorted(workplace.plan.parent.rglob("*")) if path.is_file()} == before


def test_a_config_file_says_the_same_as_flags(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "budget.yaml").write_text(
        "max_trainable_params: 700\nmethod_penalties: {lora: 0.8}\nobjective_weights: {utility: 0.8}\n"
    )
    assert run("plan", workplace.profile, "--config", tmp_path / "budget.yaml", "--out", tmp_path / "file.json").code == 0
    flags = ("--max-trainable-params", 700, "--method-penalties", "lora=0.8", "--objective-weights", "utility=0.8")
    assert run("plan", workplace.profile, *flags, "--out", tmp_path / "flags.json").code == 0
    plans = [json.loads((tmp_path / name).read_text()) for name in ("file.json", "flags.json")]
    assert plans[0]["layers"] == plans[1]["layers"]
    assert plans[0]["metadata"]["optimization"] == plans[1]["metadata"]["optimization"]


def test_debug_logging_shows_every_layers_numbers(workplace: Workplace, tmp_path: Path) -> None:
    command = ["plan", str(workplace.profile), "--max-trainable-params", "700", "--out", str(tmp_path / "plan.json"), "--debug"]
    outcome = subprocess.run([sys.executable, "-m", "layerlens", *command], check=False, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    for layer in json.loads((workplace.profile / "profile.json").read_text())["layers"]:
        line, *others = [line for line in outcome.stderr.splitlines() if f"{layer['layer']}: raw" in line]
        assert not others, "one line for each layer: the chosen plan's"
        assert f"{layer['utility']:.3f}" in line or f"{layer['utility']:.4f}" in line, line
