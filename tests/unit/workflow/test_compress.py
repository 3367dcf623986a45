"""Compressing tiny models of every family: exact bytes, the best measured, nothing left behind after a failure."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from layerlens.artifacts.compression import CompressionPlan, load_compression_plan, load_curves
from layerlens.artifacts.formats import Format
from layerlens.compressing import factor_cache, tensor_files
from layerlens.compressing.held_out import HeldOut
from layerlens.errors import CheckpointError, ConfigError, InfeasibleBudgetError, LayerLensError
from layerlens.models.foreign import quiet
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.words import BudgetName
from layerlens.workflow import compress as module
from layerlens.workflow.export import export
from tests.tiny_models import FAMILIES
from tests.unit.workflow.compressions import LARGE_VOCABULARY, Place, digest, place, tensor_bytes, write_text


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("llama"), "llama", **LARGE_VOCABULARY)


@pytest.fixture(scope="module")
def first(llama: Place) -> Path:
    """A compressed folder, with its curves beside it."""
    out = llama.model.parent / "first"
    llama.compress(out, bits_per_weight=9)
    return out


@pytest.fixture
def measured(first: Path, tmp_path: Path) -> Path:
    """An output folder that is not there yet, with curves beside it."""
    shutil.copytree(first.with_name("first.curves"), tmp_path / "out.curves")
    return tmp_path / "out"


def loaded(folder: Path, auto: str) -> Any:
    with quiet():
        return getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32).eval()


def outputs(folder: Path, family: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    model = loaded(folder, "AutoModelForCausalLM" if has_head(family) else "AutoModel")
    with torch.no_grad():
        if family == "vit":
            return model(pixel_values=torch.randn(2, 3, 16, 16, generator=generator)).last_hidden_state
        found = model(input_ids=torch.randint(5, 190, (2, 12), generator=generator))
    return found.logits if has_head(family) else found.last_hidden_state


def has_head(family: str) -> bool:
    return FAMILIES[family][1].endswith(("ForCausalLM", "LMHeadModel"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_holds_its_plan_to_the_byte_and_loads_as_its_dense_export(tmp_path: Path, family: str) -> None:
    mine = place(tmp_path, family)
    before, budget, out = digest(mine.model), int(0.7 * mine.size_bytes), tmp_path / "out"
    result = mine.compress(out, size=budget, widths=[8], num_samples=4, held_out_samples=2)
    plan = load_compression_plan(out)
    assert plan == result.plan
    assert tensor_bytes(out) == plan.size_bytes <= budget
    assert plan.bits_per_weight == 8 * plan.size_bytes / plan.model.num_parameters
    check_race(plan)
    assert digest(mine.model) == before
    assert not (tmp_path / "out.curves" / "work").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model", mine.data.name, "out", "out.curves"]), (
        "something else was left behind"
    )
    dense = export(str(out), dense=True).folder
    torch.testing.assert_close(outputs(out, family), outputs(dense, family), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(outputs(out, family), outputs(mine.model, family), rtol=1e-4, atol=1e-4)


def check_race(plan: CompressionPlan) -> None:
    """The least measured divergence was chosen, and the baselines were measured."""
    distances = [one.kl_nats for one in plan.measured]
    assert plan.chosen.name == plan.measured[0].name
    assert distances == sorted(distances)
    assert plan.size_bytes == plan.measured[0].size_bytes
    limit = plan.budgets[BudgetName.SIZE_BYTES].limit
    assert all(limit is None or one.size_bytes <= limit for one in plan.measured)
    baselines = {one.name for one in plan.measured if one.is_baseline}
    assert {"uniform-nearest", "uniform-second-order"} <= baselines
    assert "optimum" in {one.name for one in plan.measured if not one.is_baseline}


def test_another_size_is_planned_from_the_kept_curves(
    llama: Place, first: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("curves were measured again")

    monkeypatch.setattr(module, "measure_curves", refuse)
    monkeypatch.setattr(HeldOut, "probes", refuse)
    kept = digest(first.with_name("first.curves"))
    budget = int(0.9 * tensor_bytes(first))
    plan = llama.compress(measured, size=budget).plan
    assert plan is not None
    assert tensor_bytes(measured) == plan.size_bytes <= budget
    check_race(plan)
    assert digest(measured.with_name("out.curves")) == kept
    again = llama.compress(measured.parent / "elsewhere" / "out", dry_run=True, size=budget, probes="off")
    assert again.plan is None, "there are no curves beside that folder"


def test_a_kept_size_gives_the_same_bytes_as_a_first_run(llama: Place, first: Path, measured: Path) -> None:
    llama.compress(measured, bits_per_weight=9)
    assert digest(measured) == {**digest(first), "plan.json": digest(measured)["plan.json"]}
    mine, theirs = (json.loads((folder / "plan.json").read_text()) for folder in (measured, first))
    assert {**mine["metadata"], "curves": ""} == {**theirs["metadata"], "curves": ""}
    assert [mine[key] for key in ("layers", "measured", "chosen")] == [theirs[key] for key in ("layers", "measured", "chosen")]


def test_every_probe_anchors_its_matrix(llama: Place, first: Path) -> None:
    curves = load_curves(first.with_name("first.curves"))
    assert all(matrix.probe is not None and matrix.anchor > 0 for matrix in curves.matrices)
    assert curves.data["held_out_samples"] == 4
    assert curves.data["calibration_samples"] == 8


def test_the_same_command_finds_its_result_and_another_one_is_refused(llama: Place, first: Path) -> None:
    before = digest(first)
    assert llama.compress(first, bits_per_weight=9).plan == load_compression_plan(first)
    assert llama.compress(first, bits_per_weight=9, threads=2, processes=2).plan is not None
    with pytest.raises(ConfigError, match="is not empty and holds no result of this very command"):
        llama.compress(first, bits_per_weight=8)
    assert digest(first) == before


def test_tied_embeddings_are_stored_once_and_stay_tied(llama: Place, first: Path) -> None:
    plan = load_compression_plan(first)
    table = next(entry for entry in plan.layers if entry.role == "embedding")
    assert table.tied == ["lm_head"]
    assert table.scheme.format is not Format.KEEP
    assert not [name for name in load_file(first / "model.safetensors") if name.startswith("lm_head")]
    model = loaded(first, "AutoModelForCausalLM")
    torch.testing.assert_close(model.lm_head.weight, model.model.embed_tokens.weight)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), *model.buffers()] if tensor.nbytes}
    assert sum(held.values()) <= plan.size_bytes + 1024, "the table is held twice"
    dense = loaded(export(str(first), dense=True, out=first.with_name("dense")).folder, "AutoModelForCausalLM")
    assert dense.lm_head.weight is dense.model.embed_tokens.weight
    tokens = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, dense(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_dry_run_writes_nothing(llama: Place, first: Path, measured: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out.curves")
    told = llama.compress(measured, dry_run=True, bits_per_weight=9)
    assert told.plan is None
    assert told.facts["matrices"].startswith("8 with ")
    assert "bits per weight" in told.facts["smallest"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InfeasibleBudgetError, match="below the smallest possible"):
        llama.compress(measured, dry_run=True, size=1000)
    kept = digest(first.with_name("first.curves"))
    foretold = llama.compress(first, dry_run=True, bits_per_weight=8).plan
    assert foretold is not None
    assert foretold.bits_per_weight <= 8
    assert digest(first.with_name("first.curves")) == kept


def test_a_rank_a_cosine_and_leave_one_out(llama: Place, measured: Path) -> None:
    plan = llama.compress(measured, rank=16, min_dim=32, keep=["embedding"]).plan
    assert plan is not None
    assert plan.measured[0].kl_nats == min(one.kl_nats for one in plan.measured)
    assert "fixed-rank" in {one.name for one in plan.measured}
    shutil.rmtree(measured)
    plan = llama.compress(measured, cosine=0.99, leave_one_out=True).plan
    assert plan is not None
    assert plan.metadata["predicted_cosine"] >= 0.99
    trials = plan.metadata["leave_one_out"]
    assert trials["kl_nats"] == pytest.approx(plan.measured[0].kl_nats, rel=1e-6)
    compressed = {layer.layer for layer in plan.layers if layer.scheme.format is not Format.KEEP}
    assert {one["layer"] for one in trials["layers"]} == compressed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 20_000}, "size: 20,000 bytes .* below the smallest possible, [0-9,]+ bytes"),
        ({"bits_per_weight": 0.5}, "bits_per_weight: 0.5 .* below the smallest possible, [0-9,]+ bytes"),
        ({"rank": 64, "min_dim": 32}, r"rank: 64 is above the smaller side of .*q_proj \(32 x 32\)"),
        ({"rank": 16, "min_dim": 4096}, "min_dim: no matrix has both sides of 4096"),
        ({"size": 200_000, "keep": ["*.experts.*", "*.mlp.*", "mlp.gatee"]}, r"keep: \*.experts.\*, mlp.gatee match no layer"),
        ({"size": 200_000, "role_ranks": {"attention.qkv": 16}}, "role_ranks: the model has no attention.qkv"),
    ],
)
def test_targets_and_policies_that_do_not_suit_the_model_are_told_before_anything_is_measured(
    llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(module, "measure_curves", lambda *_, **__: pytest.fail("measured first"))
    before = digest(llama.model)
    with pytest.raises(LayerLensError, match=said):
        llama.compress(tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
    assert digest(llama.model) == before


def test_a_size_below_the_smallest_leaves_kept_curves_as_they_are(llama: Place, measured: Path, tmp_path: Path) -> None:
    kept = digest(tmp_path / "out.curves")
    with pytest.raises(InfeasibleBudgetError, match="below the smallest possible"):
        llama.compress(measured, size=20_000)
    assert digest(tmp_path / "out.curves") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out.curves"]


def test_curves_of_data_that_changed_are_not_used(llama: Place, tmp_path: Path) -> None:
    mine = Place(llama.model, write_text(tmp_path / "text.txt", words=400))
    mine.compress(tmp_path / "out", bits_per_weight=9, widths=[8, 2], formats=["integer"], probes="off")
    shutil.rmtree(tmp_path / "out")
    kept = digest(tmp_path / "out.curves")
    write_text(tmp_path / "text.txt", words=400, seed=1)
    with pytest.raises(ConfigError, match=r"text\.txt has changed since .*out.curves was measured"):
        mine.compress(tmp_path / "out", bits_per_weight=9, widths=[8, 2], formats=["integer"], probes="off")
    assert digest(tmp_path / "out.curves") == kept


def test_curves_of_another_run_are_not_overwritten(llama: Place, measured: Path, tmp_path: Path) -> None:
    kept = digest(tmp_path / "out.curves")
    with pytest.raises(ConfigError, match="holds another run's files"):
        llama.compress(measured, bits_per_weight=9, num_samples=7)
    (tmp_path / "out.curves" / "curves.json").unlink()
    with pytest.raises(ConfigError, match="holds another run's files"):
        llama.compress(measured, bits_per_weight=9, num_samples=7)
    assert digest(tmp_path / "out.curves") == {name: value for name, value in kept.items() if name != "curves.json"}


def test_the_models_own_folder_and_other_folders_are_not_written_to(llama: Place, first: Path, tmp_path: Path) -> None:
    before = digest(llama.model)
    with pytest.raises(ConfigError, match="is the model's own folder"):
        llama.compress(llama.model / ".." / "model", bits_per_weight=9)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        llama.compress(tmp_path, bits_per_weight=9)
    with pytest.raises(ConfigError, match="is a file"):
        llama.compress(tmp_path / "mine.txt", bits_per_weight=9)
    with pytest.raises(CheckpointError, match="was compressed by LayerLens; give its original"):
        Place(first, llama.data).compress(tmp_path / "out", bits_per_weight=9)
    assert digest(llama.model) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_model_that_others_quantised_is_refused(llama: Place, tmp_path: Path) -> None:
    shutil.copytree(llama.model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ConfigError, match="is quantised already; give the original checkpoint"):
        Place(tmp_path / "model", llama.data).compress(tmp_path / "out", bits_per_weight=9)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"])
def test_a_tensor_that_is_not_finite_is_named_and_nothing_is_left(llama: Place, tmp_path: Path, name: str) -> None:
    shutil.copytree(llama.model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    before = digest(tmp_path / "model")
    with pytest.raises(LayerLensError, match=f"(NaN|infinite).*{name.removesuffix('.weight')}"):
        Place(tmp_path / "model", llama.data).compress(tmp_path / "out", bits_per_weight=9)
    assert digest(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_while_measuring_leaves_nothing(
    llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factor_cache, "save_file", no_space)
    with pytest.raises(ConfigError, match="too full for the factors of"):
        llama.compress(tmp_path / "out", bits_per_weight=9)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_while_writing_leaves_the_curves_alone(
    llama: Place, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = digest(tmp_path / "out.curves")
    with monkeypatch.context() as patch:
        patch.setattr(tensor_files.TensorFiles, "write", no_space)
        with pytest.raises(ConfigError, match=r"cannot write .*out: No space left on device; make room"):
            llama.compress(measured, bits_per_weight=9)
    assert digest(tmp_path / "out.curves") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out.curves"]
    assert llama.compress(measured, bits_per_weight=9).plan is not None


def killed(run: Callable[[], object], owner: type, name: str, places: int) -> int:
    """Run in a process of its own that ends the hard way at so many calls of a method; its exit code, or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left, method = places, getattr(owner, name)

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*given, **named)

    try:
        setattr(owner, name, counted)
        run()
    finally:
        os._exit(0)


