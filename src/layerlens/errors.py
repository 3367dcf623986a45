"""Everything that LayerLens raises on purpose.

    LayerLensError               exit code 2, one line on stderr
    ├── ConfigError              an option is missing, out of range or contradicts another
    ├── DataError                a data set cannot be read, or does not fit the task
    ├── CheckpointError          a model folder is missing, cut short, unsafe or not finite
    ├── UnsupportedModelError    a model whose layers cannot be planned or adapted
    ├── InfeasibleBudgetError    no plan fits; says the smallest budget that would
    ├── ManifestError            an artifact is missing, edited, of another model or of another schema
    └── NotFiniteError           a loss or a statistic became NaN or infinite

A message says what, where, got against needed, and the next step. Several faults of one input are
collected and told at once, joined by semicolons (`LayerLensError.of`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TypeVar

ErrorT = TypeVar("ErrorT", bound="LayerLensError")


class LayerLensError(Exception):
    """Base of every error that a user can put right; the command line turns it into exit code 2."""

    @classmethod
    def of(cls: type[ErrorT], faults: Sequence[str]) -> ErrorT:
        """Build one error from all faults of one input, in the order found."""
        return cls("; ".join(faults))


class ConfigError(LayerLensError):
    """An option is missing, out of range or contradicts another."""


class DataError(LayerLensError):
    """A data set cannot be read, or does not fit the task."""


class CheckpointError(LayerLensError):
    """A model folder is missing, cut short, unsafe to load or holds values that are not finite."""


class UnsupportedModelError(LayerLensError):
    """The model's layers cannot be profiled, planned or adapted as asked."""


class InfeasibleBudgetError(LayerLensError):
    """No plan fits the budgets; the message names the smallest feasible ones."""


class ManifestError(LayerLensError):
    """An artifact is missing, damaged, edited so that it no longer adds up, or of another model."""


class NotFiniteError(LayerLensError):
    """A loss, gradient or statistic became NaN or infinite."""


def few(names: Sequence[str]) -> str:
    """Name three and count the rest, as a message does."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space: on the disk, in a quota, or for one file."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
