"""One batch that stands for all: what is timed and whose activations are counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def typical_samples(lengths: Sequence[int], batch_size: int) -> list[int]:
    """The `batch_size` samples whose lengths are closest to the mean, in calibration order."""
    mean = float(np.mean(lengths))
    nearest = sorted(range(len(lengths)), key=lambda sample: (abs(lengths[sample] - mean), sample))
    return sorted(nearest[:batch_size])
