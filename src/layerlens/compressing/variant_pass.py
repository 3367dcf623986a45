"""Measuring many variants of a streamed model in one pass over its blocks.

    for each block:  read its weights once
        checkpoint   h₀ of boundary b ──► h₀ of boundary b + 1            two slots of the store, in turn
        variant      its own h (its parent's or h₀, where it starts) ──► its slot, in place;   ‖h − h₀‖ / ‖h₀‖
    head:            predictions of the checkpoint and of every variant ──► divergence of each predicted position

In memory are one block, one variant's matrices of it and one part of the samples, however many variants there are; their hidden
states are on disk. With more variants than the disk may hold there are several passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerlens.compressing.outside_blocks import OutsideBlocks
from layerlens.compressing.variant_result import RunningResult, VariantResult
from layerlens.compressing.variants import Lineage, Variant
from layerlens.data.compared import Compared, ComparedRows, distances, embedded_rows, predicted_rows
from layerlens.errors import ConfigError, DataError, NotFiniteError
from layerlens.models.frozen import frozen
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.replacement import replaced_weights
from layerlens.progress import SILENT, Progress
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.samples import Part, Samples

STORE_FILE = "variants.bin"


def measure_variants(
    model: StreamedModel,
    samples: Samples,
    variants: Sequence[Variant],
    *,
    work: Path,
    holds_weights: bool = True,
    head_tokens: int | None = None,
    max_store: int | None = None,
    is_embedding: bool | None = None,
    after_part: Callable[[], None] = lambda: None,
    progress: Progress = SILENT,
) -> dict[str, VariantResult]:
    """How far each variant is from the checkpoint on these samples.

    Args:
        model: The streamed model, its head as it shall be compared.
        samples: What to measure on.
        variants: What to measure.
        work: Folder for hidden states; the file in it is deleted at the end.
        holds_weights: Keep the weights of the block at hand in memory; otherwise they are read in slices for every part.
        head_tokens: Padded tokens that run through the head together; None for as many as through a block.
        max_store: Bytes that the hidden states may take on disk; None for as many as one pass asks for.
        is_embedding: Compare mean-pooled embeddings instead of what the head gives; None where the head is new.
        after_part: Called after every part of every step; may raise to stop.
        progress: Who watches.

    Returns:
        What was measured, by name, in the order given.

    Raises:
        ConfigError: a variant is not what it should be, or the disk is too full or `max_store` too small.
        DataError: the samples predict nothing.
        NotFiniteError: a hidden state is NaN or infinite; names the variant and the block.
        UnsupportedModelError: a variant has a matrix of another shape.
    """
    lineage = Lineage(variants, len(model.layout.blocks))
    compares_embeddings = bool(model.new_parameters) if is_embedding is None else is_embedding
    found: dict[str, VariantResult] = {}
    waves = _waves(lineage, [variant.name for variant in variants], sum(map(_slot_bytes, samples.shapes)), max_store)
    for number, names in enumerate(waves):
        one = _Pass(model, samples, lineage, names, holds_weights, head_tokens, compares_embeddings, after_part)
        label = "variants, block by block" if len(waves) == 1 else f"variants, block by block, {number + 1} of {len(waves)}"
        for name, result in one.run(work / STORE_FILE, label, progress).items():
            found.setdefault(name, result)
    return {variant.name: found[variant.name] for variant in variants}


def _slot_bytes(shape: tuple[int, int, int]) -> int:
    num_samples, tokens, hidden = shape
    return 4 * num_samples * tokens * hidden


def _waves(lineage: Lineage, names: Sequence[str], slot_bytes: int, max_store: int | None) -> list[list[str]]:
    """Variants of each pass, their ancestors among them; the checkpoint takes two more slots."""
    num_slots = len(names) if max_store is None else max_store // slot_bytes - 2
    waves: list[list[str]] = []
    for name in names:
        if any(name in wave for wave in waves):
            continue
        if num_slots < (least := len(lineage.line(name))):
            raise ConfigError(
                f"the hidden states of variant {name} take {(least + 2) * slot_bytes / 2**20:,.0f} MiB on disk, above the "
                f"{(max_store or 0) / 2**20:,.0f} MiB that they may; allow more, or measure on fewer samples"
            )
        joined = lineage.with_ancestors([*(waves[-1] if waves else []), name])
        if waves and len(joined) <= num_slots:
            waves[-1] = joined
        else:
            waves.append(lineage.with_ancestors([name]))
    return waves


class _Pass:
    """One pass over the blocks with some of the variants."""

    def __init__(
        self,
        model: StreamedModel,
        samples: Samples,
        lineage: Lineage,
        names: Sequence[str],
        holds_weights: bool,
        head_tokens: int | None,
        compares_embeddings: bool,
        after_part: Callable[[], None],
    ) -> None:
        self._model, self._samples, self._lineage = model, samples, lineage
        self._holds_weights, self._head_tokens = holds_weights, head_tokens
        self._compares_embeddings, self._after_part = compares_embeddings, after_part
        self._order = lineage.children_first(names)
        self._slots = {name: number + 2 for number, name in enumerate(names)}
        self._running = {name: RunningResult() for name in names}
        self._outside = OutsideBlocks(model)
        #: Variants with a state of their own at the first boundary.
        self._enters = {
            name for name in names if lineage.variants[name].first_block == 0 and lineage.has_own(name, self._outside.entries)
        }
        self._offsets = np.concatenate([[0], np.cumsum([shape[0] for shape in samples.shapes])])

    def run(self, path: Path, label: str, progress: Progress) -> dict[str, VariantResult]:
        num_blocks = len(self._model.layout.blocks)
        with ActivationStore(path, self._samples.shapes, len(self._slots) + 2) as store:
            self._store = store
            try:
                with frozen(self._model.model), torch.no_grad():
                    self._enter()
                    for block in progress.track(range(num_blocks), label, total=num_blocks):
                        with self._model.held(block, is_wanted=self._holds_weights):
                            self._advance(block)
                    kind = self._finish(num_blocks % 2)
            finally:
                store.remove()
        results = {}
        for name, running in self._running.items():
            first = self._lineage.variants[name].first_block
            if not sum(map(len, running.samples)):
                raise DataError("the samples to measure on predict nothing; give more data")
            results[name] = running.result(name, kind, first, int(self._offsets[-1]))
        return results

    def _enter(self) -> None:
        """Hidden states of the first boundary."""
        self._write_entries(0)
        for name in self._order:
            if name in self._enters:
                with replaced_weights(self._model.model, self._lineage.block_weights(name, 0, self._outside.entries)):
                    self._write_entries(self._slots[name])

    def _write_entries(self, slot: int) -> None:
        for part in self._samples.parts():
            self._store.write(slot, part.batch, part.samples.start, self._samples.entry(part).hidden)
            self._after_part()

    def _advance(self, block: int) -> None:
        """Run one block for the checkpoint and for every variant that differs by now."""
        source, target = block % 2, (block + 1) % 2
        for part in self._samples.parts():
            self._store.write(target, part.batch, part.samples.start, self._output(block, source, part, "the checkpoint"))
            self._after_part()
        paths = list(self._model.layers_of(block))
        for name in self._order:
            if self._lineage.variants[name].first_block > block:
                continue
            slot = self._slot(name, block, base=source)
            with replaced_weights(self._model.model, self._lineage.block_weights(name, block, paths)):
                for part in self._samples.parts():
                    output = self._output(block, slot, part, f"variant {name}")
                    self._store.write(self._slots[name], part.batch, part.samples.start, output)
                    self._add_error(name, block, target, part, output)
                    self._after_part()

    def _slot(self, name: str, boundary: int, *, base: int) -> int:
        """Slot of a variant's state at a boundary: its own, or that of the ancestor that it still equals there."""
        for variant in self._lineage.line(name):
            if variant.first_block < boundary or (boundary == 0 and variant.name in self._enters):
                return self._slots[variant.name]
        return base

    def _output(self, block: int, slot: int, part: Part, what: str) -> Tensor:
        hidden = self._read(slot, part)
        output = self._model.skeleton.call(block, hidden, self._samples.call(part, block))
        if not bool(torch.isfinite(output).all()):
            path = self._model.layout.blocks[block].path
            raise NotFiniteError(f"the hidden state of {what} after {path} is NaN or infinite; check the weights")
        return output

    def _read(self, slot: int, part: Part) -> Tensor:
        return self._store.read(slot, part.batch, part.samples.start, part.samples.stop)

    def _add_error(self, name: str, block: int, base: int, part: Part, output: Tensor) -> None:
        """Add a part's squared error; padding does not count."""
        state = self._read(base, part)
        mask = None if part.batch_mask is None else part.batch_mask[part.samples]
        if mask is not None:
            state, output = state[mask], output[mask]
        squares = [float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2 for values in (output - state, state)]
        self._running[name].errors.add(block, *squares)

    def _finish(self, base: int) -> Compared:
        """Compare predictions after the last block; the checkpoint's are made once for all variants that share a head."""
        num_blocks = len(self._model.layout.blocks)
        groups: dict[tuple[str | None, ...], list[str]] = {}
        for name in self._order:
            groups.setdefault(self._lineage.owners(name, self._outside.linears), []).append(name)
        kind = Compared.EMBEDDING
        with self._held_linears():
            for names in groups.values():
                replaced = self._lineage.weights(names[0], self._outside.linears)
                for part in self._samples.parts(self._head_tokens):
                    reference = self._predictions(part, base)
                    kind = reference.kind
                    with replaced_weights(self._model.model, replaced):
                        for name in names:
                            self._compare(name, part, reference, self._slot(name, num_blocks, base=base))
                del replaced
        return kind

    def _compare(self, name: str, part: Part, reference: ComparedRows, slot: int) -> None:
        found = distances(reference, self._predictions(part, slot))
        samples = reference.samples.numpy() + int(self._offsets[part.batch]) + part.samples.start
        if not bool(torch.isfinite(found.values).all()):
            raise NotFiniteError(f"the predictions of variant {name} are NaN or infinite; check the weights")
        self._running[name].add(found, samples)
        self._after_part()

    def _predictions(self, part: Part, slot: int) -> ComparedRows:
        hidden = self._read(slot, part)
        if not self._compares_embeddings:
            outputs: Any = self._model.skeleton.finish(part.inputs, hidden)
            return predicted_rows(self._samples.task, outputs, part.values)
        with self._model.skeleton.finishing(hidden):
            outputs = self._model.model.base_model(**part.inputs)
        mask = None if part.batch_mask is None else part.batch_mask[part.samples]
        return embedded_rows(outputs.last_hidden_state, mask)

    @contextmanager
    def _held_linears(self) -> Iterator[None]:
        """Keep the streamed matrices of the head in memory, where that is wanted."""
        sources = self._outside.sources() if self._holds_weights else []
        try:
            for source in sources:
                source.hold()
            yield
        finally:
            for source in sources:
                source.release()
