"""The curves of a model that stays on disk: one calibration pass, and every matrix solved while its block is at hand.

    forward   blocks 0 … L−1                                        hidden states to disk
    loss      head, labels drawn from the model, first gradient     matrices after the blocks
    backward  blocks L−1 … 0: recompute, moments, options           factors to OUT.curves/factors, curves to the journal
    table     the word embedding

Each finished step is noted in the journal, so a run that was stopped goes on where it was, to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from layerlens.artifacts.compression import CompressedModelInfo, Curves, MatrixCurve
from layerlens.artifacts.versions import installed_versions
from layerlens.compressing.calibration_pass import CalibrationPass, HeadMoments
from layerlens.compressing.calibration_samples import CalibrationSamples
from layerlens.compressing.calibration_settings import CalibrationSettings, Demand, choose_settings, settings_begun_with
from layerlens.compressing.factor_cache import read_tensors, write_tensors
from layerlens.compressing.matrices import Matrix, Place, checkpoint_size, matrices_of, read_matrix
from layerlens.compressing.matrix_jobs import MatrixJobs
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.sensitivity import (
    Sensitivity,
    idle_sensitivity,
    layer_sensitivity,
    output_sensitivity,
    sensitivity_of,
    sensitivity_tensors,
    table_sensitivity,
    tied_sensitivity,
)
from layerlens.data.dataset import LoadedData
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.streaming.activation_store import STATES_FILE, ActivationStore, is_store_whole
from layerlens.streaming.journal import JOURNAL_FILE, Journal
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.streaming.slots import Slots

_LABELS = "true"


@dataclass(frozen=True)
class MeasureOptions:
    """How curves are measured.

    Attributes:
        grid: Options that every matrix is given.
        batch_size: Samples of a batch.
        seed: Of drawn labels and sketches.
        max_memory: Cap on the process's memory, bytes; None for none.
        max_store: Cap on the hidden states on disk, bytes.
        processes: Processes that solve matrices.
        engine: `local`, or `ray`.
        threads: Threads of torch; None for its own choice. Results depend on it in their last bits.
    """

    grid: OptionGrid = field(default_factory=OptionGrid)
    batch_size: int = 8
    seed: int = 0
    max_memory: int | None = None
    max_store: int = 1 << 40
    processes: int = 1
    engine: str = "local"
    threads: int | None = None


def measure_curves(
    model: StreamedModel,
    data: LoadedData,
    samples: Sequence[int],
    options: MeasureOptions,
    *,
    folder: Path,
    work: Path,
    progress: Progress | None = None,
) -> Curves:
    """Measure every matrix's options on calibration samples; probes and anchors are still to come.

    Args:
        model: Opened by `load_streamed_model`.
        data: Encoded samples and their task.
        samples: Which samples to calibrate on, by their position in the data.
        options: How.
        folder: `OUT.curves`; what the options hold goes to its `factors`.
        work: Folder for hidden states and the journal; the caller removes it once the curves are saved.
        progress: Who watches.

    Returns:
        Curves in the model's order of matrices, the same bytes on each run and for any number of processes.

    Raises:
        ConfigError: the disk is full, the memory cap was passed, or Ray is asked for and not installed.
        DataError: fewer than two samples.
        NotFiniteError: a loss, an output or a gradient is NaN or infinite.
        UnsupportedModelError: the model cannot be streamed or compressed.
    """
    with threads(options.threads):
        return _Run(model, data, samples, options, folder, work, progress or SILENT).measure()


def versions_of_figures() -> dict[str, str]:
    """Versions of what the measured figures depend on."""
    return {name: version for name, version in installed_versions("torch", "transformers").items() if name != "python"}


class _Run:
    def __init__(
        self,
        model: StreamedModel,
        data: LoadedData,
        samples: Sequence[int],
        options: MeasureOptions,
        folder: Path,
        work: Path,
        progress: Progress,
    ) -> None:
        self.model, self.data, self.options = model, data, options
        self.folder, self.work, self.progress = folder, work, progress
        self.matrices = matrices_of(model)
        self.calibration = CalibrationSamples(model, data, samples, batch_size=options.batch_size, seed=options.seed)
        demand = Demand.of(model, self.calibration, self.matrices, options.grid)
        self.guard = MemoryGuard(options.max_memory)
        self.data_hash = data.hash(self.calibration.positions)
        self.settings = self._settings(demand)
        self.slots = Slots(len(model.layout.blocks), self.settings.num_slots, [_LABELS])
        self.parts = self.calibration.in_parts(self.settings.tokens_at_once)

    def measure(self) -> Curves:
        journal = Journal(self.work, self._identity(self.settings))
        steps = list(self._steps())
        if journal.num_done < len(steps):
            if journal.num_done and not is_store_whole(self.work / STATES_FILE, self.parts.shapes, self.settings.num_slots):
                # Somebody made room: the steps to come have nothing to start from.
                journal.remove()
                journal = Journal(self.work, self._identity(self.settings))
            self._run(journal, steps)
        return self._curves(journal)

    def _settings(self, demand: Demand) -> CalibrationSettings:
        caps: dict[str, Any] = {"max_memory": self.options.max_memory, "max_store": self.options.max_store}
        try:
            begun = json.loads((self.work / JOURNAL_FILE).read_text(encoding="utf-8"))["settings"]
            settings = settings_begun_with(begun, demand, **caps)
        except (OSError, ValueError, KeyError, TypeError):
            settings = None
        if settings is not None and json.loads(json.dumps(self._identity(settings))) == begun:
            return settings
        return choose_settings(demand, **caps)

    def _identity(self, settings: CalibrationSettings) -> dict[str, Any]:
        return {
            **settings.identity(),
            "grid": asdict(self.options.grid),
            "batch_size": self.options.batch_size,
            "seed": self.options.seed,
            "data": self.data_hash,
            **self.data.task.loss_identity,
            "model": self.model.checkpoint.hash(),
            # Steps of two releases do not go together: a run that was stopped under another one begins anew.
            "versions": versions_of_figures(),
        }

    def _steps(self) -> Iterator[tuple[str, int, int]]:
        """What is done, one after the other: kind, group of boundaries, block."""
        for block in range(len(self.model.layout.blocks)):
            yield "forward", 0, block
        yield "loss", 0, 0
        for group in reversed(range(len(self.slots.groups))):
            members = self.slots.groups[group]
            for block in members[:-1]:
                yield "again", group, block
            for block in reversed(members):
                yield "backward", group, block
        yield "table", 0, 0

    def _run(self, journal: Journal, steps: list[tuple[str, int, int]]) -> None:
        options = self.options
        parts, num_slots = self.parts, self.settings.num_slots
        jobs = MatrixJobs(self.folder, self.work, options.grid, processes=options.processes, engine=options.engine)
        with jobs, ActivationStore(self.work / STATES_FILE, parts.shapes, num_slots) as store:
            passing = CalibrationPass(
                self.model,
                self.calibration,
                parts,
                store,
                holds_weights=self.settings.holds_weights,
                loss_tokens=self.settings.loss_tokens,
                after_part=self.guard.check,
            )
            for position, (kind, group, block) in enumerate(
                self.progress.track(steps, "calibration, block by block", total=len(steps))
            ):
                if journal.is_done(position):
                    continue
                match kind:
                    case "forward":
                        passing.forward(block, self.slots.upward(block), _slot(self.slots.upward(block + 1)))
                    case "again":
                        inside = self.slots.inside
                        passing.forward(block, inside(group, block), _slot(inside(group, block + 1)))
                    case "loss":
                        self._loss(journal, passing, jobs)
                    case "backward":
                        self._backward(journal, passing, jobs, group, block)
                    case _:
                        self._table(journal, passing, jobs)
                journal.finish(position)
                self.guard.check()
                self.guard.trim()
            store.remove()

    def _loss(self, journal: Journal, passing: CalibrationPass, jobs: MatrixJobs) -> None:
        last = len(self.model.layout.blocks)
        heads = [matrix for matrix in self.matrices if matrix.place in (Place.HEAD, Place.TIED)]
        found = passing.loss(_slot(self.slots.upward(last)), self.slots.gradient(last, _LABELS), heads)
        for matrix in heads:
            sensitivity = self._head(found, matrix)
            if matrix.place is Place.TIED:
                # Its other half is known once the backward pass has reached the table.
                write_tensors(self._output_file(matrix), sensitivity_tensors(sensitivity))
            else:
                jobs.add(matrix, self._weight(matrix), sensitivity, matrix.layer)
        self._save(journal, "loss", jobs.finish(), {"num_predictions": found.num_predictions})

    def _head(self, found: HeadMoments, matrix: Matrix) -> Sensitivity:
        if matrix.layer in found.outputs:
            return output_sensitivity(found.outputs[matrix.layer])
        if matrix.layer not in found.layers:
            return idle_sensitivity(matrix.out_features, matrix.in_features)
        moments = found.layers[matrix.layer]
        return layer_sensitivity(moments, moments.inputs.held.root(1.0), found.num_predictions)

    def _backward(self, journal: Journal, passing: CalibrationPass, jobs: MatrixJobs, group: int, block: int) -> None:
        """Solve one block's layers; the gradient by its input goes to the store."""
        number = self.model.layout.blocks[block].block
        mine = [matrix for matrix in self.matrices if matrix.block == number]
        num_predictions = float(journal.load("loss")[0]["num_predictions"])
        has_table = any(matrix.place in (Place.TABLE, Place.TIED) for matrix in self.matrices)
        sweeps = self.settings.sweeps(mine)
        for position, sweep in enumerate(sweeps):
            is_wanted = position == len(sweeps) - 1 and (block > 0 or has_table)
            moments = passing.backward(
                block,
                self.slots.inside(group, block),
                self.slots.gradient(block + 1, _LABELS),
                self.slots.gradient(block, _LABELS) if is_wanted else None,
                [matrix.layer for matrix in sweep],
            )
            leaders: dict[int, str] = {}
            roots: dict[int, Tensor] = {}
            for matrix in sweep:
                found = moments.pop(matrix.layer, None)
                if found is None:
                    idle = idle_sensitivity(matrix.out_features, matrix.in_features)
                    jobs.add(matrix, self._weight(matrix), idle, matrix.input_group)
                    continue
                shared = id(found.inputs)
                if shared not in roots:
                    leaders[shared], roots[shared] = matrix.layer, found.inputs.held.root(1.0)
                sensitivity = layer_sensitivity(found, roots[shared], num_predictions)
                del found
                jobs.add(matrix, self._weight(matrix), sensitivity, leaders[shared])
                self.guard.check()
                self.guard.trim()
        self._save(journal, f"block-{block}", jobs.finish(), {})

    def _table(self, journal: Journal, passing: CalibrationPass, jobs: MatrixJobs) -> None:
        num_predictions = float(journal.load("loss")[0]["num_predictions"])
        for matrix in self.matrices:
            if matrix.place not in (Place.TABLE, Place.TIED):
                continue
            moments = passing.table(matrix, self.slots.gradient(0, _LABELS))
            sensitivity = table_sensitivity(moments, num_predictions)
            if matrix.place is Place.TIED:
                sensitivity = tied_sensitivity(sensitivity, sensitivity_of(read_tensors(self._output_file(matrix))))
            jobs.add(matrix, self._weight(matrix), sensitivity, matrix.layer)
        self._save(journal, "table", jobs.finish(), {})

    def _weight(self, matrix: Matrix) -> Float[Tensor, "out_features in_features"]:
        return read_matrix(self.model, matrix).float()

    def _output_file(self, matrix: Matrix) -> Path:
        return self.work / f"output-{matrix.layer}.safetensors"

    @staticmethod
    def _save(journal: Journal, name: str, curves: Sequence[MatrixCurve], values: dict[str, Any]) -> None:
        journal.save(name, {**values, "curves": [curve.model_dump(mode="json") for curve in curves]}, {})

    def _curves(self, journal: Journal) -> Curves:
        names = ["loss", *(f"block-{block}" for block in range(len(self.model.layout.blocks))), "table"]
        found = [MatrixCurve.model_validate(curve) for name in names for curve in journal.load(name)[0]["curves"]]
        by_layer = {curve.layer: curve for curve in found}
        size = checkpoint_size(self.model, self.matrices)
        classes = self.model.checkpoint.config.get("architectures") or [type(self.model.model).__name__]
        checkpoint = self.model.checkpoint
        return Curves(
            model=CompressedModelInfo(id=checkpoint.id, hash=checkpoint.hash(), architecture=str(classes[0]), **asdict(size)),
            task=self.data.task.info,
            data={
                "id": self.data.id,
                "hash": self.data_hash,
                "calibration_samples": len(self.calibration.examples),
                "calibration_tokens": self.calibration.num_tokens,
            },
            matrices=[by_layer[matrix.layer] for matrix in self.matrices],
            versions=installed_versions("torch", "transformers"),
            seed=self.options.seed,
            config=json.loads(json.dumps({"grid": asdict(self.options.grid), "batch_size": self.options.batch_size})),
        )


def _slot(slot: int | None) -> int:
    if slot is None:
        raise AssertionError("only the first boundary has no slot")
    return slot
