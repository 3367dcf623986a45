"""A whole small run to test commands on: a tiny model, a table, a profile and a plan."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerlens.cli import main
from tests.tiny_models import WORDS, save_tiny


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process and catch what it printed."""

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


def write_table(path: Path, *, rows: int = 240, seed: int = 0) -> Path:
    """Write a labelled table whose label a model can learn: which half of the vocabulary the words come from."""
    generator = random.Random(seed)
    half = len(WORDS) // 2
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(rows):
            label = number % 2
            words = generator.choices(WORDS[half:] if label else WORDS[:half], k=6) + generator.choices(WORDS, k=4)
            generator.shuffle(words)
            writer.writerow([" ".join(words), "late" if label else "early"])
    return path


@dataclass(frozen=True)
class Workplace:
    """Paths of a finished profile and plan; tests copy what they damage."""

    model: Path
    data: Path
    profile: Path
    plan: Path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Profile and plan a tiny BERT once for all functional tests."""
    folder = tmp_path_factory.mktemp("workplace")
    place = Workplace(
        save_tiny("bert", folder / "model"), write_table(folder / "data.csv"), folder / "profile", folder / "plan.json"
    )
    profiled = ["profile", place.model, "--data", place.data, "--out", place.profile, "--num-samples", 48, "--max-length", 16]
    planned = ["plan", place.profile, "--max-trainable-params", 2000, "--out", place.plan]
    for command in (profiled, planned):
        assert main([str(part) for part in command]) == 0
    return place
