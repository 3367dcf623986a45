"""The final run: a plain PEFT folder, a resumable run, and an arm that says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from layerlens.adapting.attach import attached
from layerlens.adapting.load import load_adapted, load_adapter, open_adapter
from layerlens.adapting.tune import tune
from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.inference import score
from layerlens.data.partition import Partition, partition
from layerlens.errors import ConfigError, DataError, ManifestError, NotFiniteError
from layerlens.models.load import TaskModel, load_task_model
from layerlens.words import Method, Site, TaskKind
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import kind_of, made_data, make_plan, tiny_task_model, uneven_ranks

QUICK = TuneConfig(learning_rate=1e-2, max_steps=6, batch_size=8, save_steps=2, precision=Precision.FP32, fit_head=False)

PLAIN_PEFT = """
import json, sys
import numpy as np, torch, transformers
from peft import PeftModel
for job in json.loads(sys.argv[1]):
    model = getattr(transformers, job["auto"]).from_pretrained(job["base"], **job["options"])
    model = PeftModel.from_pretrained(model, job["adapter"]).eval()
    batch = {name: torch.from_numpy(array) for name, array in np.load(job["inputs"]).items()}
    with torch.no_grad():
        np.save(job["logits"], model(**batch).logits.numpy())
assert not any(name.startswith("layerlens") for name in sys.modules)
"""
AUTO = {
    "bert": ("AutoModelForSequenceClassification", {"num_labels": 3}),
    "gpt2": ("AutoModelForCausalLM", {}),
    "vit": ("AutoModelForImageClassification", {"num_labels": 3}),
}


class StopAfter:
    """Interrupts the run after some steps, as Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.notes: list[str] = []

    def track(self, items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number > self.steps:
                raise KeyboardInterrupt
            yield item

    def note(self, text: str) -> None:
        self.notes.append(text)


def made(family: str, folder: Path, num: int = 60, **overrides: object) -> tuple[TaskModel, LoadedData, Partition, Plan]:
    kind = kind_of(family)
    task_model = tiny_task_model(family, folder, kind, **overrides)
    plan = make_plan(task_model, kind, uneven_ranks(task_model))
    return task_model, made_data(task_model, kind, num), partition(num, None, seed=0, has_eval_data=False), plan


def test_the_folder_loads_with_plain_peft_and_gives_identical_logits(tmp_path: Path) -> None:
    jobs, expected = [], {}
    for family, (auto, options) in AUTO.items():
        folder = tmp_path / family
        task_model, data, part, plan = made(family, folder / "base")
        arm = tune(plan, task_model, data, part, (data, part.test), QUICK, out=folder / "out")
        assert (arm.trainable_params, arm.head_params) == (plan.params, plan.head_params)
        batch = data.task.model_inputs(data.task.collate(data.take(part.test[:4])))
        np.savez(folder / "inputs.npz", **{name: tensor.numpy() for name, tensor in batch.items()})
        paths = {
            "base": folder / "base",
            "adapter": folder / "out" / "adapter",
            "inputs": folder / "inputs.npz",
            "logits": folder / "logits.npy",
        }
        jobs.append({"auto": auto, "options": options, **{name: str(path) for name, path in paths.items()}})
        loaded = load_adapter(open_adapter(folder / "out" / "adapter"), task_model)
        with torch.no_grad():
            expected[family] = loaded(**batch).logits
            with loaded.disable_adapter():
                assert not torch.allclose(loaded(**batch).logits, expected[family])
        check_folder(folder / "out" / "adapter", plan, folder / "base")
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, json.dumps(jobs)], check=True, capture_output=True, cwd=tmp_path)
    for family in AUTO:
        assert torch.equal(torch.from_numpy(np.load(tmp_path / family / "logits.npy")), expected[family]), family


