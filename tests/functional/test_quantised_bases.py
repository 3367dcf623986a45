"""Tuning over a base in few bits through the command line, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layerlens.models import quantised_base
from tests.functional.conftest import Run, Workplace
from tests.tiny_models import save_tiny

QUICK = ("--max-length", 16, "--batch-size", 8, "--precision", "fp32", "--max-steps", 4, "--no-race")


@pytest.fixture(scope="module")
def compressed(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workplace's model, compressed by the command."""
    from layerlens.cli import main

    out = tmp_path_factory.mktemp("compressed") / "folder"
    small = ["--bits-per-weight", 16, "--max-length", 16, "--num-samples", 4, "--held-out-samples", 2, "--group-size", 32]
    command = [
        "compress",
        workplace.model,
        "--data",
        workplace.data,
        "--out",
        out,
        *small,
        "--widths",
        "8",
        "--probes",
        "off",
        "--effort",
        "lean",
    ]
    assert main([str(part) for part in command]) == 0
    return out


def _loss(path: Path) -> float:
    return float(json.loads(path.read_text())["arms"][0]["metrics"]["loss"])


def test_a_plan_is_tuned_over_a_compressed_folder_and_scored_over_it_again(
    run: Run, workplace: Workplace, compressed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tuned = run("tune", workplace.plan, "--data", workplace.data, "--out", out, "--base", compressed, *QUICK)
    assert tuned.code == 0, tuned.err
    record = json.loads((out / "adapter" / "base.json").read_text())
    assert record["compressed_folder"] == str(compressed)
    again = run("evaluate", out, "--data", workplace.data, "--out", tmp_path / "again.json", "--max-length", 16)
    assert again.code == 0, again.err
    # Evaluation takes all samples of a file, so it is compared with another run of itself over the float base.
    shutil.copytree(out, tmp_path / "float")
    (tmp_path / "float" / "adapter" / "base.json").unlink()
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(workplace.model)
    (tmp_path / "float" / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    float_base = run(
        "evaluate", tmp_path / "float", "--data", workplace.data, "--out", tmp_path / "float.json", "--max-length", 16
    )
    assert float_base.code == 0, float_base.err
    assert _loss(tmp_path / "again.json") == pytest.approx(_loss(tmp_path / "float.json"), abs=0.1)
    assert _loss(tmp_path / "again.json") != _loss(tmp_path / "float.json")


def test_a_library_holds_the_base_while_a_plan_is_tuned(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="int4-bnb needs bitsandbytes")
    dry = run(
        "tune", workplace.plan, "--data", workplace.data, "--out", tmp_path / "run", "--base-format", "int4-bnb", "--dry-run"
    )
    assert "int4-bnb" in dry.out
    tuned = run("tune", workplace.plan, "--data", workplace.data, "--out", tmp_path / "run", "--base-format", "int4-bnb", *QUICK)
    assert tuned.code == 0, tuned.err
    assert json.loads((tmp_path / "run" / "adapter" / "base.json").read_text())["base_format"] == "int4-bnb"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base-format", "int2"), "--base-format: input should be 'as-is', 'int8-torchao', 'int8-bnb' or 'int4-bnb'"),
        (("--base", "COMPRESSED", "--base-format", "int8-bnb"), "base_format int8-bnb cannot be had; leave one out"),
        (("--base", "MODEL"), "was not written by `layerlens compress`; give a folder that was, of the plan's model"),
        (("--base", "COMPRESSED", "--compare", "full"), "cannot be trained as a whole; leave full out"),
        (
            ("--base-format", "int8-torchao"),
            "needs torchao, which is not installed; run `pip install torchao`",
        ),
    ],
    ids=["unknown", "two bases", "no compressed folder", "full fine-tuning", "no library"],
)
def test_what_cannot_be_had_is_refused_in_one_line(
    run: Run,
    workplace: Workplace,
    compressed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(quantised_base, "find_spec", lambda _: None)
    places = {"COMPRESSED": str(compressed), "MODEL": str(workplace.model)}
    given = [places.get(option, option) for option in options]
    refused = run("tune", workplace.plan, "--data", workplace.data, "--out", tmp_path / "run", *given, *QUICK)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert said in refused.err
    assert not (tmp_path / "run").exists()


def test_a_folder_made_from_another_model_is_refused(run: Run, workplace: Workplace, compressed: Path, tmp_path: Path) -> None:
    other = shutil.copytree(compressed, tmp_path / "other")
    plan = json.loads((other / "plan.json").read_text())
    plan["model"] |= {"id": str(save_tiny("bert", tmp_path / "model", seed=1)), "hash": "f" * 64}
    (other / "plan.json").write_text(json.dumps(plan))
    refused = run("tune", workplace.plan, "--data", workplace.data, "--out", tmp_path / "run", "--base", other, *QUICK)
    assert refused.code == 2
    assert "was compressed from" in refused.err
    assert "with hash ffffffffffff, the plan was made for" in refused.err
    assert refused.err.count("\n") == 1


def test_a_budget_of_memory_is_priced_over_the_base_that_training_shall_hold(
    run: Run, workplace: Workplace, tmp_path: Path
) -> None:
    spent = {}
    for base_format in ("as-is", "int4-bnb"):
        out = tmp_path / f"{base_format}.json"
        made = run("plan", workplace.profile, "--max-vram-gb", 1, "--base-format", base_format, "--out", out)
        assert made.code == 0, made.err
        written = json.loads(out.read_text())
        spent[base_format] = written["budgets"]["vram_bytes"]["spent"]
        assert any("held as int4-bnb" in said for said in written["metadata"]["assumptions"]) == (base_format == "int4-bnb")
    assert 0 < spent["int4-bnb"] < spent["as-is"]
    pytest.importorskip("bitsandbytes")
    for told, others in ((False, ["--base-format", "int4-bnb"]), (True, [])):
        dry = run("race", tmp_path / "int4-bnb.json", "--data", workplace.data, "--max-length", 16, "--dry-run", *others)
        assert dry.code == 0, dry.err
        assert ("give --base-format int4-bnb, or expect more" in " ".join((dry.out + dry.err).split())) == told


def test_an_unknown_form_of_the_base_is_one_line(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    made = run("plan", workplace.profile, "--max-vram-gb", 1, "--base-format", "int3", "--out", tmp_path / "plan.json")
    assert made.code == 2
    assert "base_format" in made.err.replace("-", "_")
    assert not (tmp_path / "plan.json").exists()
