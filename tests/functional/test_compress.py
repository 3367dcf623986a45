"""The commands of compressing, as a person types them: sizes, the race, resuming, a page, and one line for every bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from layerlens.models.foreign import quiet
from layerlens.models.headers import read_headers
from tests.functional.conftest import Outcome, Run
from tests.tiny_models import WORDS, save_tiny
from tests.unit.workflow.compressions import LARGE_VOCABULARY, digest, tensor_bytes, write_text

SMALL = ("--num-samples", 8, "--held-out-samples", 4, "--max-length", 16, "--group-size", 32, "--widths", "8,3", "--threads", 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, text to calibrate on, and another text."""
    folder = tmp_path_factory.mktemp("source")
    save_tiny("llama", folder / "model", num_hidden_layers=1, **LARGE_VOCABULARY)
    write_text(folder / "text.txt")
    write_text(folder / "other.txt", words=300, seed=1)
    return folder


@pytest.fixture
def place(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own to work in, with the model and its texts."""
    shutil.copytree(source, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def plan_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    return content


def check_plan(folder: Path, bits_per_weight: float) -> dict[str, Any]:
    """Bytes as planned and within the budget; what measured least is what was written."""
    plan = plan_of(folder)
    assert tensor_bytes(folder) == plan["size_bytes"] <= bits_per_weight * plan["model"]["num_parameters"] / 8
    assert plan["chosen"]["name"] == plan["measured"][0]["name"]
    assert plan["measured"][0]["kl_nats"] == min(one["kl_nats"] for one in plan["measured"])
    assert {"uniform-nearest", "uniform-second-order"} <= {one["name"] for one in plan["measured"] if one["is_baseline"]}
    return plan


def test_a_model_is_compressed_evaluated_reported_and_exported(run: Run, place: Path) -> None:
    before = digest(place / "model")
    done = run("compress", "model", "--data", "text.txt", "--out", "small", "--bits-per-weight", 4.25, *SMALL)
    assert done.code == 0, done.err
    assert "predicted before anything is written" in done.err + done.out
    assert "measured on held-out samples, best first" in done.out
    assert "of the same samples as this race; layerlens evaluate measures on others" in " ".join(done.out.split())
    plan = check_plan(Path("small"), 4.25)
    assert f"{plan['size_bytes']:,}" in done.out

    found = run("evaluate", "small", "--data", "text.txt", "--second-text", "other.txt", "--out", "small/evaluation.json",
                "--window", 32, "--max-tokens", 256, "--new-tokens", 4)  # fmt: skip
    assert found.code == 0, found.err
    assert "text.txt (as calibrated on)" in found.out
    assert "perplexity" in found.out
    assert "generation at batch 1" in found.out
    evaluation = json.loads(Path("small/evaluation.json").read_text())
    assert [text["name"] for text in evaluation["texts"]] == ["text.txt", "other.txt"]
    assert evaluation["size_bytes"]["after"] == plan["size_bytes"]

    page = run("report", "small")
    assert page.code == 0, page.err
    assert plan["chosen"]["name"] in Path("small/report.html").read_text()

    written = run("export", "--dense", "small")
    assert written.code == 0, written.err
    assert f"{tensor_bytes(Path('small-dense')):,} bytes" in written.out
    with quiet():
        small, dense = (transformers.AutoModelForCausalLM.from_pretrained(name).eval() for name in ("small", "small-dense"))
    tokens = torch.arange(5, 37).view(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(small(tokens).logits, dense(tokens).logits, rtol=1e-4, atol=1e-4)
    assert digest(place / "model") == before

    again = run("compress", "model", "--data", "text.txt", "--out", "small", "--bits-per-weight", 4.25, *SMALL)
    assert again.code == 0, again.err
    assert "already holds this model" in again.err + again.out


def test_two_runs_leave_the_same_bytes_and_the_older_spelling_means_the_same(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = ("compress", "--input_dir", "model", "--output_dir", "small", "--rank", 16, "--quant_bits", 8)
    newer = ("compress", "model", "--out", "small", "--rank", 16, "--quant-bits", 8)
    limits = ("--min_dim_for_compression=16", "--min_dim_for_compression=16", "--min-dim=16")
    found = []
    for number, (words, limit) in enumerate(zip((older, older, newer), limits, strict=True)):
        shutil.copytree(source, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        done = run(*words, limit, "--data", "text.txt", "--keep", "embedding", *SMALL)
        assert done.code == 0, done.err
        plan = plan_of(Path("small"))
        # What the data are called from any folder is all that two folders may differ in.
        assert plan["metadata"]["run"].pop("data") == str(tmp_path.resolve() / str(number) / "text.txt")
        claim = json.loads(Path("small.curves/run.json").read_text(encoding="utf-8"))
        assert claim.pop("data") == str(tmp_path.resolve() / str(number) / "text.txt")
        files = {name: value for name, value in digest(Path("small")).items() if name != "plan.json"}
        curves = {name: value for name, value in digest(Path("small.curves")).items() if name != "run.json"}
        found.append((files, curves, claim, plan))
    assert found[0] == found[1]
    assert found[0][:3] == found[2][:3]
    plan = found[0][-1]
    assert "fixed-rank" in {one["name"] for one in plan["measured"]}
    assert {layer["format"] for layer in plan["layers"] if layer["role"] == "embedding"} == {"keep"}


@pytest.mark.parametrize("words", [("--processes", 2), pytest.param(("--engine", "ray"), marks=pytest.mark.slow)])
def test_other_processes_write_the_same_bytes(run: Run, place: Path, words: tuple[object, ...]) -> None:
    if "ray" in words:
        pytest.importorskip("ray", reason="ray is not installed: the engine cannot be tested")
    few = ("--bits-per-weight", 9, "--formats", "integer,half", "--probes", "off")
    for out, more in (("here", ()), ("there/here", words)):
        done = run("compress", "model", "--data", "text.txt", "--out", out, *few, *SMALL, *more)
        assert done.code == 0, done.err
    assert digest(Path("here.curves")) == digest(Path("there/here.curves"))
    mine, theirs = digest(Path("here")), digest(Path("there/here"))
    assert {**mine, "plan.json": ""} == {**theirs, "plan.json": ""}
    plans = [plan_of(Path(name)) for name in ("here", "there/here")]
    for plan in plans:
        del plan["metadata"]["command"], plan["metadata"]["config"]
    assert plans[0] == plans[1]


def one_line(done: Outcome, said: str) -> None:
    assert done.code == 2, done.out
    assert done.err.strip().splitlines()[-1].startswith("layerlens: ")
    assert [line for line in done.err.splitlines() if "layerlens: " in line] == [done.err.strip().splitlines()[-1]]
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "1KB"), "below the smallest possible, "),
        (("--size", "lots"), "write a number of bytes such as 500MB"),
        (("--size", "1MB", "--widths", "9,4"), "--widths: codes take 2 to 8 bits; got 9"),
        (("--rank", 16, "--quant-bits", 5), "--quant-bits: factors take 16, 8, 4 bits; got 5"),
        (("--rank", 64, "--min-dim", 32), "rank: 64 is above the smaller side of"),
        (("--size", "1MB", "--keep", "*.experts.*"), "keep: *.experts.* match no layer"),
        (("--size", "1MB", "--bits-per-weight", 4), "give exactly one of --size"),
        ((), "give exactly one of --size"),
        (("--size", "1MB", "--max-memory", "100MB"), "--max-memory 100 MiB is too little"),
        (("--size", "1MB", "--out", "model"), "is the model's own folder"),
        (("--size", "1MB", "--out", "."), "is the current folder or one above it"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(run: Run, place: Path, words: tuple[object, ...], said: str) -> None:
    before = digest(place)
    out = () if "--out" in words else ("--out", "small")
    one_line(run("compress", "model", "--data", "text.txt", *SMALL, *out, *words), said)
    assert digest(place) == before
    assert not Path("small.curves").exists()


def test_a_bad_model_is_one_line_and_leaves_nothing(run: Run, place: Path) -> None:
    Path("empty").mkdir()
    shutil.copytree("model", "pickled")
    Path("pickled/model.safetensors").rename("pickled/pytorch_model.bin")
    shutil.copytree("model", "bad")
    header = read_headers(Path("bad/model.safetensors"))["model.layers.0.mlp.up_proj.weight"]
    with Path("bad/model.safetensors").open("r+b") as file:
        file.seek(header.start)
        file.write(b"\x00\x00\xc0\x7f")
    before = digest(place)
    end = ("--data", "text.txt", "--out", "small", "--size", "100KB", *SMALL)
    one_line(run("compress", "nowhere/at/all", *end), "there is no folder nowhere/at/all")
    one_line(run("compress", "empty", *end), "has no config.json")
    one_line(run("compress", "pickled", *end), "save_pretrained(NEW_FOLDER)")
    one_line(run("compress", "bad", *end), "NaN or infinite weights in model.layers.0.mlp.up_proj.weight")
    assert digest(place) == before
    assert not Path("small.curves").exists()


def test_a_compressed_folder_is_no_model_to_start_from(run: Run, place: Path) -> None:
    done = run("compress", "model", "--data", "text.txt", "--out", "small", "--bits-per-weight", 8, "--probes", "off", *SMALL)
    assert done.code == 0, done.err
    before = digest(place)
    said = "was compressed by LayerLens; give its original, or write it out with `layerlens export --dense`"
    one_line(run("compress", "small", "--data", "text.txt", "--out", "smaller", "--bits-per-weight", 4.25, *SMALL), said)
    one_line(run("profile", "small", "--data", "text.txt", "--out", "profile"), said)
    one_line(run("export", "--dense", "model"), "was not written by `layerlens compress`")
    one_line(run("export", "small"), "say what to write: --dense")
    one_line(run("evaluate", "small", "--data", "text.txt", "--against", "nowhere/at/all"), "there is no folder")
    assert digest(place) == before


def test_a_trained_model_at_four_and_a_quarter_bits(run: Run, shared: Path, tmp_path: Path) -> None:
    model, data = shared / "models" / "stories260k", shared / "data" / "tinyshakespeare" / "input.txt"
    if not model.is_dir() or not data.is_file():
        pytest.skip("../shared/models/stories260k is not here")
    before = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    small = (
        "--num-samples",
        12,
        "--held-out-samples",
        6,
        "--max-length",
        64,
        "--widths",
        "4,3",
        "--effort",
        "lean",
        "--probes",
        "few",
    )
    done = run("compress", model, "--data", data, "--out", tmp_path / "small", "--bits-per-weight", 4.25, "--threads", 1, *small)
    assert done.code == 0, done.err
    plan = check_plan(tmp_path / "small", 4.25)
    by_name = {one["name"]: one["kl_nats"] for one in plan["measured"]}
    assert plan["measured"][0]["kl_nats"] < by_name["uniform-nearest"], "a trained model is kept better than by rounding"
    assert hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() == before
    second = tmp_path / "other.txt"
    second.write_text(" ".join(WORDS) * 3, encoding="utf-8")
    found = run("evaluate", tmp_path / "small", "--data", data, "--second-text", second, "--max-tokens", 512, "--new-tokens", 4,
                "--out", tmp_path / "small" / "evaluation.json", "--threads", 1)  # fmt: skip
    assert found.code == 0, found.err
    evaluation = json.loads((tmp_path / "small" / "evaluation.json").read_text())
    text = evaluation["texts"][0]
    assert text["kl"]["mean"] < 4 * plan["measured"][0]["kl_nats"] + 0.05, "unseen text is much like held-out text"
    assert text["perplexity"]["after"] < 1.3 * text["perplexity"]["before"]
    assert run("report", tmp_path / "small").code == 0