def test_a_run_that_is_killed_here_and_there_goes_on_to_the_same_bytes(llama: Place, first: Path, tmp_path: Path) -> None:
    out = tmp_path / "first"
    done: list[int] = []
    for places in (2, 9, 12):
        assert killed(lambda: llama.compress(out, bits_per_weight=9), MemoryGuard, "check", places) == -signal.SIGKILL
        journal = tmp_path / "first.curves" / "work" / "journal.json"
        done.append(json.loads(journal.read_text())["num_done"])
    assert 1 <= done[0] < done[1] < done[2], "no run went on where the one before was"
    assert killed(lambda: llama.compress(out, bits_per_weight=9), tensor_files.TensorFiles, "write", 5) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".first.unfinished-*"))) == 1
    assert not out.exists()
    llama.compress(out, bits_per_weight=9)
    assert digest(out) == digest(first)
    assert digest(tmp_path / "first.curves") == digest(first.with_name("first.curves"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "first.curves"]


def test_a_run_that_is_interrupted_while_it_probes_or_writes_measures_no_curve_again(
    llama: Place, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "first"
    for owner, name in ((HeldOut, "probes"), (HeldOut, "race"), (tensor_files.TensorFiles, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            if name != "probes":
                patch.setattr("layerlens.compressing.matrix_jobs.solve_matrix", interrupted)
            with pytest.raises(KeyboardInterrupt):
                llama.compress(out, bits_per_weight=9)
        assert [path.name for path in tmp_path.iterdir()] == ["first.curves"]
    started = time.time_ns()
    llama.compress(out, bits_per_weight=9)
    factors = (tmp_path / "first.curves" / "factors").iterdir()
    assert all(path.stat().st_mtime_ns < started for path in factors), "a matrix was solved again"
    assert digest(out) == digest(first)
