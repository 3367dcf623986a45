"""No test reaches the network: the client is replaced, or told that it is offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.hub import ALLOWED, IGNORED, fetch_snapshot, is_hub_id
from tests.tiny_models import save_tiny


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/name", "Qwen/Qwen2.5-0.5B", "a/b_c.d"])
def test_a_name_or_owner_and_name_is_a_hub_id(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["./a", "../a/b", "/a", "~/a", "a/b/c", "a\\b", "", ".", "a b", "-x/y", "a/", "https://x/y"])
def test_anything_that_looks_like_a_path_is_no_hub_id(name: str) -> None:
    assert not is_hub_id(name)


def test_whatever_exists_here_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_id("owner/name")


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent-model", "runs/absent/model"])
def test_a_path_is_never_sent_to_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: asked.append(repo))
    with pytest.raises(CheckpointError, match="there is no folder"):
        open_checkpoint(name)
    assert asked == []


def test_a_hub_id_opens_the_snapshot_that_the_client_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("bert", tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(folder))
    checkpoint = open_checkpoint("owner/name")
    assert (checkpoint.id, checkpoint.folder) == ("owner/name", folder)
    assert checkpoint.hash() == open_checkpoint(str(folder)).hash()


def test_only_safetensors_configs_and_tokenizers_are_asked_for() -> None:
    listing = [
        *("config.json", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja"),
        *("1_Pooling/config.json", "2_Dense/model.safetensors", "additional_chat_templates/tool_use.jinja"),
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("pytorch_model.bin", "model.pt", "weights.ckpt", "tf_model.h5", "flax_model.msgpack", "modeling_evil.py", "model.pkl"),
        *("2_Dense/pytorch_model.bin", "2_Dense/onnx/model.safetensors", "4bit/model.safetensors", "original/params.json"),
        *("adapter/adapter_model.safetensors", "onnx/model.onnx", "openvino/model.safetensors"),
        *("consolidated.safetensors", "README.md"),
    ]
    wanted = list(filter_repo_objects(listing, allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    assert wanted == listing[:12]


def test_a_cached_copy_is_used_where_the_hub_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo: str, *, local_files_only: bool, **_: Any) -> str:
        if not local_files_only:
            raise ConnectionError("no route")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert fetch_snapshot("owner/name") == tmp_path


def test_the_reason_of_a_failure_is_the_first_one_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo: str, *, local_files_only: bool, **_: Any) -> str:
        raise OSError("cache is empty" if local_files_only else "404: no such model\nRequest id: 17")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError) as caught:
        fetch_snapshot("owner/name")
    message = str(caught.value)
    assert "owner/name" in message
    assert "404: no such model" in message
    assert "cache is empty" not in message
    assert "\n" not in message


def test_offline_an_unknown_id_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client reads its settings once, at import; the constants are what it asks at each call.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="nobody/no-such-model is no folder here") as caught:
        open_checkpoint("nobody/no-such-model")
    assert "\n" not in str(caught.value)
