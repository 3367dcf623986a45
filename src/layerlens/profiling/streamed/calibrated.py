"""The samples of a streamed profile, in batches, and what they ask of memory and disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from layerlens.artifacts.layers import LayerSpec
from layerlens.config import FisherLabels, ProfilingConfig
from layerlens.data.batches import example_length, length_sorted_batches
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.partition import Partition
from layerlens.models.head import BATCH_SIZE
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.profiling.activation_memory import Counted
from layerlens.profiling.calibration import calibration_batches, samples_to_profile
from layerlens.profiling.counted_samples import NUM_COUNTED, counted_samples
from layerlens.profiling.head_samples import choose_head_samples
from layerlens.profiling.layer_records import weights_of
from layerlens.profiling.sample_lengths import text_lengths
from layerlens.profiling.spaces import expected_tokens
from layerlens.profiling.streamed.activation_memory import count_streamed_step
from layerlens.profiling.streamed.memory_plan import Demand
from layerlens.profiling.streamed.timing import count_activations, typical_part
from layerlens.streaming.samples import Samples


def measure_demand(model: StreamedModel, data: LoadedData, part: Partition, config: ProfilingConfig) -> Demand:
    """What profiling a streamed model on these samples asks of memory and disk; nothing is written."""
    return StreamedCalibration(model, data, part, config).demand()


class StreamedCalibration:
    """The samples of a run, in batches, and what they ask of memory."""

    def __init__(self, model: StreamedModel, data: LoadedData, part: Partition, config: ProfilingConfig) -> None:
        self.model, self.data, self.part, self.config = model, data, part, config
        # A streamed profile has no proxies: what only they could rank is refused before anything is measured.
        weights_of(config, None)
        self.chosen = samples_to_profile(data.id, part.train, config.num_samples, config.seed)
        self.examples = data.take(self.chosen)
        self.lengths = self._lengths(self.examples)
        self.batches = calibration_batches(
            self.lengths, batch_size=config.batch_size, gram_tokens=config.gram_tokens, seed=config.seed
        )
        self.head = (
            choose_head_samples(part.train, self.chosen, config.head_samples, config.seed) if model.new_parameters else None
        )
        self.labels = ["empirical", "true"] if config.fisher_labels is FisherLabels.TRUE else ["empirical"]

    def in_batches(self, tokens_at_once: int) -> Samples:
        groups = [batch.samples for batch in self.batches]
        return Samples.of_examples(self.model.skeleton, self.data.task, self.examples, groups, tokens_at_once)

    def typical(self, tokens_at_once: int) -> Samples:
        return typical_part(
            self.model,
            self.data.task,
            self.examples,
            self.lengths,
            num_samples=len(self.part.train),
            batch_size=self.config.batch_size,
            tokens_at_once=tokens_at_once,
        )

    def step_counts(self, tokens_at_once: int) -> list[Counted]:
        """What a training step takes, counted on no more samples than may run at once."""
        num_samples = max(1, min(NUM_COUNTED, tokens_at_once // max(self.lengths)))
        samples = counted_samples(self.data.task, self.examples, self.lengths, num_samples=num_samples)
        return [count_streamed_step(self.model, self.data.task, one) for one in samples]

    def demand(self) -> Demand:
        """What the model and the samples ask of memory."""
        shapes = self.in_batches(1).shapes
        blocks = range(len(self.model.layout.blocks))
        head = sum(p.numel() * 4 for name, p in self.model.model.named_parameters() if name in self.model.new_parameters)
        outputs = self.model.model.get_output_embeddings()
        return Demand(
            resident=self.model.resident_bytes() + 5 * head + sum(_nbytes(example) for example in self.examples),
            kept_per_token=max(count_activations(self.model, self.typical(1))),
            hidden_size=shapes[0][2],
            longest=max(tokens for _, tokens, _ in shapes),
            most_tokens=max(samples * tokens for samples, tokens, _ in shapes),
            layers=[self.layers_of(block) for block in blocks],
            block_bytes=max(sum(layer.source.num_bytes for layer in self.model.layers_of(block).values()) for block in blocks),
            tokens=expected_tokens(self.batches),
            logits_per_token=outputs.out_features if isinstance(outputs, StreamedLinear) else 0,
            slot_bytes=4 * sum(samples * tokens * hidden for samples, tokens, hidden in shapes),
            num_labels=len(self.labels),
            head_bytes=4 * self._num_head_tokens() * shapes[0][2],
        )

    def data_hash(self) -> str:
        """Of every sample that enters the numbers: those that are measured, and those that a new head is fitted on."""
        return self.data.hash([*self.chosen, *([] if self.head is None else [*self.head.train, *self.head.held_out])])

    def _num_head_tokens(self) -> int:
        """Padded tokens of the samples that a new head is fitted on."""
        total = 0
        for indices in () if self.head is None else (self.head.train, self.head.held_out):
            if text_lengths(self.examples) is None:
                # Images all have the same number of patches; none is opened to count them.
                total += len(indices) * self.lengths[0]
                continue
            examples = self.data.take(indices)
            for group in length_sorted_batches(examples, BATCH_SIZE):
                total += len(group) * max(example_length(examples[position]) for position in group)
        return total

    def _lengths(self, examples: Sequence[Example]) -> list[int]:
        lengths = text_lengths(examples)
        if lengths is not None:
            return lengths
        one = Samples.of_examples(self.model.skeleton, self.data.task, examples, [[0]], 1)
        return [one.shapes[0][1]] * len(examples)

    def layers_of(self, block: int) -> list[LayerSpec]:
        number = self.model.layout.blocks[block].block
        return [spec for spec in self.model.layout.layers if spec.block == number]


def _nbytes(example: Example) -> int:
    """Bytes of a sample in memory; its numbers alone."""
    return sum(value.nbytes for value in example.values() if isinstance(value, np.ndarray | torch.Tensor))
