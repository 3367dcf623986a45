"""Trackers that the Trainer reports to: that one is not to be had is told before anything is prepared."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.integrations import get_reporting_integration_callbacks

from layerlens.errors import ConfigError

#: What the Trainer itself takes alone in a list: whatever is installed, or nothing.
_WHATEVER = (["all"], ["none"])


def check_trackers(names: Sequence[str]) -> None:
    """See that every tracker is known to transformers, and installed.

    Raises:
        ConfigError: one is not.
    """
    if list(names) in _WHATEVER:
        return
    try:
        for callback in get_reporting_integration_callbacks(list(names)):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"report_to: cannot report to {', '.join(names)} ({error}); install it, e.g. with the extra `track`"
        ) from error
