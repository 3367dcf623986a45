"""Which samples a training step's memory is counted on: one sample at its length and at half of it.

From two lengths follow the bytes at any (`step_memory`). Images of one model all have one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.profiling.sample_lengths import text_lengths
from layerlens.words import TaskKind

#: Samples that are counted together: more than one, so that what samples share is not taken for each one's own.
NUM_COUNTED = 2
#: A sample that is cut to fewer tokens would be all padding.
_FEWEST_TOKENS = 2


@dataclass(frozen=True)
class CountedSamples:
    """Samples of one length, to be collated and counted.

    Attributes:
        examples: A sample, as often as it is counted.
        num_tokens: Tokens of each, padding included.
        is_padded: Whether the last token of the last one is padding, so that the model takes a mask.
    """

    examples: list[Example]
    num_tokens: int
    is_padded: bool = False


def counted_samples(
    task: Task, examples: Sequence[Example], lengths: Sequence[int], *, num_samples: int = NUM_COUNTED
) -> list[CountedSamples]:
    """The longest sample at its length and at half of it; padded where batches of these samples are.

    Args:
        task: The task; the answer to a question is moved to the first token, which every length has.
        examples: Samples of the profile.
        lengths: Tokens of each.
        num_samples: How often the sample is counted at once.
    """
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    example, num_tokens = examples[longest], lengths[longest]
    if text_lengths([example]) is None:
        return [CountedSamples([example] * num_samples, num_tokens)]
    is_padded = min(lengths) < num_tokens and "attention_mask" in example
    found: list[CountedSamples] = []
    for length in (num_tokens, num_tokens // 2):
        if found and length < _FEWEST_TOKENS:
            break
        short = {name: _cut(value, num_tokens, length) for name, value in example.items()}
        if task.info.kind is TaskKind.QUESTION_ANSWERING:
            short |= dict.fromkeys(task.label_keys, 0)
        last = {**short, "attention_mask": [1] * (length - 1) + [0]} if is_padded else short
        found.append(CountedSamples([short] * (num_samples - 1) + [last], length, is_padded))
    return found


def _cut(value: object, num_tokens: int, length: int) -> object:
    # The last token ends the text, and some models look for it.
    return [*value[: length - 1], value[-1]] if isinstance(value, list) and len(value) == num_tokens else value
