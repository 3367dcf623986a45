"""Weight files written in any order, read back by safetensors itself; a folder appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from layerlens.compressing import folder_swap, tensor_files
from layerlens.compressing.tensor_files import TensorFiles, TensorShape, new_folder, restore_folder
from layerlens.errors import ConfigError
from layerlens.models.streamed.tensor_reader import as_bytes


def _tensors() -> dict[str, Tensor]:
    return {
        "b.codes": torch.arange(12, dtype=torch.uint8).view(3, 4),
        "a.scales": torch.randn(3, 5).to(torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "last": torch.randn(9, 3),
    }


def _write(folder: Path, tensors: dict[str, Tensor], shard_bytes: int = 1 << 30) -> int:
    files = TensorFiles(folder, {name: TensorShape.of(tensor) for name, tensor in tensors.items()}, shard_bytes)
    for name in reversed(list(tensors)):
        files.write_tensor(name, tensors[name])
    assert files.missing == []
    files.close()
    return files.num_bytes


def test_safetensors_reads_what_was_written_in_reverse_order(tmp_path: Path) -> None:
    tensors = _tensors()
    assert _write(tmp_path, tensors) == sum(tensor.nbytes for tensor in tensors.values())
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) and loaded[name].dtype == tensors[name].dtype for name in tensors)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_small_shard_size_gives_shards_and_an_index_of_all_tensors(tmp_path: Path) -> None:
    tensors = _tensors()
    total = _write(tmp_path, tensors, shard_bytes=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == total
    assert index["weight_map"].keys() == tensors.keys()
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    assert len(shards) > 1
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / shard)[name], tensors[name])


def test_a_tensor_may_come_in_parts(tmp_path: Path) -> None:
    whole = torch.randn(10, 4)
    files = TensorFiles(tmp_path, {"w": TensorShape.of(whole)})
    assert files.missing == ["w"]
    files.write("w", as_bytes(whole[6:].contiguous()), 6 * 16)
    files.write("w", as_bytes(whole[:6].contiguous()))
    files.close()
    assert torch.equal(load_file(tmp_path / "model.safetensors")["w"], whole)


def test_a_folder_appears_when_all_is_done(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out, tmp_path) as folder:
        (folder / "file").write_text("x", encoding="utf-8")
        assert not out.exists()
    assert (out / "file").read_text(encoding="utf-8") == "x"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_empty_folder_may_stand_in_the_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out, tmp_path) as folder:
        (folder / "file").touch()
    assert (out / "file").exists()


def _give_up(out: Path, error: BaseException, may_replace: Callable[[], None] | None = None) -> None:
    with new_folder(out, out.parent / "source", may_replace) as folder:
        (folder / "half").touch()
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("other"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_nothing_is_left_of_a_folder_that_was_not_finished(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(ConfigError if isinstance(error, OSError) else type(error)):
        _give_up(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot write .*out: No space left on device; make room.*$"):
        _give_up(tmp_path / "out", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _held(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def _replace(out: Path, may_replace: Callable[[], None] = lambda: None) -> None:
    """Let a folder with `new` take the place of one with `old`."""
    with new_folder(out, out.parent / "source", may_replace) as folder:
        (folder / "new").write_text("new", encoding="utf-8")


def _old(out: Path) -> Path:
    out.mkdir()
    (out / "old").write_text("old", encoding="utf-8")
    return out


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_that_may_go_makes_way_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folder_swap, "_exchanged", lambda *_: False)
    out = _old(tmp_path / "out")
    with pytest.raises(ValueError, match="half way"):
        _give_up(out, ValueError("half way"), lambda: None)
    assert _held(out) == {"old": "old"}
    _replace(out)
    assert _held(out) == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_may_not_go_is_asked_for_again_at_the_end(tmp_path: Path) -> None:
    out = _old(tmp_path / "out")

    def may_replace() -> None:
        if list(tmp_path.glob("*.unfinished-*/new")):
            (out / "mine").write_text("mine", encoding="utf-8")
            raise ConfigError("out holds mine")

    with pytest.raises(ConfigError, match="out holds mine"):
        _replace(out, may_replace)
    assert _held(out) == {"old": "old", "mine": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("can_exchange", "renamings"), [(True, 9), (False, 0), (False, 1), (False, 2), (False, 9)])
def test_a_replacing_that_is_killed_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, can_exchange: bool, renamings: int
) -> None:
    """Killed before, between and after the renamings where names cannot be exchanged, or when only the old is to be removed."""
    out = _old(tmp_path / "out")
    if not (child := os.fork()):
        left, replace, remove = renamings, Path.replace, tensor_files._remove
        if not can_exchange:
            folder_swap._exchanged = lambda *_: False  # type: ignore[assignment]

        def counted(path: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return replace(path, target)

        def dies(folder: Path | None) -> None:
            os.kill(os.getpid(), signal.SIGKILL) if folder is not None and (folder / "old").exists() else remove(folder)

        Path.replace, tensor_files._remove = counted, dies  # type: ignore[method-assign, assignment]
        try:
            _replace(out)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    restore_folder(out)
    assert _held(out) == ({"new": "new"} if renamings >= 2 else {"old": "old"})
    _replace(out)
    assert _held(out) == {"new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name, target in (("link", "real"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(ConfigError, match=rf"{name} is a link"):
            _give_up(tmp_path / name, AssertionError("written before it was refused"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "link", "real"]


def test_the_source_and_folders_with_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is the folder that is read"), new_folder(tmp_path, tmp_path):
        pass
    with pytest.raises(ConfigError, match="already holds files"), new_folder(tmp_path, tmp_path / "source"):
        pass
    with pytest.raises(ConfigError, match="already holds files"), new_folder(tmp_path / "file", tmp_path / "source"):
        pass
