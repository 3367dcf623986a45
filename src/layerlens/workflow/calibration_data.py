"""Whether data are those that a folder was compressed on, and which of their samples nothing has seen.

They are known by what calibration read: the hash of its encoded samples, which `plan.json` holds. So a copy is known under any
name, and a file that was changed is not taken for what it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import CompressionPlan
from layerlens.config import DataConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.data.source_name import is_same_source
from layerlens.errors import ConfigError, DataError
from layerlens.models.checkpoint import Checkpoint
from layerlens.workflow.open import open_data

#: What the run says of how its data were read.
_READING = ("text_columns", "label_column", "split", "seed")
#: What an evaluation may ask to be read otherwise.
_ASKED = ("task", "text_columns", "label_column", "split", "max_length")


class CalibrationData:
    """What a plan tells of the data that its folder was compressed on.

    Args:
        folder: The compressed folder.
        plan: Its plan.
        original: The model, whose tokenizer or image processor encodes samples.
    """

    def __init__(self, folder: Path, plan: CompressionPlan, original: Checkpoint) -> None:
        run = plan.metadata.get("run", {})
        #: None in plans of folders that do not tell.
        self.name: str | None = run.get("data")
        self.config: dict[str, Any] = run.get("config", {})
        self._hash: str | None = plan.metadata.get("data", {}).get("hash") if "num_samples" in self.config else None
        self._folder, self._plan, self._original = folder, plan, original
        #: The calibration's data, once `is_same` has read them.
        self._loaded: LoadedData | None = None

    def is_named(self, data: str) -> bool:
        """Whether a name is that of the data, by whatever path."""
        return self.name is not None and is_same_source(self.name, data)

    def is_same(self, data: str) -> bool:
        """Whether data are the calibration's, by whatever name.

        Raises:
            ConfigError: they are by their name, and do not hold any more what calibration read.
            DataError: they are by their name, and cannot be read.
        """
        is_named = self.is_named(data)
        if self._hash is None:
            return is_named
        try:
            loaded = self._read(data)
            has_samples = self._hash_of(loaded) == self._hash
        except DataError:
            if is_named:
                raise
            return False
        if has_samples:
            self._loaded = loaded
        elif is_named:
            raise ConfigError(
                f"{data} has changed since {self._folder} was compressed on it, so which of its samples calibration saw is not "
                "known; give it as it was, or other data"
            )
        return has_samples

    def is_kind(self, data: str) -> bool:
        """Whether a text is the calibration's, be it changed since."""
        return self.is_named(data) or self.is_same(data)

    def as_asked(self, config: DataConfig) -> LoadedData | None:
        """The data that `is_same` has read, where a config asks for no other reading; None where they must be read anew."""
        read = {**self.config, "task": self._plan.task.kind, "max_length": self._plan.task.max_length}
        asked = {name: getattr(config, name) for name in _ASKED}
        is_other = any(value is not None and value != read.get(name) for name, value in asked.items())
        return None if is_other else self._loaded

    def unseen(self, data: LoadedData) -> tuple[int, ...]:
        """Samples that neither calibration nor the race saw."""
        return self._part(data).test

    def _part(self, data: LoadedData) -> Partition:
        """Who got which samples, were these the run's data."""
        return partition(len(data.examples), data.splits, seed=self.config.get("seed", 0), has_eval_data=False)

    def _read(self, data: str) -> LoadedData:
        """The data, read as the run read its own."""
        reading = {name: self.config[name] for name in _READING if name in self.config}
        return open_data(self._original, data, DataConfig(**reading), self._plan.task)

    def _hash_of(self, data: LoadedData) -> str:
        """Hash of the samples that would calibrate, were these the run's data."""
        return data.hash(self._part(data).train[: self.config["num_samples"]])
