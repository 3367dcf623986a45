"""Batches of similar length, a quarter held out, and which tokens count for what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.compressing.calibration_samples import CalibrationSamples, Tokens, calibration_batches, num_predictions
from layerlens.errors import DataError
from layerlens.words import TaskKind
from tests.unit.compressing.calibrations import calibrated


@pytest.mark.parametrize("count", [2, 3, 4, 7, 41])
def test_every_sample_is_in_one_batch_and_a_quarter_is_held_out(count: int) -> None:
    lengths = np.random.default_rng(count).integers(3, 20, count).tolist()
    batches = calibration_batches(lengths, batch_size=6, seed=0)
    assert sorted(sample for batch in batches for sample in batch.samples) == list(range(count))
    held = sum(sum(batch.is_held) for batch in batches)
    assert held == max(1, count // 4)
    ordered = [lengths[sample] for batch in batches for sample in batch.samples]
    assert ordered == sorted(ordered)
    assert len({batch.seed for batch in batches}) == len(batches)


def test_real_tokens_are_split_by_their_sample() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    tokens = Tokens(mask, torch.tensor([False, True, False]), (0, 0))
    values = torch.arange(9.0).view(3, 3, 1)
    fitted, held = tokens.split(values)
    assert fitted.flatten().tolist() == [0, 1, 6]
    assert held.flatten().tolist() == [3, 4, 5]
    # A pooled value of each sample has no padding.
    fitted, held = tokens.split(values[:, :1])
    assert fitted.flatten().tolist() == [0, 6]
    assert held.flatten().tolist() == [3]


def test_predictions_are_counted_as_the_loss_takes_its_mean() -> None:
    labels = torch.tensor([[5, 6, 7, -100], [5, 6, 7, 8]])
    assert num_predictions(TaskKind.CAUSAL_LM, {"labels": labels}).tolist() == [2, 3]
    assert num_predictions(TaskKind.CLASSIFICATION, {"labels": labels[:, 0]}).tolist() == [1, 1]
    assert num_predictions(TaskKind.QUESTION_ANSWERING, {"start_positions": labels[:, 0]}).tolist() == [2, 2]


def test_one_sample_is_too_few(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "bert", num_samples=3)
    with pytest.raises(DataError, match="leaves 1 samples to calibrate on, 2 or more are needed"):
        CalibrationSamples(case.streamed(), case.data, [0], batch_size=4, seed=0)
