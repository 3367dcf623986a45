"""What two descriptions of runs differ in, in words: a refusal to mix them says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerlens.config.training import ONCE

#: Differences that are named at most, and letters of a value.
_SHOWN, _LETTERS = 5, 60


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted path; empty ones are values."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differing_paths(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Dotted paths at which two descriptions differ, sorted."""
    theirs, ours = flat(found), flat(wanted)
    return [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]


def told(found: Mapping[str, Any], wanted: Mapping[str, Any], paths: list[str] | None = None) -> str:
    """`learning_rate was 0.01, now 0.001`, for the first few of some paths, or of all that differ; empty without any."""
    theirs, ours = flat(found), flat(wanted)
    paths = differing_paths(found, wanted) if paths is None else paths
    shown = [f"{name} was {_shown(_once(theirs, name))}, now {_shown(ours.get(name))}" for name in paths[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")


def _once(theirs: Mapping[str, Any], name: str) -> Any:
    """A value of a description; of an option that is younger than it, what was done before there was one."""
    return theirs[name] if name in theirs else ONCE.get(name.rpartition(".")[2])


def _shown(value: Any) -> str:
    if value is None:
        return "the default"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"
