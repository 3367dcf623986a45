"""Compressing tiny models of every family: exact bytes, the best measured, bad input told first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from layerlens.artifacts.compression import CompressionPlan, load_compression_plan, load_curves
from layerlens.artifacts.formats import Format
from layerlens.compressing.held_out import HeldOut, option_of
from layerlens.errors import CheckpointError, ConfigError, InfeasibleBudgetError, LayerLensError, UnsupportedModelError
from layerlens.models.foreign import quiet
from layerlens.progress import Silent
from layerlens.words import BudgetName
from layerlens.workflow import compress_curves
from layerlens.workflow.compress import compress
from layerlens.workflow.export import export
from tests.tiny_models import FAMILIES
from tests.unit.workflow.compressions import Place, config, digest, place, tensor_bytes, write_text


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
    small_llama: Place, first: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("what is known was measured again")

    monkeypatch.setattr(compress_curves, "measure_curves", refuse)
    kept = load_curves(first.with_name("first.curves"))
    budget = int(0.9 * tensor_bytes(first))
    plan = small_llama.compress(measured, size=budget).plan
    assert plan is not None
    assert tensor_bytes(measured) == plan.size_bytes <= budget
    check_race(plan)
    found = load_curves(measured.with_name("out.curves"))
    for before, after in zip(kept.matrices, found.matrices, strict=True):
        assert (before.probe, before.anchor) == (after.probe, after.anchor)
        assert before.family_probes == after.family_probes[: len(before.family_probes)]
    files = digest(measured.with_name("out.curves") / "factors")
    assert files == digest(first.with_name("first.curves") / "factors")
    monkeypatch.setattr(HeldOut, "probes", refuse)
    shutil.rmtree(measured)
    assert small_llama.compress(measured, size=budget).plan == plan
    again = small_llama.compress(measured.parent / "elsewhere" / "out", dry_run=True, size=budget, probes="off")
    assert again.plan is None, "there are no curves beside that folder"


def test_what_the_optimum_picks_is_measured_and_told_before_anything_is_written(
    small_llama: Place, first: Path, measured: Path
) -> None:
    notes: list[str] = []

    class Watcher(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    asked = config(bits_per_weight=5, formats=["low-rank", "half"])
    plan = compress(str(small_llama.model), str(small_llama.data), measured, asked, progress=Watcher()).plan
    before, after = (load_curves(folder) for folder in (first.with_name("first.curves"), measured.with_name("out.curves")))
    picked = [
        probe
        for old, new in zip(before.matrices, after.matrices, strict=True)
        for probe in new.family_probes[len(old.family_probes) :]
    ]
    assert picked
    assert {probe.scheme.format for probe in picked} == {Format.LOW_RANK}
    assert len(notes) == 2
    assert notes[0].startswith(f"choices of the plan that lay far from any probe, measured alone: {len(picked)};")
    assert notes[1].startswith("predicted before anything is written")
    assert plan is not None
    known = sum(len(matrix.family_probes) for matrix in after.matrices)
    told = f"options of plans that lay far from what their matrix was probed at, measured alone too: {known};"
    assert plan.metadata["notes"][-1].startswith(told)
    for matrix, entry in zip(after.matrices, plan.layers, strict=True):
        assert entry.predicted_loss == option_of(matrix, entry).predicted_loss


@pytest.mark.parametrize("asked", [{"bits_per_weight": 9, "formats": ["integer"]}, {"cosine": 0.999}])
def test_a_baseline_that_is_not_what_was_asked_for_races_but_is_not_written(
    small_llama: Place, measured: Path, asked: dict[str, Any]
) -> None:
    result = small_llama.compress(measured, **asked)
    plan = load_compression_plan(measured)
    assert plan.metadata["left_out"] == result.left_out != {}
    barred = plan.metadata["only_measured"]
    assert barred
    raced = [one.name for one in plan.measured]
    assert set(barred) <= set(raced)
    assert plan.chosen.name == next(name for name in raced if name not in barred)
    assert {entry.scheme.format for entry in plan.layers} <= {Format.KEEP, *map(Format, asked.get("formats", Format))}
    assert plan.metadata["predicted_cosine"] >= asked.get("cosine", 0.0)
    assert small_llama.compress(measured, **asked).left_out == result.left_out, "a second run tells it too"


def test_a_kept_size_gives_the_same_bytes_as_a_first_run(small_llama: Place, first: Path, measured: Path) -> None:
    small_llama.compress(measured, bits_per_weight=9)
    assert digest(measured) == {**digest(first), "plan.json": digest(measured)["plan.json"]}
    mine, theirs = (json.loads((folder / "plan.json").read_text()) for folder in (measured, first))
    assert {**mine["metadata"], "curves": ""} == {**theirs["metadata"], "curves": ""}
    assert [mine[key] for key in ("layers", "measured", "chosen")] == [theirs[key] for key in ("layers", "measured", "chosen")]


def test_every_probe_anchors_its_matrix(small_llama: Place, first: Path) -> None:
    curves = load_curves(first.with_name("first.curves"))
    assert all(matrix.probe is not None and matrix.anchor > 0 for matrix in curves.matrices)
    assert curves.data["held_out_samples"] == 4
    assert curves.data["calibration_samples"] == 8


def test_the_same_command_finds_its_result(small_llama: Place, first: Path) -> None:
    before = digest(first)
    assert small_llama.compress(first, bits_per_weight=9).plan == load_compression_plan(first)
    assert small_llama.compress(first, bits_per_weight=9, threads=2, processes=2).plan is not None
    assert digest(first) == before


def test_tied_embeddings_are_stored_once_and_stay_tied(small_llama: Place, first: Path) -> None:
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


def test_a_scaled_embedding_and_its_tied_head_are_compressed(tmp_path: Path) -> None:
    mine, out = place(tmp_path, "gemma2", vocab_size=2048), tmp_path / "out"
    plan = mine.compress(out, bits_per_weight=5, num_samples=4, held_out_samples=2, probes="off").plan
    assert plan is not None
    table = next(entry for entry in plan.layers if entry.role == "embedding")
    assert (table.layer, table.tied) == ("model.embed_tokens", ["lm_head"])
    assert tensor_bytes(out) == plan.size_bytes
    dense = export(str(out), dense=True).folder
    tokens = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        found, expected = (loaded(folder, "AutoModelForCausalLM")(tokens).logits for folder in (out, dense))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_dry_run_writes_nothing(small_llama: Place, first: Path, measured: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out.curves")
    told = small_llama.compress(measured, dry_run=True, bits_per_weight=9)
    assert told.plan is None
    assert told.facts["matrices"].startswith("8 with ")
    bits = told.facts["smallest"].split("(")[1].removesuffix(" bits per weight)")
    assert small_llama.compress(measured, dry_run=True, bits_per_weight=float(bits)).plan is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InfeasibleBudgetError, match="below the smallest possible"):
        small_llama.compress(measured, dry_run=True, size=1000)
    fixed = small_llama.compress(measured, dry_run=True, rank=16, min_dim=32).facts
    told_bytes = int(fixed["size"].split(" bytes")[0].replace(",", ""))
    assert "smallest" not in fixed
    kept = digest(first.with_name("first.curves"))
    foretold = small_llama.compress(first, dry_run=True, bits_per_weight=8).plan
    assert foretold is not None
    assert foretold.bits_per_weight <= 8
    foretold = small_llama.compress(first, dry_run=True, rank=16, min_dim=32).plan
    assert foretold is not None
    factored = sum(layer.scheme.format.has_factors for layer in foretold.layers)
    assert foretold.size_bytes == told_bytes
    assert fixed["size"].endswith(f"factors for {factored} of 8 matrices, the rest kept")
    assert digest(first.with_name("first.curves")) == kept


def test_a_rank_a_cosine_and_leave_one_out(small_llama: Place, measured: Path) -> None:
    plan = small_llama.compress(measured, rank=16, min_dim=32, keep=["embedding"]).plan
    assert plan is not None
    assert plan.measured[0].kl_nats == min(one.kl_nats for one in plan.measured)
    assert "fixed-rank" in {one.name for one in plan.measured}
    shutil.rmtree(measured)
    plan = small_llama.compress(measured, cosine=0.99, leave_one_out=True).plan
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
    small_llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(compress_curves, "measure_curves", lambda *_, **__: pytest.fail("measured first"))
    before = digest(small_llama.model)
    with pytest.raises(LayerLensError, match=said):
        small_llama.compress(tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
    assert digest(small_llama.model) == before


def test_a_size_below_the_smallest_leaves_kept_curves_as_they_are(small_llama: Place, measured: Path, tmp_path: Path) -> None:
    kept = digest(tmp_path / "out.curves")
    with pytest.raises(InfeasibleBudgetError, match="below the smallest possible"):
        small_llama.compress(measured, size=20_000)
    assert digest(tmp_path / "out.curves") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["out.curves"]


def test_curves_of_another_run_are_not_overwritten(small_llama: Place, measured: Path, tmp_path: Path) -> None:
    kept = digest(tmp_path / "out.curves")
    with pytest.raises(ConfigError, match="holds another run's files"):
        small_llama.compress(measured, bits_per_weight=9, num_samples=7)
    (tmp_path / "out.curves" / "curves.json").unlink()
    with pytest.raises(ConfigError, match="holds another run's files"):
        small_llama.compress(measured, bits_per_weight=9, num_samples=7)
    assert digest(tmp_path / "out.curves") == {name: value for name, value in kept.items() if name != "curves.json"}


def test_curves_are_found_by_the_data_however_their_path_is_typed(
    small_llama: Place, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, name = tmp_path / "out.curves" / "run.json", small_llama.data.name
    said = json.loads(claim.read_text())
    assert said["data"] == str(small_llama.data.resolve())
    monkeypatch.chdir(small_llama.data.parent)
    # A release before kept what was typed.
    for told in (said["data"], f"./{name}"):
        claim.write_text(json.dumps({**said, "data": told}))
        for typed in (name, str(small_llama.data)):
            assert compress(str(small_llama.model), typed, measured, config(bits_per_weight=9), dry_run=True).plan is not None
    other = write_text(tmp_path / name)
    with pytest.raises(ConfigError, match="holds another run's files"):
        compress(str(small_llama.model), str(other), measured, config(bits_per_weight=9), dry_run=True)


def test_curves_with_other_options_are_not_taken_for_these(small_llama: Place, measured: Path, tmp_path: Path) -> None:
    kept = digest(tmp_path / "out.curves")
    claim = tmp_path / "out.curves" / "run.json"
    said = json.loads(claim.read_text())
    assert "is_iterated" in json.dumps(said)
    # As a release before left it, whose effort of the same name offered other ranks.
    claim.write_text(json.dumps(said).replace('"is_iterated": false', '"is_iterated": true'))
    with pytest.raises(ConfigError, match=r"holds another run's files.*is_iterated"):
        small_llama.compress(measured, dry_run=True, bits_per_weight=9)
    claim.write_text(json.dumps(said, indent=2) + "\n")
    assert digest(tmp_path / "out.curves").keys() == kept.keys()


def test_the_models_own_folder_and_other_folders_are_not_written_to(small_llama: Place, first: Path, tmp_path: Path) -> None:
    before = digest(small_llama.model)
    with pytest.raises(ConfigError, match="is the model's own folder"):
        small_llama.compress(small_llama.model / ".." / "model", bits_per_weight=9)
    with pytest.raises(ConfigError, match="lies in the model's own folder"):
        small_llama.compress(small_llama.model / "int4", bits_per_weight=9)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        small_llama.compress(tmp_path, bits_per_weight=9)
    with pytest.raises(ConfigError, match="is a file"):
        small_llama.compress(tmp_path / "mine.txt", bits_per_weight=9)
    with pytest.raises(CheckpointError, match="was compressed by LayerLens; give its original"):
        Place(first, small_llama.data).compress(tmp_path / "out", bits_per_weight=9)
    assert digest(small_llama.model) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_current_folder_is_refused_before_anything_is_measured(
    small_llama: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for out in (".", ".."):
        with pytest.raises(ConfigError, match=r"is the current folder or one above it, and would be replaced"):
            small_llama.compress(Path(out), bits_per_weight=9)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_finished_folder_is_not_taken_for_the_result_of_data_that_changed(tmp_path: Path) -> None:
    mine = place(tmp_path, "llama")
    options: dict[str, Any] = {"bits_per_weight": 16, "widths": [8, 2], "formats": ["integer"], "probes": "off"}
    mine.compress(tmp_path / "out", **options)
    assert mine.compress(tmp_path / "out", **options).plan == load_compression_plan(tmp_path / "out")
    write_text(mine.data, words=400, seed=1)
    with pytest.raises(ConfigError, match=r"has changed since .*out was written"):
        mine.compress(tmp_path / "out", **options)


def test_a_family_that_does_not_run_block_by_block_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    mine = place(tmp_path, "convnext")
    with pytest.raises(UnsupportedModelError, match=r"ConvNext.* cannot run block by block.* cannot be compressed$"):
        mine.compress(tmp_path / "out", size=30_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model"]


def test_a_model_that_others_quantised_is_refused(small_llama: Place, tmp_path: Path) -> None:
    shutil.copytree(small_llama.model, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ConfigError, match="is quantised already; give the original checkpoint"):
        Place(tmp_path / "model", small_llama.data).compress(tmp_path / "out", bits_per_weight=9)
