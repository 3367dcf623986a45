"""A run's options held against those of its record, which an older version may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerlens.config.training import ONCE


def without_newer(options: Mapping[str, Any], recorded: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a record has or would have: one that came later mostly does by default what was done without it.

    Args:
        options: Of the run at hand.
        recorded: Of the record.
        usual: What the options are by default.
    """
    done = {**usual, **ONCE}
    return {name: value for name, value in options.items() if name in recorded or value != done.get(name)}
