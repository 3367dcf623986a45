"""What a streamed profile has done so far, on disk: how many steps, and what each left. Every step can be done again.

journal.json          settings that fix the numbers, and how many steps are done
NAME.json             results of a step that are read and compared by people
NAME.safetensors      results of a step that are arrays
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.artifacts.store import read_arrays, write_arrays, write_json

JOURNAL_FILE = "journal.json"


class Journal:
    """The journal of one run.

    Args:
        folder: Where it lies; made if it is not there.
        settings: What the numbers depend on beside the run's own config. A journal with other settings is begun anew.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps(dict(settings)))
        found = self._found()
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
        self.num_done = 0 if found is None else found
        self._write()

    def is_done(self, step: int) -> bool:
        """Whether step number `step`, counted from 0, was finished."""
        return step < self.num_done

    def finish(self, step: int) -> None:
        """Say that a step is done; what it left must be written before."""
        self.num_done = step + 1
        self._write()

    def go_back(self, num_done: int) -> None:
        """Count no more than the first `num_done` steps as done."""
        self.num_done = min(self.num_done, num_done)
        self._write()

    def save(self, name: str, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what a step left."""
        write_arrays(self.folder / f"{name}.safetensors", arrays)
        write_json(self.folder / f"{name}.json", values)

    def load(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a step left."""
        values: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        return values, read_arrays(self.folder / f"{name}.safetensors")

    def remove(self) -> None:
        """Delete it with all it keeps."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> int | None:
        """Steps done of a journal with the same settings; None where there is none."""
        try:
            content = json.loads((self.folder / JOURNAL_FILE).read_text(encoding="utf-8"))
            return int(content["num_done"]) if content["settings"] == self._settings else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self) -> None:
        write_json(self.folder / JOURNAL_FILE, {"num_done": self.num_done, "settings": self._settings})
