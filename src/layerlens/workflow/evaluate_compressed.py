"""A compressed model against its original: what it weighs, what it lost on two texts, where, and how fast it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerlens.artifacts.compression import CURVES_FILE, CompressionPlan, curves_beside, load_curves
from layerlens.artifacts.compression_checks import load_checked_plan
from layerlens.artifacts.compression_evaluation import (
    ByteChange,
    CompressionEvaluation,
    ErrorTravel,
    Generated,
    Memory,
    MemoryChange,
    Speed,
    TextQuality,
    leave_one_out_of,
)
from layerlens.artifacts.store import write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.compressing.open_folder import open_compressed
from layerlens.config import EvaluateConfig, output_path
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Batch, Example
from layerlens.errors import CheckpointError, few
from layerlens.evaluation.divergence_run import compare_embeddings, compare_on_samples, compare_on_text
from layerlens.evaluation.error_travel import error_travel
from layerlens.evaluation.folder_size import bits_per_weight, folder_bytes
from layerlens.evaluation.generation import (
    generate_once,
    generate_side_by_side,
    generation_speed,
    load_measured,
    run_once,
)
from layerlens.evaluation.layer_quality import layer_bytes, layer_quality
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.foreign import one_line, quiet
from layerlens.models.load import AUTO_CLASSES
from layerlens.models.processor import load_processor
from layerlens.models.streamed.load import load_streamed_model
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.words import TaskKind
from layerlens.workflow.compared_texts import ComparedText, ComparedTexts
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import tell_notes

#: Samples whose activations the layers are compared on, prompts that both models go on with, and tokens of a prompt.
_QUALITY_SAMPLES, _PROMPTS, _PROMPT_TOKENS = 32, 3, 32


def evaluate_compressed(
    model: str,
    data: str,
    against: str | None,
    out: str | Path,
    config: EvaluateConfig,
    *,
    command: str,
    progress: Progress = SILENT,
) -> CompressionEvaluation:
    """Compare a compressed folder with its original.

    Args:
        model: The compressed folder.
        data: What to compare on. Of the data that it was compressed on, only samples that calibration and the race did not see.
        against: The original; the one that the plan names if not given.
        out: The evaluation to write.
        config: Windows, the second text, generation.
        command: The invocation.
        progress: Who watches.

    Raises:
        LayerLensError: a folder or the data is not what it should be.
    """
    folder = Path(model).expanduser()
    plan = load_checked_plan(folder)
    original = _planned_original(plan) if against is None else open_checkpoint(against)
    if against is None and original.hash() != plan.model.hash:
        raise CheckpointError(
            f"{plan.model.id} is not the model any more that {model} was made from; name the original by --against"
        )
    with threads(config.threads):
        evaluation = _Comparison(folder, plan, original, data, config, progress).run(model, command)
    write_json(output_path(out), evaluation)
    return evaluation


def _planned_original(plan: CompressionPlan) -> Checkpoint:
    try:
        return open_checkpoint(plan.model.id)
    except CheckpointError as error:
        # Its path may have been typed in another folder, or on another machine.
        raise CheckpointError(f"{error}; or name the original by --against") from error


class _Comparison:
    def __init__(
        self, folder: Path, plan: CompressionPlan, original: Checkpoint, data: str, config: EvaluateConfig, progress: Progress
    ) -> None:
        self.folder, self.plan, self.original = folder, plan, original
        self.data_name, self.config, self.progress = data, config, progress
        self.kind = plan.task.kind
        self.notes: list[str] = []
        if original.hash() != plan.model.hash:
            self.notes.append(
                f"{original.id} is not the very checkpoint that {folder} was made from, so what the two differ in counts as lost"
            )
        #: Parameters that the original, which is loaded first, lacks. They are drawn at random, for each model anew.
        self.drawn: set[str] = set()

    def run(self, model: str, command: str) -> CompressionEvaluation:
        sides = (self.original.folder, self.original.tensors), (self.folder, open_compressed(self.folder).tensors)
        size = ByteChange(before=folder_bytes(*sides[0]), after=folder_bytes(*sides[1]))
        chooser = ComparedTexts(self.folder, self.plan, self.original, self.config)
        first = chooser.of_data(self.data_name)
        tell_notes(self.progress, first.loaded)
        second = chooser.second(first)
        self.notes += chooser.notes
        has_head = self._has_head()
        # In float32, so that what rounding of the arithmetic adds is not taken for a loss.
        before, after = (self._loaded(folder, torch.float32) for folder in (self.original.folder, self.folder))
        texts = [self._compared(before, after, text, has_head=has_head) for text in (first, second) if text is not None]
        batches = list(self._inputs(first.loaded, first.examples[:_QUALITY_SAMPLES]))
        layers = layer_quality(before, after, batches, progress=self.progress)
        del before, after
        generated, speed, memory, sizes = self._running(first)
        return CompressionEvaluation(
            model=model,
            against=self.original.id,
            task=self.kind,
            size_bytes=size,
            bits_per_weight=bits_per_weight(size.after, self.plan.model.num_parameters),
            texts=texts,
            layers=[
                layer.model_copy(update={"size_bytes": sizes[layer.layer]})
                for layer in layers
                if f"{layer.layer}.weight" not in self.drawn
            ],
            generated=generated,
            speed=speed,
            memory=memory,
            travel=self._travel(),
            leave_one_out=leave_one_out_of(self.plan),
            command=command,
            versions=installed_versions("torch", "transformers"),
            machine=machine_kind(),
            notes=self.notes,
        )

    def _has_head(self) -> bool:
        """Whether the original has the head of its task; compressing has compared embeddings where it has not."""
        if self.kind is TaskKind.EMBEDDING:
            return True
        model = load_streamed_model(self.original, self.plan.task, seed=self.config.seed)
        model.state.reader.close()
        if model.new_parameters:
            self.notes.append(f"the original has no trained head for {self.kind}; embeddings are compared instead")
        return not model.new_parameters

    def _loaded(self, folder: Path, dtype: Any) -> nn.Module:
        import transformers

        import layerlens  # noqa: F401 - its import makes transformers know the folder

        auto = getattr(transformers, AUTO_CLASSES[self.kind])
        try:
            with quiet():
                model, report = auto.from_pretrained(
                    folder, dtype=dtype, output_loading_info=True, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:
            raise CheckpointError(f"cannot load {folder} ({one_line(error)}); copy it again, or compress again") from error
        missing = set(report["missing_keys"])
        if folder == self.folder and (lost := sorted(missing - self.drawn)):
            raise CheckpointError(
                f"{folder} lacks {few(lost)}, which {self.original.id} has: they would be random numbers; copy it again, or "
                "compress again"
            )
        self.drawn |= missing
        if getattr(model.config, "pad_token_id", 0) is None and self.kind is not TaskKind.IMAGE_CLASSIFICATION:
            model.config.pad_token_id = load_processor(self.original, self.kind).pad_token_id
        loaded: nn.Module = model.eval()
        return loaded

    def _compared(self, before: nn.Module, after: nn.Module, text: ComparedText, *, has_head: bool) -> TextQuality:
        name, is_calibration, progress = text.name, text.is_calibration, self.progress
        if text.windows is not None:
            return compare_on_text(before, after, text.windows, name=name, is_calibration=is_calibration, progress=progress)
        if self.kind is TaskKind.EMBEDDING or not has_head:
            inputs = self._inputs(text.loaded, text.examples)
            return compare_embeddings(before, after, inputs, name=name, is_calibration=is_calibration, progress=progress)
        return compare_on_samples(
            before, after, text.loaded.task, text.examples, name=name, is_calibration=is_calibration, progress=progress
        )

    def _inputs(self, loaded: LoadedData, examples: Sequence[Example]) -> Iterator[Batch]:
        """What the models take of samples, batch by batch."""
        size = self.config.batch_size
        for start in range(0, len(examples), size):
            yield loaded.task.model_inputs(loaded.task.collate(examples[start : start + size]))

    def _running(self, first: ComparedText) -> tuple[list[Generated], Speed | None, MemoryChange, dict[str, ByteChange]]:
        """In the checkpoint's own type, as one would run it."""
        is_text, examples = self.kind is TaskKind.CAUSAL_LM, first.examples
        if is_text:
            prompt = torch.tensor([examples[0]["input_ids"][:_PROMPT_TOKENS]], dtype=torch.long)
            use: Callable[[nn.Module], None] = partial(generate_once, prompt=prompt)
        else:
            use = partial(run_once, inputs=next(self._inputs(first.loaded, examples[:1])))
        before, memory_before, sizes_before = self._measured(self.original.folder, use)
        after, memory_after, sizes_after = self._measured(self.folder, use)
        memory = MemoryChange(before=memory_before, after=memory_after)
        sizes = {path: ByteChange(before=size, after=sizes_after[path]) for path, size in sizes_before.items()}
        if not (is_text and self.config.new_tokens):
            return [], None, memory, sizes
        tokenizer = load_processor(self.original, self.kind)
        # Both models get them through the tokenizer, which puts its own begin-of-text token before them.
        prompts = [tokenizer.decode(each["input_ids"][:_PROMPT_TOKENS], skip_special_tokens=True) for each in examples[:_PROMPTS]]
        generated = generate_side_by_side(before, after, tokenizer, prompts, new_tokens=self.config.new_tokens)
        return generated, generation_speed(before, after, prompt), memory, sizes

    def _measured(self, folder: Path, use: Callable[[nn.Module], None]) -> tuple[nn.Module, Memory, dict[str, int]]:
        """A model in its own type that has run once, the memory that it takes, and the bytes of its layers."""
        sizes: dict[str, int] = {}

        def load() -> nn.Module:
            model = self._loaded(folder, "auto")
            # Before it runs, which may bring matrices into a form that a kernel wants.
            sizes.update(layer_bytes(model))
            return model

        model, memory = load_measured(load, use)
        return model, memory, sizes

    def _travel(self) -> ErrorTravel | None:
        together = self.plan.metadata.get("error_after_blocks")
        if not together:
            return None
        folder = curves_beside(self.folder)
        alone = {}
        if (folder / CURVES_FILE).exists() and (curves := load_curves(folder)).model.hash == self.plan.model.hash:
            alone = {matrix.layer: matrix.probe.error_after_blocks for matrix in curves.matrices if matrix.probe is not None}
        return error_travel(alone, together)
