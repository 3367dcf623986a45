"""One fine-tuning run from a prepared model to a measured arm: train or resume, score, keep what was made.

An output folder holds `checkpoints/` while the run goes on and `arm.json` when it has ended; either says which run
it belongs to, so a stopped run is resumed, a finished one is read, and another run's is never overwritten. A run that
fails and leaves nothing to resume from gives the folder up again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from peft import PeftModel
from torch import nn

from layerlens.adapting.batch_identity import PADDED_TO
from layerlens.adapting.hooks import NO_HOOKS, Hooks
from layerlens.adapting.memory import peak_memory
from layerlens.adapting.precision import kept_generators, own_forward, training_device
from layerlens.adapting.recorded import without_newer
from layerlens.adapting.samples import SOURCE, Samples
from layerlens.adapting.trainer import TaskTrainer, last_whole_checkpoint
from layerlens.artifacts.differences import told
from layerlens.artifacts.evaluation import Arm, LossPoint
from layerlens.artifacts.store import claim_folder, read_claim, working_alone, write_json
from layerlens.config import TuneConfig
from layerlens.data.inference import score
from layerlens.errors import ConfigError, NotFiniteError
from layerlens.progress import Progress

CHECKPOINTS, ARM_FILE = "checkpoints", "arm.json"
#: Key of an arm's record: whether its checkpoints shall stay. Records of older versions lack it.
KEEPS_CHECKPOINTS = "keeps_checkpoints"
#: Points of a loss curve at most.
CURVE_POINTS = 100
#: Keys of a run's identity that records of older versions lack.
ARITHMETIC = "arithmetic"
_NEWER = frozenset({ARITHMETIC, SOURCE})
#: The same of an arm that has ended. One that was stopped while batches were padded otherwise cannot go on to bytes of its own.
_NEWER_OF_ARM = _NEWER | {PADDED_TO}


@dataclass(frozen=True)
class RunSpec:
    """What one arm is: its name, how many parameters it trains, and everything that its outcome depends on."""

    name: str
    adapter_params: int
    head_params: int
    num_steps: int
    training: Samples
    evaluation: Samples
    config: TuneConfig
    new_parameters: tuple[str, ...]
    identity: dict[str, Any]


def is_claimed(out: Path) -> bool:
    """Whether a run has ended in a folder, or can be resumed there; which one, is looked at when the run begins."""
    return (out / ARM_FILE).exists() or read_claim(out / CHECKPOINTS) is not None


def finished_arm(out: Path, spec: RunSpec) -> Arm | None:
    """The arm that this very run has left before, if it ended.

    Raises:
        ConfigError: the folder holds another run's arm; says what differs.
    """
    path = out / ARM_FILE
    if not path.exists():
        return None
    differs = "it is damaged"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wanted = _comparable(spec.identity, found["run"], _NEWER_OF_ARM)
        if found["run"] == wanted:
            arm = Arm.model_validate(found["arm"])
            if found.get(KEEPS_CHECKPOINTS) is False:
                # A run that was killed while it removed them has left some.
                shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
            return arm
        differs = told(found["run"], wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ConfigError(f"{path} belongs to another run ({differs}); choose another output folder or remove it")


def why_not_its_own(out: Path, spec: RunSpec) -> str | None:
    """Why a run cannot go on in a folder, told before anything is prepared; None where nothing is known against it.

    What an arm trains is left out: some know it only when their adapters are on the model, and a plan may yet race.
    """
    wanted = _but_what_is_trained(spec.identity)
    for path, found, newer in (
        (out / ARM_FILE, _run_of(out / ARM_FILE), _NEWER_OF_ARM),
        (out / CHECKPOINTS, read_claim(out / CHECKPOINTS), _NEWER),
    ):
        if not found:
            continue
        found = _but_what_is_trained(found)
        if differs := told(found, _comparable(wanted, found, newer)):
            return f"{path} belongs to another run ({differs})"
    return None


def _run_of(path: Path) -> Any:
    """The run that a record of an arm belongs to; none where it cannot be read, which is told when the arm's turn comes."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    run = found.get("run") if isinstance(found, dict) else None
    return run if isinstance(run, dict) else None


def _but_what_is_trained(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != "trained"}


