"""A trained adapter on disk: a plain PEFT folder, or one with a sidecar where methods are mixed; whole or not there at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from pydantic import Field

from layerlens.adapting.base_record import record_base
from layerlens.adapting.lora import NO_TARGETS
from layerlens.adapting.sidecar import stopping_peft_type, write_sidecar
from layerlens.adapting.site_modules import site_modules
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import ConfigError
from layerlens.models.compressed_checkpoint import CompressedCheckpoint
from layerlens.models.load import TaskModel
from layerlens.words import Frozen

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
#: The adapter's folder in the output of a tuning run.
ADAPTER_FOLDER = "adapter"
#: Keys of the weights' metadata that tell which base the adapter was trained on, and for what.
BASE_HASH, TRAINED_FOR = "base_model_sha256", "layerlens"
#: Characters that `tempfile` puts behind the name of an unfinished folder, as a glob.
_STAGED = "?" * 8


class TrainedFor(Frozen):
    """What an adapter tells of its training, so that it can be loaded and scored where no plan lies beside it."""

    task: TaskInfo = Field(description="the task whose head the base model gets")
    split_seed: int = Field(description="seed that shared out the samples")
    data: str | None = Field(default=None, description="whose samples these were; of older versions unknown")
    keeps_test: bool = Field(default=True, description="whether some of them were kept for the test, none trained on")


def save_adapter(
    folder: Path,
    adapted: PeftModel,
    plan: Plan,
    task_model: TaskModel,
    *,
    data: str | None = None,
    keeps_test: bool = True,
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT does, with equal bytes for equal weights.

    PEFT lists the target modules in the order of a hash, shortens them to suffixes, and names the base by the place
    it was loaded from; here they are the full paths in order, and the base is the id the plan was made for. Bottlenecks and
    prefixes, which PEFT does not know, lie in a sidecar (`sidecar.py`).

    Args:
        folder: What is written, or replaced.
        adapted: The trained model, as PEFT wraps it.
        plan: What it was adapted by.
        task_model: What it was trained over.
        data: What it was trained on, by a name that holds from any folder.
        keeps_test: Whether samples of these data were kept for the test; false where the test had data of its own.

    Raises:
        ConfigError: the folder cannot be written.
    """
    sites, base_model = site_modules(plan), base_model_id(task_model)
    with replaced_folder(folder) as staged:
        # Else PEFT asks the hub whether the vocabulary was resized.
        adapted.save_pretrained(str(staged), save_embedding_layers=False)
        path = staged / CONFIG_FILE
        config = json.loads(path.read_text(encoding="utf-8"))
        config["target_modules"] = sorted(plan.ranks) or NO_TARGETS
        config["modules_to_save"] = list(plan.head) or None
        config["base_model_name_or_path"] = base_model
        record_base(staged, task_model, original_id(task_model))
        if sites:
            config["peft_type"] = stopping_peft_type(sites)
            write_sidecar(staged, task_model.model, plan, base_model)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        weights = staged / WEIGHTS_FILE
        told = TrainedFor(task=plan.task, split_seed=plan.metadata.seed, data=data, keeps_test=keeps_test)
        added = {BASE_HASH: plan.model.hash, TRAINED_FOR: told.model_dump_json()}
        weights.write_bytes(with_metadata(weights.read_bytes(), added))
        # PEFT's card holds nothing but a template and the base's path.
        (staged / "README.md").unlink(missing_ok=True)


def base_model_id(task_model: TaskModel) -> str:
    """Where another process finds the base model: the hub id, or the whole path of a local folder, compressed or not."""
    checkpoint = task_model.checkpoint
    return str(checkpoint.folder.resolve()) if isinstance(checkpoint, CompressedCheckpoint) else original_id(task_model)


def original_id(task_model: TaskModel) -> str:
    """The same, of the model that plans are made for, whatever form the base is held in."""
    model = Path(task_model.checkpoint.id).expanduser()
    return str(model.resolve()) if model.is_dir() else task_model.checkpoint.id


def with_metadata(content: bytes, added: dict[str, str]) -> bytes:
    """A safetensors file with more metadata, in sorted order: the library writes more than one key in the order of a hash."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted({**header.get("__metadata__", {}), **added}.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder beside its place, and move it there when it is whole; an old one is replaced.

    One process at a time fills a folder: what another one has staged for it is taken for a killed one's.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.{_STAGED}"):
            # Of a process that was killed.
            shutil.rmtree(left, ignore_errors=True)
        staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        staged.chmod(0o755)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}; choose another output folder") from error
    try:
        yield staged
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}; choose another output folder") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
