"""Which samples serve the head and the timing, how long samples are, and how many terms a loss has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks import build_task
from layerlens.profiling.head_samples import choose_head_samples
from layerlens.profiling.loss_terms import loss_terms
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.typical_batch import typical_batch, typical_samples
from layerlens.words import TaskKind
from tests.unit.profiling.cases import open_case


def test_the_head_is_fitted_on_samples_that_are_not_measured_where_there_are_enough() -> None:
    samples = choose_head_samples(range(1000), range(0, 1000, 2), 100, seed=0)
    assert not samples.has_overlap
    assert len(samples.train) == 100
    assert len(samples.held_out) == 20
    assert len({*samples.train, *samples.held_out}) == 120
    assert all(sample % 2 for sample in (*samples.train, *samples.held_out))


def test_too_few_free_samples_let_the_measured_ones_serve_too_and_say_so() -> None:
    samples = choose_head_samples(range(60), range(50), 40, seed=0)
    assert samples.has_overlap
    assert len(samples.train) == 40
    assert not set(samples.train) & set(samples.held_out)
    tiny = choose_head_samples(range(2), range(2), 512, seed=0)
    assert (len(tiny.train), len(tiny.held_out)) == (1, 1)


def test_a_single_head_sample_has_another_to_stop_by() -> None:
    samples = choose_head_samples(range(60), range(0), 1, seed=0)
    assert (len(samples.train), len(samples.held_out)) == (1, 1)


def test_the_choice_of_head_samples_is_seeded() -> None:
    one, again, other = (choose_head_samples(range(500), range(50), 100, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_text_is_as_long_as_its_tokens_and_images_as_their_patches(tmp_path: Path) -> None:
    text = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    assert sample_lengths(text.model, text.layout.layers, text.task, text.examples) == [
        len(example["input_ids"]) for example in text.examples
    ]
    images = open_case(tmp_path, "vit", TaskKind.IMAGE_CLASSIFICATION)
    # 16 pixels in patches of 8: four, and the class token.
    assert sample_lengths(images.model, images.layout.layers, images.task, images.examples) == [5] * 7


def test_typical_samples_are_the_closest_to_a_length_that_are_no_longer() -> None:
    assert typical_samples([1, 9, 5, 6, 4, 5], 3, 5) == [2, 4, 5]
    assert typical_samples([1, 9, 6], 2, 5, may_be_longer=True) == [0, 2]


def test_too_few_typical_samples_stand_in_a_batch_more_than_once() -> None:
    assert typical_samples([1, 9, 4, 8], 5, 5) == [0, 0, 2, 2, 2]


def typical_shape(lengths: list[int], max_length: int | None, **options: Any) -> tuple[int, ...]:
    task = build_task(
        TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=2, max_length=max_length), SimpleNamespace(pad_token_id=0)
    )
    examples = [{"input_ids": [7] * length, "attention_mask": [1] * length, "labels": 0} for length in lengths]
    return tuple(typical_batch(task, examples, lengths, **options)["attention_mask"].shape)


@pytest.mark.parametrize(("max_tokens", "num"), [(None, 4), (50, 1), (80, 2), (10, 1)])
def test_the_typical_batch_is_padded_as_training_pads(max_tokens: int | None, num: int) -> None:
    lengths = [*[30] * 8, 32, 20]
    assert typical_shape(lengths, 40, num_samples=10, batch_size=4, max_tokens=max_tokens) == (num, 32)


def test_a_few_samples_of_many_lengths_are_not_padded_beyond_the_typical_one() -> None:
    lengths = list(range(10, 200, 12))
    seen_whole = typical_shape(lengths, 512, num_samples=16, batch_size=16)
    of_many = typical_shape(lengths, 512, num_samples=10_000, batch_size=16)
    assert seen_whole == (16, 192), "a batch of all samples is as long as the longest, on to sixteen"
    assert of_many[0] == 16
    assert of_many[1] == pytest.approx(np.mean(lengths) + 12, abs=8)


def test_a_cap_leaves_no_room_for_padding_on() -> None:
    lengths = [17, 18, 17, 18]
    assert typical_shape(lengths, 64, num_samples=4, batch_size=4) == (4, 32)
    assert typical_shape(lengths, 64, num_samples=4, batch_size=4, max_tokens=18) == (1, 18)


def test_where_no_length_is_known_the_nearest_samples_are_typical() -> None:
    assert typical_shape([*[10] * 4, *[384] * 36], None, num_samples=40, batch_size=4) == (4, 384)


@pytest.mark.parametrize(
    ("kind", "batch", "expected"),
    [
        (TaskKind.CAUSAL_LM, {"labels": torch.tensor([[5, 6, 7], [5, 6, -100], [5, -100, -100]])}, [2.0, 1.0, 1.0]),
        (TaskKind.QUESTION_ANSWERING, {"start_positions": torch.tensor([1, 2])}, [2.0, 2.0]),
        (TaskKind.CLASSIFICATION, {"labels": torch.tensor([0, 1])}, [1.0, 1.0]),
        (TaskKind.REGRESSION, {"labels": torch.tensor([0.5])}, [1.0]),
    ],
)
def test_a_loss_is_the_mean_of_as_many_terms_as_it_predicts(
    kind: TaskKind, batch: dict[str, torch.Tensor], expected: list[float]
) -> None:
    assert loss_terms(kind, batch).tolist() == expected
