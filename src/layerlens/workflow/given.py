"""What the Python twins of the commands take as their config: a config, or a mapping of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from layerlens.artifacts.store import plain_faults
from layerlens.errors import ConfigError
from layerlens.words import Frozen

Config = TypeVar("Config", bound=Frozen)


def given_config(kind: type[Config], given: object, *, name: str = "config") -> Config:
    """The config that was given, checked where it is a plain mapping, as one that was read from YAML is.

    Args:
        kind: The config that is needed.
        given: One of it, or its options by name.
        name: Of the argument, for the error.

    Raises:
        ConfigError: it is neither, or an option is not what it should be; every fault is named.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}: give a {kind.__name__} or a mapping of its options, not a {type(given).__name__}")
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError.of([f"{name}: {fault}" for fault in plain_faults(error)]) from error
