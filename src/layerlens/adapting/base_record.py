"""`base.json` in an adapter's folder: the base that it was trained over, where that is not the model in its own numbers.

PEFT passes the file over. Over any other base of the same model an adapter works too, but gives other logits.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from layerlens.artifacts.store import read_json, write_json
from layerlens.config import BaseFormat
from layerlens.errors import ManifestError
from layerlens.models.compressed_checkpoint import CompressedCheckpoint
from layerlens.models.load import TaskModel
from layerlens.words import SCHEMA_VERSION, Frozen

BASE_FILE = "base.json"


class BaseRecord(Frozen):
    """The content of `base.json`."""

    schema_version: int = SCHEMA_VERSION
    model: str = Field(description="folder or hub id of the original model")
    hash: str = Field(description="hash of the original model")
    base_format: BaseFormat = Field(description="how a library holds the planned layers of the original")
    compressed_folder: str | None = Field(default=None, description="folder of `layerlens compress` that stands for the original")
    compressed_hash: str | None = Field(default=None, description="hash of what is in that folder")
    loading: str = Field(description="what to call for the logits that were trained")


def record_base(folder: Path, task_model: TaskModel, model: str) -> None:
    """Write `base.json` beside an adapter, or nothing where its base is the model in its own numbers.

    Args:
        folder: The adapter's folder.
        task_model: What it was trained over.
        model: Folder or hub id of the original model.
    """
    if not task_model.is_quantised:
        return
    checkpoint = task_model.checkpoint
    stored = checkpoint if isinstance(checkpoint, CompressedCheckpoint) else None
    write_json(
        folder / BASE_FILE,
        BaseRecord(
            model=model,
            hash=checkpoint.hash(),
            base_format=task_model.base_format,
            compressed_folder=None if stored is None else str(stored.folder.resolve()),
            compressed_hash=None if stored is None else stored.stored_hash(),
            loading="layerlens.load_adapted(folder)",
        ),
    )


def read_base(folder: Path) -> BaseRecord | None:
    """Read what an adapter was trained over; none where that is the model in its own numbers.

    Raises:
        ManifestError: the file is damaged or of another version.
    """
    path = folder / BASE_FILE
    if not path.is_file():
        return None
    record = read_json(path, BaseRecord)
    if record.schema_version != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {record.schema_version}, this LayerLens reads {SCHEMA_VERSION}; tune again"
        )
    return record


def check_stored(record: BaseRecord, checkpoint: CompressedCheckpoint) -> None:
    """See that a compressed folder still holds what the adapter was trained over.

    Raises:
        ManifestError: it was compressed anew since.
    """
    if record.compressed_hash is not None and (found := checkpoint.stored_hash()) != record.compressed_hash:
        raise ManifestError(
            f"the adapter was trained over {record.compressed_folder} with hash {record.compressed_hash[:12]}, which now has "
            f"{found[:12]}; tune again, or name the base to use"
        )


def other_form(record: BaseRecord | None, task_model: TaskModel) -> str | None:
    """What tells a base from the one that an adapter was trained over, where both are the same model in different forms.

    Args:
        record: Of the adapter; none where it was trained over the model in its own numbers.
        task_model: What it is put on.
    """
    checkpoint = task_model.checkpoint
    stored = checkpoint if isinstance(checkpoint, CompressedCheckpoint) else None
    trained = (BaseFormat.AS_IS, None) if record is None else (record.base_format, record.compressed_hash)
    found = (task_model.base_format, None if stored is None else stored.stored_hash())
    if found == trained:
        return None
    return f"trained over {_form(*trained)} and put on {_form(*found)}"


def _form(base_format: BaseFormat, compressed_hash: str | None) -> str:
    if compressed_hash is not None:
        return f"a compressed folder with hash {compressed_hash[:12]}"
    return "the model in its own numbers" if base_format is BaseFormat.AS_IS else f"the model in {base_format}"