def check_folder(adapter: Path, plan: Plan, base: Path) -> None:
    """Exactly PEFT's two files, every trained parameter in them, and nothing of the place they were made in."""
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    weights = load_file(adapter / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == plan.params + plan.head_params
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(plan.ranks)
    assert config["base_model_name_or_path"] == str(base)


def test_training_lowers_the_loss_and_the_arm_says_what_was_measured(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base", 200, num_hidden_layers=1)
    config = QUICK.model_copy(update={"max_steps": 60, "batch_size": 16})
    arm = tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")
    assert (arm.name, arm.steps, arm.seed, arm.learning_rate) == ("layerlens", 60, 0, 1e-2)
    assert len(arm.loss_curve) == 60
    assert arm.loss_curve[-1].step == 60
    assert sum(point.loss for point in arm.loss_curve[-5:]) < 0.8 * sum(point.loss for point in arm.loss_curve[:5])
    assert arm.metrics.keys() >= {"loss", "accuracy", "macro_f1"}
    assert arm.metrics["accuracy"] > 0.5
    assert arm.train_seconds > 0
    assert arm.peak_memory_bytes > 2**20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", "arm.json"]


@pytest.mark.parametrize("stopped_after", [3, 4])
def test_a_stopped_run_ends_with_the_weights_of_one_never_stopped(tmp_path: Path, stopped_after: int) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    config = QUICK.model_copy(update={"keep_checkpoints": True, "fit_head": True})
    evaluation = (data, part.test)
    whole = tune(plan, task_model, data, part, evaluation, config, out=tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, config, out=stopped, progress=StopAfter(stopped_after))
    assert not (stopped / "adapter").exists()
    left = sorted(path.name for path in (stopped / "checkpoints").glob("checkpoint-*"))
    assert left == [f"checkpoint-{number}" for number in (2, 4) if number <= stopped_after]
    torch.manual_seed(12345)
    resumed = tune(plan, task_model, data, part, evaluation, config, out=stopped)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (stopped / "adapter" / name).read_bytes() == (tmp_path / "whole" / "adapter" / name).read_bytes(), name
    assert resumed.loss_curve == whole.loss_curve
    assert resumed.metrics == whole.metrics


def test_a_checkpoint_cut_short_is_not_resumed_from(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    whole = tune(plan, task_model, data, part, evaluation, QUICK, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=StopAfter(4))
    cut = out / "checkpoints" / "checkpoint-4"
    (cut / "whole").unlink()
    (cut / "optimizer.pt").write_bytes(b"half")
    assert tune(plan, task_model, data, part, evaluation, QUICK, out=out).metrics == whole.metrics


def test_no_checkpoint_holds_a_pickle_that_could_run_code(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    config = QUICK.model_copy(update={"keep_checkpoints": True})
    tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")
    from transformers.trainer_pt_utils import safe_globals

    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint-6"
    pickles = [path for path in checkpoint.iterdir() if path.suffix in {".pt", ".pth", ".bin"}]
    assert pickles
    with safe_globals():
        for path in pickles:
            torch.load(path, weights_only=True)


def test_a_finished_run_is_read_and_another_runs_folder_is_refused(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    arm = tune(plan, task_model, data, part, evaluation, QUICK, out=out)
    written = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert tune(plan, task_model, data, part, evaluation, QUICK, out=out) == arm
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == written
    other = QUICK.model_copy(update={"learning_rate": 5e-3})
    with pytest.raises(ConfigError, match=r"belongs to another run \(config.learning_rate was .*, now 0.005\)"):
        tune(plan, task_model, data, part, evaluation, other, out=out)
    (out / "arm.json").write_text("{}")
    with pytest.raises(ConfigError, match="belongs to another run"):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_mixed_plan_trains_and_comes_back_with_the_logits_it_was_scored_with(family: str, tmp_path: Path) -> None:
    task_model, data, part, _ = made(family, tmp_path / "base")
    plan = mixed_plan(task_model, kind_of(family))
    arm = tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    assert (arm.trainable_params, arm.head_params) == (plan.params, plan.head_params)
    loaded = load_adapted(tmp_path / "out")
    found = score(loaded, data.task, data.take(sorted(part.test)), batch_size=16)
    assert found["loss"] == pytest.approx(arm.metrics["loss"], rel=1e-5)
    base = score(task_model.model, data.task, data.take(sorted(part.test)), batch_size=16)
    assert base["loss"] != pytest.approx(arm.metrics["loss"], rel=1e-5)
    started = {name: (start, now) for name, start, now in moved(task_model, plan, loaded)}
    assert len(started) == 2 * (2 * 4 + 2)
    assert [name for name, (start, now) in started.items() if torch.equal(start, now)] == []


def moved(task_model: TaskModel, plan: Plan, loaded: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every parameter of a bottleneck or prefix of a plan, at its start and after training."""
    with attached(task_model.model, plan, seed=QUICK.seed):
        starts = {name: part.detach().clone() for name, part in task_model.model.named_parameters() if "layerlens" in name}
    ends = {name.removeprefix("base_model.model."): part for name, part in loaded.named_parameters() if "layerlens" in name}
    assert starts.keys() == ends.keys()
    return ((name, starts[name], ends[name]) for name in starts)


def test_a_stopped_run_of_a_mixed_plan_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    folders = []
    for name in ("whole", "stopped"):
        task_model, data, part, _ = made("bert", tmp_path / "base")
        plan, out = mixed_plan(task_model, kind_of("bert")), tmp_path / name
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                tune(plan, task_model, data, part, (data, part.test), QUICK, out=out, progress=StopAfter(4))
        tune(plan, task_model, data, part, (data, part.test), QUICK, out=out)
        folders.append({path.name: path.read_bytes() for path in (out / "adapter").iterdir()})
    assert folders[0] == folders[1]
    assert len(folders[0]) == 4


def test_the_run_of_a_plan_that_differs_in_a_prefix_alone_is_another_run(tmp_path: Path) -> None:
    task_model, data, part, _ = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    tune(mixed_plan(task_model, kind_of("bert"), tokens=1), task_model, data, part, evaluation, QUICK, out=out)
    with pytest.raises(ConfigError, match="belongs to another run"):
        tune(mixed_plan(task_model, kind_of("bert"), tokens=2), task_model, data, part, evaluation, QUICK, out=out)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, evaluation, QUICK, out=out, progress=StopAfter(3))
    other = QUICK.model_copy(update={"learning_rate": 5e-3})
    with pytest.raises(ConfigError, match="holds another run's files"):
        tune(plan, task_model, data, part, evaluation, other, out=out)


def test_faults_are_told_before_anything_is_written(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    evaluation, out = (data, part.test), tmp_path / "out"
    site = plan.layers[3].model_copy(update={"site": Site.SUBLAYER, "method": Method.ADAPTER, "size": 4, "layer": "bert.absent"})
    with pytest.raises(ManifestError, match=r"bert\.absent: the model has no such layer"):
        tune(
            plan.model_copy(update={"layers": [*plan.layers, site]}),
            task_model,
            data,
            part,
            evaluation,
            QUICK,
            out=tmp_path / "absent",
        )
    other = tiny_task_model("bert", tmp_path / "other", TaskKind.CLASSIFICATION, seed=4)
    with pytest.raises(ManifestError, match="a plan of another model"):
        tune(plan, other, data, part, evaluation, QUICK, out=out)
    with pytest.raises(DataError, match="needs training and evaluation samples"):
        tune(plan, task_model, data, part, (data, ()), QUICK, out=out)
    assert not out.exists()


def test_divergence_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    before = {name: tensor.clone() for name, tensor in task_model.model.state_dict().items() if "classifier" not in name}
    exploding = plan.model_copy(update={"alpha_over_rank": 1e39})
    with pytest.raises(NotFiniteError, match="use a lower --learning-rate"):
        tune(exploding, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out")
    after = task_model.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not (tmp_path / "out").exists()
    # What the message advises can be done in the same place.
    assert tune(plan, task_model, data, part, (data, part.test), QUICK, out=tmp_path / "out").steps == 6


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    config = QUICK.model_copy(update={"report_to": ["no-such-tracker"]})
    with pytest.raises(ConfigError, match="no-such-tracker"):
        tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")


def test_a_tracker_sees_the_run_with_its_true_epochs(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="the extra `track`")
    task_model, data, part, plan = made("bert", tmp_path / "base")
    config = QUICK.model_copy(update={"report_to": ["tensorboard"]})
    arm = tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")
    events = event_accumulator.EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [point.loss for point in arm.loss_curve], rel=1e-3
    )
    # Six steps of eight on the 42 training samples of 60.
    assert events.Scalars("train/epoch")[-1].value == pytest.approx(6 * 8 / len(part.train))


def test_bf16_trains_and_leaves_float32_weights(tmp_path: Path) -> None:
    task_model, data, part, plan = made("bert", tmp_path / "base")
    fresh = load_task_model(task_model.checkpoint, plan.task, seed=0)
    config = QUICK.model_copy(update={"precision": Precision.BF16})
    arm = tune(plan, task_model, data, part, (data, part.test), config, out=tmp_path / "out")
    assert arm.metrics["loss"] < 2.0
    # Scores are of float32, whatever training did.
    loaded = load_adapter(open_adapter(tmp_path / "out" / "adapter"), TaskModel(fresh.model, (), fresh.checkpoint))
    assert score(loaded, data.task, data.take(sorted(part.test)), batch_size=16) == arm.metrics
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    exact = QUICK.model_copy(update={"precision": Precision.FP32})
    assert tune(plan, task_model, data, part, (data, part.test), exact, out=tmp_path / "exact").loss_curve != arm.loss_curve
