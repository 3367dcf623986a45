"""A finished profile's folder, and a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerlens.cli import EXIT_BAD_INPUT, main
from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.workflow import profile as command
from layerlens.workflow.profile import profile
from tests.functional.conftest import write_table
from tests.tiny_models import save_tiny

SMALL = {"num_samples": 16, "max_length": 16, "batch_size": 8, "head_samples": 16, "proxy": "off"}


def test_a_finished_profile_is_read_again_until_its_data_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = str(save_tiny("bert", tmp_path / "model")), write_table(tmp_path / "data.csv", rows=60)
    config = ProfilingConfig(**SMALL, execution="memory")
    made = profile(model, str(data), tmp_path / "out", config).profile

    def measured_again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(command, "profile_model", measured_again)
    # As a streamed run leaves it that is killed between the profile and the deletion of its hidden states.
    (tmp_path / "out" / "work").mkdir()
    assert profile(model, str(data), tmp_path / "out", config).profile == made
    assert not (tmp_path / "out" / "work").exists()
    content = (tmp_path / "out" / "profile.json").read_bytes()
    write_table(data, rows=60, seed=1)
    with pytest.raises(ConfigError, match=r"data\.csv has changed since .*out was written; choose another output folder"):
        profile(model, str(data), tmp_path / "out", config)
    assert (tmp_path / "out" / "profile.json").read_bytes() == content
    assert (tmp_path / "out" / "run.json").exists()


def test_a_dry_run_tells_the_disk_of_a_new_head(tmp_path: Path) -> None:
    model, data = str(save_tiny("bert", tmp_path / "model")), write_table(tmp_path / "data.csv", rows=60)
    config = ProfilingConfig(**SMALL, execution="stream")
    assert "to fit the new head" in profile(model, str(data), tmp_path / "out", config, dry_run=True).facts["disk"]
    small = config.model_copy(update={"max_store": 1 << 10})
    with pytest.raises(ConfigError, match="--max-store 0 MiB is too little for the hidden states"):
        profile(model, str(data), tmp_path / "out", small, dry_run=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_process_works_in_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = str(save_tiny("bert", tmp_path / "model")), write_table(tmp_path / "data.csv", rows=60)
    config, measure = ProfilingConfig(**SMALL, execution="memory"), command.profile_model

    def meanwhile(*args: Any, **options: Any) -> Any:
        with pytest.raises(ConfigError, match="another process is working in"):
            profile(model, str(data), tmp_path / "out", config)
        assert (tmp_path / "out" / "run.json").exists()
        return measure(*args, **options)

    monkeypatch.setattr(command, "profile_model", meanwhile)
    assert profile(model, str(data), tmp_path / "out", config).profile is not None
    monkeypatch.undo()
    assert profile(model, str(data), tmp_path / "out", config).profile is not None


def test_a_model_whose_own_code_fails_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = save_tiny("nystromformer", tmp_path / "model"), write_table(tmp_path / "data.csv", rows=60)
    capsys.readouterr()
    options = ["--num-samples", "16", "--max-length", "16", "--head-samples", "16", "--proxy", "off"]
    assert main(["profile", str(model), "--data", str(data), "--out", str(tmp_path / "out"), *options]) == EXIT_BAD_INPUT
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("layerlens: the model's own code failed (RuntimeError: ")
    assert "modeling_nystromformer.py" in line
    assert not (tmp_path / "out").exists()
