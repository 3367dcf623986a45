"""A compressed model against its original: what it weighs, what it lost on two texts, where, and how fast it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerlens.adapting.samples import choose
from layerlens.adapting.tune import EVAL_SEED
from layerlens.artifacts.compression import CURVES_FILE, CompressionPlan, load_curves
from layerlens.artifacts.compression_checks import load_checked_plan
from layerlens.artifacts.compression_evaluation import (
    ByteChange,
    CompressionEvaluation,
    ErrorTravel,
    Generated,
    LeaveOneOut,
    MemoryChange,
    Speed,
    TextQuality,
)
from layerlens.artifacts.profile import TaskInfo
from layerlens.artifacts.store import write_json
from layerlens.artifacts.versions import installed_versions
from layerlens.config import EvaluateConfig, output_path, path_beside
from layerlens.data.dataset import LoadedData
from layerlens.data.encoders.prepared import LENGTH_KEYS
from layerlens.data.example import Example
from layerlens.data.partition import partition
from layerlens.data.source_name import is_same_source
from layerlens.data.sources.decoding import read_text
from layerlens.errors import CheckpointError, ConfigError
from layerlens.evaluation.divergence_run import compare_embeddings, compare_on_samples, compare_on_text
from layerlens.evaluation.error_travel import error_travel
from layerlens.evaluation.folder_size import bits_per_weight, tensor_bytes
from layerlens.evaluation.generation import generate_side_by_side, generation_speed, load_measured
from layerlens.evaluation.layer_quality import layer_bytes, layer_quality
from layerlens.evaluation.perplexity import TokenWindows, cut_text
from layerlens.evaluation.second_text import second_text
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.foreign import one_line, quiet
from layerlens.models.load import AUTO_CLASSES, load_processor
from layerlens.models.streamed.load import load_streamed_model
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.words import TaskKind
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import check_windows, open_data

#: Samples whose activations the layers are compared on, prompts that both models go on with, and tokens of a prompt.
_PARAGRAPH = re.compile(r"\n\s*\n")
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
    original = open_checkpoint(against or plan.model.id)
    if against is None and original.hash() != plan.model.hash:
        raise CheckpointError(
            f"{plan.model.id} is not the model any more that {model} was made from; name the original by --against"
        )
    with threads(config.threads):
        evaluation = _Comparison(folder, plan, original, data, config, progress).run(model, command)
    write_json(output_path(out), evaluation)
    return evaluation


class _Comparison:
    def __init__(
        self, folder: Path, plan: CompressionPlan, original: Checkpoint, data: str, config: EvaluateConfig, progress: Progress
    ) -> None:
        self.folder, self.plan, self.original = folder, plan, original
        self.data_name, self.config, self.progress = data, config, progress
        self.kind = plan.task.kind
        self.task = TaskInfo.model_validate(plan.task.model_dump())
        self.notes: list[str] = []
        #: Parameters that the original lacks. They are drawn at random, for each model anew, and say nothing.
        self.drawn: set[str] = set()

    @property
    def is_calibration_data(self) -> bool:
        """Whether the data are those that the folder was calibrated on, by whatever path they are named now."""
        told = self.plan.metadata.get("run", {}).get("data")
        return told is not None and is_same_source(self.data_name, told)

    def run(self, model: str, command: str) -> CompressionEvaluation:
        loaded, examples = self._examples()
        has_head = self._has_head()
        # In float32, so that what rounding of the arithmetic adds is not taken for a loss.
        before, after = (self._loaded(folder, torch.float32) for folder in (self.original.folder, self.folder))
        texts = [self._compared(before, after, loaded, examples, has_head=has_head)]
        if self.kind in (TaskKind.CAUSAL_LM, TaskKind.EMBEDDING):
            texts.append(self._second(before, after, loaded))
        batches = [loaded.task.model_inputs(batch) for batch in self._batches(loaded, examples[:_QUALITY_SAMPLES])]
        layers = layer_quality(before, after, batches, progress=self.progress)
        del before, after
        generated, speed, memory, sizes = self._generation(examples)
        size = ByteChange(before=tensor_bytes(self.original.folder), after=tensor_bytes(self.folder))
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
            leave_one_out=self._leave_one_out(),
            command=command,
            versions=installed_versions("torch", "transformers"),
            machine=machine_kind(),
            notes=self.notes,
        )

    def _examples(self) -> tuple[LoadedData, list[Example]]:
        run, is_same = self.plan.metadata.get("run", {}), self.is_calibration_data
        seen = run.get("config", {}) if is_same else {}
        update = {"task": self.kind, "split": self.config.split or seen.get("split")}
        if self.kind is TaskKind.CAUSAL_LM and not is_same:
            update["max_length"] = self._window()
        config = self.config.model_copy(update=update)
        loaded = open_data(self.original, self.data_name, config, self.task)
        if is_same:
            check_windows(self.task, loaded, self.config.max_length)
        chosen: Sequence[int] = range(len(loaded.examples))
        if is_same or loaded.splits is not None:
            chosen = partition(len(loaded.examples), loaded.splits, seed=seen.get("seed", config.seed), has_eval_data=False).test
        limit = config.max_eval_samples
        if self.kind is TaskKind.CAUSAL_LM:
            length = loaded.task.info.max_length or self._window()
            return loaded, loaded.take(chosen[: max(1, self.config.max_tokens // length)][:limit])
        return loaded, loaded.take(chosen if limit is None else sorted(choose(chosen, limit, seed=EVAL_SEED)))

    def _has_head(self) -> bool:
        """Whether the original has the head of its task; compressing has compared embeddings where it has not."""
        if self.kind is TaskKind.EMBEDDING:
            return True
        model = load_streamed_model(self.original, self.task, seed=self.config.seed)
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
        self.drawn.update(report["missing_keys"])
        if getattr(model.config, "pad_token_id", 0) is None and self.kind is not TaskKind.IMAGE_CLASSIFICATION:
            model.config.pad_token_id = load_processor(self.original, self.kind).pad_token_id
        loaded: nn.Module = model.eval()
        return loaded

    def _compared(
        self, before: nn.Module, after: nn.Module, loaded: LoadedData, examples: list[Example], *, has_head: bool
    ) -> TextQuality:
        name, is_calibration = loaded.id, self.is_calibration_data
        if self.kind is TaskKind.CAUSAL_LM:
            windows = _windows_of(examples)
            return compare_on_text(before, after, windows, name=name, is_calibration=is_calibration, progress=self.progress)
        if self.kind is TaskKind.EMBEDDING or not has_head:
            inputs = (loaded.task.model_inputs(batch) for batch in self._batches(loaded, examples))
            return compare_embeddings(before, after, inputs, name=name, is_calibration=is_calibration, progress=self.progress)
        return compare_on_samples(
            before, after, loaded.task, examples, name=name, is_calibration=is_calibration, progress=self.progress
        )

    def _second(self, before: nn.Module, after: nn.Module, loaded: LoadedData) -> TextQuality:
        """The second text: in windows for a language model, in paragraphs for embeddings."""
        if self.config.second_text is None:
            name, text = second_text(self.data_name)
        else:
            path = Path(self.config.second_text).expanduser()
            if not path.is_file():
                raise ConfigError(f"--second-text {self.config.second_text} is no file; give a text file")
            name, text = self.config.second_text, read_text(path)
        if self.kind is TaskKind.EMBEDDING:
            inputs = (loaded.task.model_inputs(batch) for batch in self._batches(loaded, self._paragraphs(text)))
            return compare_embeddings(before, after, inputs, name=name, progress=self.progress)
        window = self._window()
        stride = None if self.config.stride is None else min(self.config.stride, window)
        windows = cut_text(load_processor(self.original, self.kind), text, window=window, stride=stride)
        windows = TokenWindows(windows.tokens[: self.config.max_tokens], windows.window, windows.stride, windows.bos)
        return compare_on_text(before, after, windows, name=name, progress=self.progress)

    def _paragraphs(self, text: str) -> list[Example]:
        """Paragraphs of a text up to `max_tokens`, each a sample."""
        pieces = [piece for piece in _PARAGRAPH.split(text) if piece.strip()]
        length = self.plan.task.max_length or self._window()
        tokenizer = load_processor(self.original, self.kind)
        tokens: list[list[int]] = tokenizer(pieces, truncation=True, max_length=length)["input_ids"]
        ends = accumulate(map(len, tokens))
        kept = [ids for ids, end in zip(tokens, ends, strict=True) if end <= self.config.max_tokens] or tokens[:1]
        return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in kept]

    def _window(self) -> int:
        """Tokens of a window: those asked for, or as many as the model has positions."""
        limits = [self.original.config.get(key) for key in LENGTH_KEYS]
        return min([self.config.window, *(limit for limit in limits if isinstance(limit, int))])

    def _batches(self, loaded: LoadedData, examples: Sequence[Example]) -> Iterator[Any]:
        size = self.config.batch_size
        for start in range(0, len(examples), size):
            yield loaded.task.collate(examples[start : start + size])

    def _generation(
        self, examples: Sequence[Example]
    ) -> tuple[list[Generated], Speed | None, MemoryChange, dict[str, ByteChange]]:
        """In the checkpoint's own type, as one would run it."""
        before, memory_before = load_measured(lambda: self._loaded(self.original.folder, "auto"))
        after, memory_after = load_measured(lambda: self._loaded(self.folder, "auto"))
        memory = MemoryChange(before=memory_before, after=memory_after)
        sizes_before, sizes_after = layer_bytes(before), layer_bytes(after)
        sizes = {path: ByteChange(before=size, after=sizes_after[path]) for path, size in sizes_before.items()}
        if self.kind is not TaskKind.CAUSAL_LM or not self.config.new_tokens:
            return [], None, memory, sizes
        tokenizer = load_processor(self.original, self.kind)
        prompts = [tokenizer.decode(example["input_ids"][:_PROMPT_TOKENS]) for example in examples[:_PROMPTS]]
        generated = generate_side_by_side(before, after, tokenizer, prompts, new_tokens=self.config.new_tokens)
        prompt = torch.tensor([examples[0]["input_ids"][:_PROMPT_TOKENS]], dtype=torch.long)
        return generated, generation_speed(before, after, prompt), memory, sizes

    def _travel(self) -> ErrorTravel | None:
        together = self.plan.metadata.get("error_after_blocks")
        if not together:
            return None
        folder = path_beside(self.folder, ".curves")
        alone = {}
        if (folder / CURVES_FILE).exists() and (curves := load_curves(folder)).model.hash == self.plan.model.hash:
            alone = {matrix.layer: matrix.probe.error_after_blocks for matrix in curves.matrices if matrix.probe is not None}
        return error_travel(alone, together)

    def _leave_one_out(self) -> LeaveOneOut | None:
        found = self.plan.metadata.get("leave_one_out")
        return None if found is None else LeaveOneOut.model_validate(found)


def _windows_of(examples: Sequence[Example]) -> TokenWindows:
    """Windows of a language model as they were cut; the last one of a text, which is shorter, is left out."""
    length = max(len(example["input_ids"]) for example in examples)
    tokens = [token for example in examples if len(example["input_ids"]) == length for token in example["input_ids"]]
    return TokenWindows(tokens, length, length)
