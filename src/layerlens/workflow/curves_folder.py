"""`OUT.curves`: what compressing measures once for a model and its data, and what is left there after a failure.

curves.json   every matrix's options, their prices, their probes      whole: planned from, by every size
factors/      what the options hold
work/         hidden states, journal of finished steps                 until curves.json is there: a stopped run goes on
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import CURVES_FILE, CURVES_SUFFIX, FACTORS_FOLDER, Curves, load_curves, save_curves
from layerlens.artifacts.store import claim_folder, read_claim, release_folder, working_alone
from layerlens.compressing.option_grid import OptionGrid
from layerlens.config import CompressConfig, path_beside
from layerlens.data.source_name import is_same_source, whole_name
from layerlens.errors import CheckpointError, ConfigError, DataError, LayerLensError, NotFiniteError, UnsupportedModelError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.headers import num_floats, tensor_bytes
from layerlens.models.sentence_modules import tensors_behind
from layerlens.streaming.journal import JOURNAL_FILE

#: Hidden states and journals of a run that is not done, and the jobs of its processes.
WORK_FOLDER, JOBS_FOLDER = "work", "jobs"
#: What fixes the curves; the target and the policies do not.
MEASURING = {
    *("task", "text_columns", "label_column", "split", "max_length", "seed"),
    *("num_samples", "held_out_samples", "batch_size", "probes"),
}
#: Faults that the same command meets again, as long as its input is what it is.
_OF_INPUT = (CheckpointError, DataError, UnsupportedModelError)


class CurvesFolder:
    """The folder of one run's curves.

    Args:
        out: The folder that is to be written; this one lies beside it.
        checkpoint: The model.
        data: Name of the data.
        config: How curves are measured.
        grid: Which options they hold.
    """

    def __init__(self, out: Path, checkpoint: Checkpoint, data: str, config: CompressConfig, grid: OptionGrid) -> None:
        self.path = path_beside(out, CURVES_SUFFIX)
        self.work = self.path / WORK_FOLDER
        #: Whether calibration is over, so that what fails now is no fault of the model or its data.
        self.is_calibrated = False
        self._checkpoint, self._data, self._config, self._grid = checkpoint, data, config, grid
        self._is_held = self._was_kept = False
        self._held = ExitStack()

    def kept(self) -> Curves | None:
        """Curves of an earlier run with the same model, data and measuring; None where there are none.

        Raises:
            ConfigError: the folder is another run's, or a sentence encoder's later modules are not those that it counted.
            ManifestError: the curves are damaged.
        """
        if not (self.path / CURVES_FILE).exists():
            return None
        self.claim()
        self._was_kept = True
        return self._counted(load_curves(self.path))

    def _counted(self, curves: Curves) -> Curves:
        """Curves with the bytes of a sentence encoder's later modules, which versions before they were counted left out."""
        model, behind = curves.model, tensors_behind(self._checkpoint.folder)
        more = tensor_bytes(self._checkpoint.tensors) + tensor_bytes(behind) - model.size_bytes
        if not more:
            return curves
        if more != tensor_bytes(behind):
            raise ConfigError(
                f"the modules behind the transformer of {self._checkpoint.id} have changed since {self.path} was measured; "
                "remove that folder or choose another one"
            )
        counted = {
            "num_parameters": model.num_parameters + num_floats(behind),
            "size_bytes": model.size_bytes + more,
            "other_bytes": model.other_bytes + more,
        }
        return curves.model_copy(update={"model": model.model_copy(update=counted)})

    def claim(self) -> None:
        """Make the folder this run's own.

        Raises:
            ConfigError: it is another run's.
        """
        claim_folder(self.path, self._identity())

    def hold(self) -> None:
        """Keep other processes from working in the claimed folder until `let_go`.

        Raises:
            ConfigError: one does.
        """
        self._held.enter_context(working_alone(self.path))
        self._is_held = True

    def let_go(self) -> None:
        """Let other processes work in the folder."""
        self._held.close()
        self._is_held = False

    def save(self, curves: Curves) -> None:
        """Keep curves, or more that is known of them."""
        save_curves(self.path, curves)

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        self._remove_halves()
        shutil.rmtree(self.work, ignore_errors=True)

    def after_failure(self, error: LayerLensError) -> LayerLensError:
        """Leave what the same command can go on with, and nothing else.

        Bad input, and a failure before the first step is done, leave nothing. Half-written files never stay.

        Returns:
            The error, with what is kept and how to go on where there is a way.
        """
        if not self._is_held:
            return error
        if (self.path / CURVES_FILE).exists():
            self.finish()
            return error if self._was_kept else _told(error, f"the curves are kept in {self.path}, for this or another size")
        # A disk or network that fails for a moment is no fault of the input: hours of measuring outlive it.
        is_passing = isinstance(error.__cause__, OSError)
        is_of_input = isinstance(error, _OF_INPUT) or (isinstance(error, NotFiniteError) and not self.is_calibrated)
        if (is_of_input and not is_passing) or _steps_done(self.work) == 0:
            shutil.rmtree(self.work, ignore_errors=True)
            shutil.rmtree(self.path / FACTORS_FOLDER, ignore_errors=True)
            release_folder(self.path)
            return error
        self._remove_halves()
        return _told(error, f"what was measured is kept in {self.path}, and the same command goes on from there")

    def _remove_halves(self) -> None:
        """Remove files that somebody broke off writing."""
        for half in [*(self.path / FACTORS_FOLDER).glob(".*"), *self.work.glob(".*")]:
            half.unlink(missing_ok=True)
        shutil.rmtree(self.work / JOBS_FOLDER, ignore_errors=True)

    def _data_name(self) -> str:
        """The data as the folder's claim names them, where it is of the same ones: older releases kept what was typed."""
        claimed = (read_claim(self.path) or {}).get("data")
        return claimed if isinstance(claimed, str) and is_same_source(claimed, self._data) else whole_name(self._data)

    def _identity(self) -> dict[str, Any]:
        options = json.loads(json.dumps(asdict(self._grid)))
        # A rank that a policy asks for and the curves lack is refused by name.
        del options["extra_ranks"]
        return {
            "command": "compress",
            "model_hash": self._checkpoint.hash(),
            "data": self._data_name(),
            "config": self._config.model_dump(mode="json", include=MEASURING),
            "options": options,
        }


def _steps_done(work: Path) -> int:
    """Steps of calibration that the journal has as finished."""
    try:
        return int(json.loads((work / JOURNAL_FILE).read_text(encoding="utf-8"))["num_done"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _told(error: LayerLensError, more: str) -> LayerLensError:
    return type(error)(f"{error}; {more}")