def finetune(
    model: nn.Module, spec: RunSpec, *, out: Path, keep: Callable[[], None], progress: Progress, hooks: Hooks = NO_HOOKS
) -> Arm:
    """Train the trainable parameters of `model`, score the result, keep it.

    Args:
        model: Prepared: what shall be trained is trainable.
        spec: The run.
        out: Folder of the run.
        keep: Called when what was made is known to be sound, to save it.
        progress: Who watches.
        hooks: What the method adds to the run.

    Returns:
        Metrics after training, seconds and peak memory of the training alone, the loss curve.

    Raises:
        ConfigError: the folder holds another run's checkpoints, another process works there, or a tracker is not installed.
        NotFiniteError: training diverged; nothing of it is left.
    """
    checkpoints = out / CHECKPOINTS
    claim_folder(checkpoints, _comparable(spec.identity, read_claim(checkpoints)))
    with working_alone(checkpoints), _given_up_in_failure(checkpoints):
        arm = _trained_arm(model, spec, checkpoints, progress, hooks)
        keep()
        keeps = spec.config.keep_checkpoints
        write_json(out / ARM_FILE, {"run": spec.identity, "arm": arm.model_dump(mode="json"), KEEPS_CHECKPOINTS: keeps})
        if not keeps:
            # Another process that finds the arm may remove them as well.
            shutil.rmtree(checkpoints, ignore_errors=True)
    return arm


@contextmanager
def _given_up_in_failure(checkpoints: Path) -> Iterator[None]:
    """Let go of the folder where the run inside the context fails with nothing to resume from, as after divergence."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NotFiniteError) or last_whole_checkpoint(checkpoints) is None:
            shutil.rmtree(checkpoints, ignore_errors=True)
            with suppress(OSError):
                checkpoints.parent.rmdir()
        raise


def _trained_arm(model: nn.Module, spec: RunSpec, checkpoints: Path, progress: Progress, hooks: Hooks) -> Arm:
    """Train, from the last checkpoint where there is one, and score."""
    batches = spec.training.batches(batch_size=spec.config.batch_size, num_steps=spec.num_steps, seed=spec.config.seed)
    device = training_device()
    verbosity = transformers.logging.get_verbosity()
    try:
        with own_forward(model), kept_generators(device), peak_memory(device) as peak:
            trainer = TaskTrainer(
                spec.name,
                model,
                spec.training.data.task,
                spec.training.data.examples,
                batches,
                spec.config,
                checkpoints=checkpoints,
                progress=progress,
                num_samples=len(spec.training),
                new_parameters=spec.new_parameters,
                hooks=hooks,
            )
            resumed = last_whole_checkpoint(checkpoints)
            if resumed is not None:
                progress.note(f"{spec.name}: resumed from {resumed}")
            history = trainer.run(resumed)
    finally:
        transformers.logging.set_verbosity(verbosity)
        if spec.config.gradient_checkpointing:
            _end_checkpointing(model)
    arm = Arm(
        name=spec.name,
        metrics=_scored(model, spec),
        trainable_params=spec.adapter_params,
        head_params=spec.head_params,
        train_seconds=history.seconds,
        peak_memory_bytes=peak.num_bytes,
        seed=spec.config.seed,
        learning_rate=spec.config.learning_rate,
        steps=spec.num_steps,
        loss_curve=loss_curve(history.losses),
        epochs=spec.num_steps * min(spec.config.batch_size, len(spec.training)) / len(spec.training),
        frozen_blocks=trainer.start.cut,
        kept_bytes=trainer.start.kept_bytes,
    )
    return arm if hooks.outcome is None else arm.model_copy(update=hooks.outcome())


def _scored(model: nn.Module, spec: RunSpec) -> dict[str, float]:
    """Score what was trained; what the last update has made of it, no loss of the run has seen.

    Raises:
        NotFiniteError: that update has diverged.
    """
    scored = spec.evaluation
    try:
        return score(model, scored.data.task, scored.take(), batch_size=2 * spec.config.batch_size)
    except NotFiniteError as error:
        raise NotFiniteError(
            f"training diverged: after step {spec.num_steps} with learning rate {spec.config.learning_rate:g} {error}; "
            "use a lower --learning-rate"
        ) from error


def _comparable(identity: Mapping[str, Any], found: object, newer: Collection[str] = _NEWER) -> dict[str, Any]:
    """A run's identity as its record reads, without what the record found there is too old to tell."""
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    if not isinstance(found, dict):
        return plain
    config = without_newer(plain["config"], found.get("config") or {}, TuneConfig().model_dump(mode="json"))
    return _told(plain | {"config": config}, found, newer)


def _told(content: Mapping[str, Any], found: Mapping[str, Any], newer: Collection[str]) -> dict[str, Any]:
    """`content` without what a record would not tell if it is of an older version, at any depth."""
    return {
        key: _told(value, found[key], newer) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
        for key, value in content.items()
        if key in found or key not in newer
    }


def _end_checkpointing(model: nn.Module) -> None:
    """Take off what the Trainer has switched on, the hook that makes the embeddings' output ask for a gradient included."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.activation_checkpointing_disable()
    inner.disable_input_require_grads()


def loss_curve(losses: Sequence[float]) -> list[LossPoint]:
    """At most 100 points: each the mean training loss of the steps since the point before, nats."""
    window = max(1, -(-len(losses) // CURVE_POINTS))
    points = []
    for start in range(0, len(losses), window):
        part = losses[start : start + window]
        points.append(LossPoint(step=start + len(part), loss=sum(part) / len(part)))
    return points
