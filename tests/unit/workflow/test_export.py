"""A plan is written for other tools; exported folders are ordinary ones, with the matrices that the compressed one stands for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from layerlens.artifacts.plan import save_plan
from layerlens.cli import main
from layerlens.compressing import tensor_files
from layerlens.errors import CheckpointError, ConfigError, UnsupportedModelError
from layerlens.workflow.export import export
from tests.unit.compressing.folders import Compressed, compress_tiny
from tests.unit.exporting.plans import made
from tests.unit.workflow.compressions import digest, tensor_bytes


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress_tiny("llama", tmp_path_factory.mktemp("llama"))


def test_a_dense_export_is_an_ordinary_checkpoint_beside_its_source(llama: Compressed) -> None:
    before = digest(llama.folder)
    result = export(str(llama.folder), dense=True)
    assert result.folder == llama.folder.with_name("compressed-dense")
    assert result.size_bytes == tensor_bytes(result.folder)
    config, original = (json.loads((folder / "config.json").read_text()) for folder in (result.folder, llama.source.folder))
    assert config == original
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (result.folder, llama.source.folder))
    assert {name: (values.shape, values.dtype) for name, values in mine.items()} == {
        name: (values.shape, values.dtype) for name, values in theirs.items()
    }
    assert torch.equal(mine["model.norm.weight"], theirs["model.norm.weight"])
    assert (result.folder / "tokenizer.json").exists()
    assert digest(llama.folder) == before
    with pytest.raises(ConfigError, match="already holds files"):
        export(str(llama.folder), dense=True)


def test_a_dry_run_counts_the_bytes_and_writes_nothing(
    llama: Compressed, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, form in ((llama.folder, ["--dense"]), (plan, ["--to", "trl"])):
        before, command = digest(source.parent), ["export", str(source), "--out", str(tmp_path / "out"), *form]
        assert main([*command, "--dry-run"]) == 0
        *told, last = capsys.readouterr().out.splitlines()
        assert last == "dry run: nothing was written"
        assert not (tmp_path / "out").exists()
        assert digest(source.parent) == before
        assert main(command) == 0
        assert capsys.readouterr().out.splitlines() == told
        (tmp_path / "out" / "trl.yaml").write_text("mine")
        assert main([*command, "--dry-run"]) == 2
        assert "choose another" in capsys.readouterr().err
        (tmp_path / "out").rename(tmp_path / form[0])


def test_a_relative_folder_is_exported_beside_itself(llama: Compressed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "inside").symlink_to(llama.folder)
    monkeypatch.chdir(tmp_path / "inside")
    assert export(".", tmp_path / "dense", dense=True).folder == tmp_path / "dense"
    monkeypatch.chdir(llama.folder)
    (llama.folder.parent / "compressed-dense").rename(tmp_path / "moved")
    result = export(".", dense=True)
    assert result.folder == llama.folder.parent / "compressed-dense"
    assert digest(result.folder) == digest(tmp_path / "moved")


@pytest.mark.parametrize("is_said", [False, True])
def test_one_form_has_to_be_said(llama: Compressed, is_said: bool) -> None:
    with pytest.raises(ConfigError, match=r"--dense .* or --compressed-tensors; one of them"):
        export(str(llama.folder), dense=is_said, compressed_tensors=is_said)


def test_only_compressed_folders_are_exported(llama: Compressed, tmp_path: Path) -> None:
    for source in (llama.source.folder, tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="was not written by `layerlens compress`"):
            export(str(source), tmp_path / "out", dense=True)
    with pytest.raises(ConfigError, match="is the folder that is read"):
        export(str(llama.folder), llama.folder, dense=True)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_the_standard_format_cannot_say_is_refused_and_leaves_nothing(llama: Compressed, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"compressed-tensors cannot say how .* is int3, needed int8"):
        export(str(llama.folder), tmp_path / "out", compressed_tensors=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(llama: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files.TensorFiles, "write", no_space)
    with pytest.raises(ConfigError, match="No space left on device; make room"):
        export(str(llama.folder), tmp_path / "out", dense=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of a tiny language model, on disk."""
    folder = tmp_path_factory.mktemp("plan")
    _, made_plan = made("llama", folder / "model")
    save_plan(folder / "plan.json", made_plan)
    return folder / "plan.json"


def test_a_plan_is_written_beside_itself_and_what_is_lost_is_said(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(plan), "--to", "trl"]) == 0
    folder = plan.with_name("plan-trl")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "trl.yaml", "trl_sft.py"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "adapter_config.json, trl.yaml, trl_sft.py for trl" in printed
    assert "loses the ranks" in printed
    renamed = plan.with_name("plan-0.5")
    renamed.write_bytes(plan.read_bytes())
    assert export(str(renamed), to="trl").folder == plan.with_name("plan-0.5-trl")
    result = export(str(plan), plan.parent / "peft", to="peft")
    assert result.size_bytes == (plan.parent / "peft" / "adapter_config.json").stat().st_size


def test_a_plan_is_exported_without_torch(plan: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from layerlens.workflow.export import export\n"
        f"export({str(plan)!r}, {str(tmp_path / 'out')!r}, to='llama-factory')\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("plan", {}, "say which tool .* shall be written for: --to peft, axolotl, llama-factory, trl; one of them"),
        ("plan", {"dense": True}, "--dense and .* is a file; give the folder"),
        ("plan", {"to": "peft", "dense": True}, "--dense and --compressed-tensors a folder; leave one out"),
        ("plan", {"to": "keras"}, "unknown tool keras; there are peft, axolotl, llama-factory, trl"),
        ("folder", {"to": "peft"}, "--to peft takes a plan.json; of the compressed folder .* write --dense"),
        ("plan of folder", {"to": "peft"}, "is the plan of a compressed folder, which has no adapters"),
    ],
)
def test_a_form_that_does_not_go_with_its_source_is_refused(
    plan: Path, llama: Compressed, tmp_path: Path, source: str, options: dict[str, Any], said: str
) -> None:
    places = {"plan": plan, "folder": llama.folder, "plan of folder": llama.folder / "plan.json"}
    with pytest.raises(ConfigError, match=said):
        export(str(places[source]), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
