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
            has_samples = self._hash_in(data) == self._hash
        except DataError:
            if is_named:
                raise
            return False
        if is_named and not has_samples:
            raise ConfigError(
                f"{data} has changed since {self._folder} was compressed on it, so which of its samples calibration saw is not "
                "known; give it as it was, or other data"
            )
        return has_samples

    def is_kind(self, data: str) -> bool:
        """Whether a text is the calibration's, be it changed since."""
        return self.is_named(data) or self.is_same(data)

    def unseen(self, data: LoadedData) -> tuple[int, ...]:
        """Samples that neither calibration nor the race saw."""
        return self._part(data).test

    def _part(self, data: LoadedData) -> Partition:
        """Who got which samples, were these the run's data."""
        return partition(len(data.examples), data.splits, seed=self.config.get("seed", 0), has_eval_data=False)

    def _hash_in(self, data: str) -> str:
        """Hash of the samples that would calibrate, were the data read as the run read its own."""
        task = self._plan.task
        reading = {name: self.config[name] for name in _READING if name in self.config}
        loaded = open_data(self._original, data, DataConfig(task=task.kind, max_length=task.max_length, **reading))
        return loaded.hash(self._part(loaded).train[: self.config["num_samples"]])
