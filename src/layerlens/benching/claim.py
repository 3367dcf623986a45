"""A suite's folder belongs to one suite: another config is refused there, and the refusal says what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerlens.artifacts.differences import differing_paths, flat, told
from layerlens.artifacts.store import RUN_FILE, claim_folder, read_claim, write_json
from layerlens.config.bench import BenchRates, BenchSuite, RateKind
from layerlens.errors import ConfigError

#: What `--extend` lets grow or shrink.
_LISTS = ("arms", "seeds")
_GRIDS = tuple(f"learning_rates.{kind.value}" for kind in RateKind)
_TABLES = ("models", "tasks")


def suite_identity(suite: BenchSuite) -> dict[str, Any]:
    """Everything that a suite's results depend on, by dotted path; what is at its default is left out.

    A later version's new options then change nothing, as long as they are not used.
    """
    content = suite.model_dump(mode="json", exclude_defaults=True, exclude={"description", "report_to", "name"})
    return {"command": "bench", "suite": suite.name, **flat(content)}


def claim_suite_folder(folder: Path, suite: BenchSuite, *, may_extend: bool) -> None:
    """Make the folder this suite's own, or find that it is.

    Args:
        folder: Of the suite's results.
        suite: With its places filled in.
        may_extend: Whether models, tasks, arms, seeds and learning rates may come or go, what both have being the same.

    Raises:
        ConfigError: the folder is another suite's, or no suite's at all; says what differs.
    """
    identity = suite_identity(suite)
    marker = folder / RUN_FILE
    found = read_claim(folder)
    if found is None or found.get("command") != "bench":
        claim_folder(folder, identity)
        return
    differing = differing_paths(found, identity)
    grown = [name for name in differing if _is_growth(name, found, identity)]
    kept = [name for name in differing if not (may_extend and name in grown)]
    if kept:
        way = "; --extend true lets a suite grow" if kept == grown else ""
        shown = told(found, identity, kept)
        raise ConfigError(f"{folder} holds results of another config: {shown}; choose another --out or remove it{way}")
    if differing:
        write_json(marker, identity)


def _is_growth(name: str, found: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether a key differs because something was added or left out, and not because it was changed.

    The first seed is what rates were tuned and plans were raced from, so it stays. Where a grid of rates gains the best one, what
    was done at another rate is done again, since a record is of its whole job.
    """
    if name == "seeds":
        return bool(found.get(name, [None])[0] == identity.get(name, [None])[0])
    if name in _LISTS:
        return True
    if name in _GRIDS:
        usual = BenchRates().grid(RateKind(name.partition(".")[2]))
        before, after = ({*map(float, keys.get(name, usual))} for keys in (found, identity))
        return before <= after or after <= before
    table, _, rest = name.partition(".")
    if table not in _TABLES:
        return False
    entry = f"{table}.{rest.partition('.')[0]}."
    return not all(any(key.startswith(entry) for key in keys) for keys in (found, identity))
