"""Writing a folder of safetensors in pieces that come in any order, none of which is held for long.

Names, shapes and types are known before the first value is, so every tensor's place in its file is too: headers are written
first, then each tensor where it belongs. Format: safetensors, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from layerlens.compressing.folder_swap import put_back, swap
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import INDEX_FILE, WEIGHTS_FILE
from layerlens.models.headers import ELEMENT_BYTES, LENGTH_BYTES
from layerlens.models.streamed.tensor_reader import TORCH_DTYPES, as_bytes

#: Largest file; a folder of more bytes is cut into shards.
SHARD_BYTES = 4 << 30
#: Headers are padded so that values start at a multiple of this.
_ALIGNMENT = 8
#: What the name of a folder that is being written goes on with; one that a killed run left is removed by the next one.
_UNFINISHED = ".unfinished-"
#: What the name of a folder that is being replaced goes on with, where that takes more than one step.
_REPLACED = f"{_UNFINISHED}old"
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class TensorShape:
    """What a file says of a tensor: `dtype` by the format's own name."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * ELEMENT_BYTES[self.dtype]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorShape:
        """Of a tensor in memory."""
        return cls(NAMES[tensor.dtype], tuple(tensor.shape))


class TensorFiles:
    """The weight files of a folder.

    Args:
        folder: Where they are written.
        tensors: All tensors; they lie in this order.
        shard_bytes: Largest file, unless a single tensor is larger.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, TensorShape], shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._tensors = folder, tensors
        self._places: dict[str, tuple[int, int]] = {}
        self._descriptors: list[int] = []
        self._missing = set(tensors)
        shards = _shards(tensors, shard_bytes)
        names = [WEIGHTS_FILE] if len(shards) == 1 else _shard_names(len(shards))
        for file, shard in zip(names, shards, strict=True):
            self._open(file, shard)
        self.num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
        if len(shards) > 1:
            index = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
            content = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(index.items()))}
            (folder / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def write(self, name: str, values: memoryview, start_byte: int = 0) -> None:
        """Write a tensor, or a part of it from a byte on."""
        descriptor, place = self._places[name]
        offset, done = place + start_byte, 0
        while done < len(values):
            done += os.pwrite(descriptor, values[done:], offset + done)
        self._missing.discard(name)

    def write_tensor(self, name: str, tensor: Tensor) -> None:
        """Write a whole tensor from memory."""
        self.write(name, as_bytes(tensor))

    @property
    def missing(self) -> list[str]:
        """Tensors of which nothing was written yet."""
        return sorted(self._missing)

    def close(self) -> None:
        """See that everything is on disk, and close the files."""
        for descriptor in self._descriptors:
            os.fsync(descriptor)
            os.close(descriptor)
        self._descriptors = []

    def abandon(self) -> None:
        """Close the files as they are."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _open(self, file: str, names: list[str]) -> None:
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            tensor = self._tensors[name]
            entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.num_bytes]}
            end += tensor.num_bytes
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        descriptor = os.open(self._folder / file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._descriptors.append(descriptor)
        start = LENGTH_BYTES + len(header)
        os.pwrite(descriptor, len(header).to_bytes(LENGTH_BYTES, "little") + header, 0)
        os.ftruncate(descriptor, start + end)
        place = start
        for name in names:
            self._places[name] = (descriptor, place)
            place += self._tensors[name].num_bytes


def check_new_folder(out: Path) -> None:
    """See that a folder can be put in its place by one renaming, before anything is spent on what it shall hold.

    Raises:
        ConfigError: it is a link, the current folder, one above it, or where a disk is mounted.
    """
    if out.is_symlink():
        raise ConfigError(f"{out} is a link, and a folder cannot take its place; give the folder that it leads to")
    place = out.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise ConfigError(f"{out} is the current folder or one above it, and would be replaced; choose a folder below it")
    if place.is_mount():
        raise ConfigError(f"{out} is where a disk is mounted, and cannot be replaced; choose a folder below it")


def restore_folder(out: Path) -> None:
    """Put a folder back whose replacing was killed between two steps; its place is empty then.

    Raises:
        ConfigError: it cannot be renamed.
    """
    try:
        put_back(out, _aside(out))
    except OSError as error:
        raise ConfigError(f"cannot put {_aside(out)} back to {out}: {error.strerror or error}; rename it") from error


@contextmanager
def new_folder(out: Path, source: Path, may_replace: Callable[[], None] | None = None) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the context ends without an error, and vanishes otherwise.

    Args:
        out: Must not exist, or be empty, or hold what may be replaced: the old folder goes when the new one is whole.
        source: Folder that is read meanwhile; must be another one.
        may_replace: Raises where something in `out` would be lost; asked before anything is written, and again at the end.

    Raises:
        ConfigError: `out` is `source`, holds files that may not be replaced, or cannot be written, as when the disk is full.
    """
    _check_apart(out, source)
    restore_folder(out)
    _check_free(out, may_replace)
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}{_UNFINISHED}*"):
            _remove(left)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}{_UNFINISHED}"))
        yield temporary
        temporary.chmod(0o755)
        _sync(temporary)
        _check_free(out, may_replace)
        if _is_free(out):
            temporary.replace(out)
            _sync(out.parent)
        else:
            swap(temporary, out, _aside(out))
            _sync(out.parent)
            _remove(temporary)
    except OSError as error:
        _remove(temporary)
        raise ConfigError(f"cannot write {out}: {error.strerror or error}; make room or choose another output folder") from error
    except BaseException:
        _remove(temporary)
        raise


def check_output(out: Path, source: Path) -> None:
    """See that `new_folder` could write there, and touch nothing.

    Raises:
        ConfigError: `out` is `source`, a link, a folder that others need, or holds files.
    """
    _check_apart(out, source)
    _check_free(out, None)


def _check_apart(out: Path, source: Path) -> None:
    check_new_folder(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the folder that is read; choose another output folder")


def _check_free(out: Path, may_replace: Callable[[], None] | None) -> None:
    if _is_free(out):
        return
    if may_replace is None or not out.is_dir():
        raise ConfigError(f"{out} already holds files; choose another output folder or remove it")
    may_replace()


def _is_free(out: Path) -> bool:
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}{_REPLACED}")


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shards(tensors: Mapping[str, TensorShape], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.num_bytes
    return shards


def _shard_names(count: int) -> list[str]:
    stem, suffix = WEIGHTS_FILE.rsplit(".", 1)
    return [f"{stem}-{number:05}-of-{count:05}.{suffix}" for number in range(1, count + 1)]
