"""A model of which a part is never run: profiled, said, and left out of every plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.functional.conftest import Run
from tests.tiny_models import WORDS, save_tiny


@pytest.mark.parametrize("way", ["memory", "stream"])
def test_attention_to_no_encoder_is_said_and_left_out_of_plans(run: Run, tmp_path: Path, way: str) -> None:
    model, text = save_tiny("bart_decoder", tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[start : start + 60]) for start in range(0, 120, 3)))
    settings = ("--num-samples", 16, "--max-length", 32, "--proxy", "off", "--execution", way)
    profiled = run("profile", model, "--data", text, "--out", tmp_path / "profile", *settings)
    assert profiled.code == 0, profiled.err
    (warning,) = [
        said for said in json.loads((tmp_path / "profile" / "profile.json").read_text())["warnings"] if "came to" in said
    ]
    assert "encoder_attn" in warning
    assert "and 7 more" in warning

    planned = run("plan", tmp_path / "profile", "--max-trainable-params", 3000, "--out", tmp_path / "plan.json")
    assert planned.code == 0, planned.err
    candidates = sorted((tmp_path / "plan.candidates").glob("*.json"))
    assert len(candidates) > 3
    for path in candidates:
        names = [layer["layer"] for layer in json.loads(path.read_text())["layers"]]
        assert names
        assert not [name for name in names if "encoder_attn" in name]
    validated = run("validate", tmp_path / "plan.json")
    assert validated.code == 0, validated.out + validated.err
    tuned = run("tune", tmp_path / "plan.json", "--data", text, "--no-race", "--max-steps", 3, "--out", tmp_path / "run")
    assert tuned.code == 0, tuned.err
