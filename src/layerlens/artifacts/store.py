"""Atomic writes, typed reads and hashes of artifacts.

A file appears under its name only when it is whole: it is written beside its place and renamed. A folder
that belongs to a run carries `run.json` (command and config); another run's files are never overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from layerlens.artifacts.differences import told
from layerlens.errors import ConfigError, ManifestError

ModelT = TypeVar("ModelT", bound=BaseModel)

RUN_FILE = "run.json"

#: Characters that `tempfile` puts behind the name of an unfinished file, as a glob.
_UNFINISHED = "?" * 8
#: Letters of a value that a fault shows.
_LONGEST_VALUE = 120


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the new one, never half of one.

    Raises:
        ConfigError: the folder cannot be written to or the disk is full.
    """
    _put(path, content, os.replace)


def _put(path: Path, content: bytes, publish: Callable[[str, Path], None]) -> None:
    """Write a file beside its place, and give it its name by `publish`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            publish(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another output path") from error


def write_json(path: Path, content: BaseModel | Mapping[str, Any]) -> None:
    """Write a model or mapping as indented JSON, atomically, with the same bytes for the same content."""
    write_bytes(path, _json_bytes(content))


def _json_bytes(content: BaseModel | Mapping[str, Any]) -> bytes:
    data = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    return (json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path, model: type[ModelT]) -> ModelT:
    """Read an artifact and check it against its schema.

    Raises:
        ManifestError: the file is missing, is not JSON or does not fit; every fault is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ManifestError(f"cannot read {path}: {reason}") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError.of([f"{path}: {fault}" for fault in faults_of(error)]) from error


def faults_of(error: ValidationError) -> list[str]:
    """One line per fault of a pydantic error: where, what, what was given."""
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(part) for part in fault["loc"]) or "(root)"
        given = fault.get("input")
        text = repr(given)
        text = text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
        shown = "" if isinstance(given, dict | list) or fault["type"] == "missing" else f" (got {text})"
        lines.append(f"{where}: {fault['msg'][:1].lower()}{fault['msg'][1:]}{shown}")
    return lines


def plain_faults(error: ValidationError) -> list[str]:
    """The same in the words of somebody who gave the options and knows nothing of pydantic."""
    return [fault.removeprefix("(root): ").replace("value error, ", "") for fault in faults_of(error)]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as safetensors, in sorted order, atomically."""
    from safetensors.numpy import save

    write_bytes(path, save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of a safetensors file.

    Raises:
        ManifestError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ManifestError(f"cannot read {path}: {error}; run `layerlens profile` again") from error


def sha256_of_json(content: Mapping[str, Any]) -> str:
    """Hash a JSON-able mapping by its canonical text."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash a file's content without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim_folder(folder: Path, run: Mapping[str, Any], files: Sequence[str] = ()) -> bool:
    """Make `folder` this run's own, or recognise that it already is.

    What a killed process left half-written of `run.json` and `files` is nobody's: it stops no claim, and is deleted.

    Args:
        folder: The output folder of a run.
        run: What identifies the run (command, inputs, config); written to `run.json`.
        files: Names of files that the run writes there with `write_bytes`.

    Returns:
        True when the folder already belongs to the same run, so the run may resume there.

    Raises:
        ConfigError: the folder holds another run's files, or files that no run claimed; or it may not be looked into.
    """
    try:
        return _claimed(folder, json.loads(json.dumps(run, default=str)), files)
    except OSError as error:
        raise ConfigError(f"cannot look into {folder}: {error.strerror or error}; choose another output folder") from error


def _claimed(folder: Path, identity: dict[str, Any], files: Sequence[str]) -> bool:
    marker = folder / RUN_FILE
    if marker.exists():
        found = read_claim(folder)
        if found == identity:
            _remove(_unfinished(folder, files))
            return True
        shown = told(found, identity) if found else ""
        raise ConfigError(
            f"{folder} holds another run's files ({shown or 'damaged run.json'}); choose another output folder or remove it"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; choose another output folder")
    unfinished = _unfinished(folder, files)
    if folder.exists() and any(path not in unfinished for path in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and belongs to no run of this command; choose another output folder")
    try:
        _put(marker, _json_bytes(identity), _link)
    except _ClaimedError:
        return _claimed(folder, identity, files)
    _remove(unfinished)
    return False


class _ClaimedError(Exception):
    """Another process has claimed the folder in this very moment, for the same run or another."""


def _link(temporary: str, path: Path) -> None:
    """Give a file its name unless another has it."""
    try:
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError) as error:
        # Who was faster may have taken this half for one that a killed process left, and deleted it.
        raise _ClaimedError from error
    except OSError:
        # Some file systems know no second names.
        Path(temporary).replace(path)


def _unfinished(folder: Path, files: Sequence[str]) -> list[Path]:
    """What `write_bytes` left of these files and `run.json` when its process was killed."""
    return [path for name in (RUN_FILE, *files) for path in folder.glob(f".{name}.{_UNFINISHED}") if path.is_file()]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def read_claim(folder: Path) -> dict[str, Any] | None:
    """What `run.json` says of the run that has claimed a folder; None where there is none, or it cannot be read."""
    try:
        found = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def working_alone(folder: Path) -> Iterator[None]:
    """Work in a claimed folder as the only process that does; the system lets go of it with the process, however that ends.

    Args:
        folder: One that `claim_folder` gave this run.

    Raises:
        ConfigError: another process works there.
    """
    # The folder itself: another file may come in place of any in it, and whoever locks that one is not kept out.
    taken = ConfigError(f"another process is working in {folder}; wait for it, or choose another output folder")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:
        # It worked under the same claim, and has failed and given the folder up since this one looked.
        raise taken from error
    try:
        if not (_is_locked(descriptor) and _is_claimed(descriptor, folder)):
            raise taken
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Lock an opened folder; False where another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some file systems know no locks; there two runs of one command are the user's to keep apart.
        pass
    return True


def _is_claimed(descriptor: int, folder: Path) -> bool:
    """Whether an opened folder still stands and has its claim: who worked there may have given it up since."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat()) and (folder / RUN_FILE).exists()
    except FileNotFoundError:
        return False


def release_folder(folder: Path) -> None:
    """Give up a claim after a failure: remove `run.json`, and the folder when nothing else is in it."""
    (folder / RUN_FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
