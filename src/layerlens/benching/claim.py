"""A suite's folder belongs to one suite on one state of its data: all else is refused there, and told what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerlens.artifacts.differences import differing_paths, flat, told
from layerlens.artifacts.store import RUN_FILE, claim_folder, read_claim, working_alone, write_json
from layerlens.benching.contents import contents_of, keep_contents, known_contents
from layerlens.config.bench import BenchRates, BenchSuite, RateKind
from layerlens.config.training import ONCE
from layerlens.errors import ConfigError

#: What `--extend` lets grow or shrink.
_LISTS = ("arms", "seeds")
_GRIDS = tuple(f"learning_rates.{kind.value}" for kind in RateKind)
_TABLES = ("models", "tasks")
#: Key of `run.json` under which the contents of the data stand; folders of older versions lack it.
_CONTENTS = "contents"


def suite_identity(suite: BenchSuite) -> dict[str, Any]:
    """Everything that a suite's results depend on, by dotted path; what is at its default is left out, but for `ONCE`.

    A later version's new options then change nothing, as long as they are not used.
    """
    content = suite.model_dump(mode="json", exclude_defaults=True, exclude={"description", "report_to", "name"})
    always = {f"training.{name}": getattr(suite.training, name) for name in ONCE}
    return {"command": "bench", "suite": suite.name, **flat(content), **always}


def claim_suite_folder(folder: Path, suite: BenchSuite, *, may_extend: bool) -> None:
    """Make the folder this suite's own, or find that it is.

    Args:
        folder: Of the suite's results.
        suite: With its places filled in.
        may_extend: Whether models, tasks, arms, seeds and learning rates may come or go, what both have being the same.

    Raises:
        ConfigError: the folder is another suite's, or no suite's at all, or its runs were made on other data; says what differs.
            Another process works there.
    """
    known = known_contents(folder)
    stamped = contents_of(suite, known)
    _claim(folder, suite_identity(suite), {source: found["content"] for source, found in stamped.items()}, may_extend=may_extend)
    # Only now is the folder known to be this suite's.
    keep_contents(folder, stamped, known)


def _claim(folder: Path, identity: dict[str, Any], contents: dict[str, str], *, may_extend: bool) -> None:
    found = read_claim(folder)
    if found is None or found.get("command") != "bench":
        claim_folder(folder, identity | {_CONTENTS: contents})
        return
    found = {f"training.{name}": value for name, value in ONCE.items()} | found
    # Tasks that have left the suite keep their entry: their runs lie there still, and count again when they come back.
    known = found.pop(_CONTENTS, {})
    differing = differing_paths(found, identity)
    grown = [name for name in differing if _is_growth(name, found, identity)]
    kept = [name for name in differing if not (may_extend and name in grown)]
    faults = [f"another config: {told(found, identity, kept)}"] if kept else []
    if changed := [source for source, content in contents.items() if known.get(source, content) != content]:
        faults.append(f"other data: {', '.join(changed)} changed since")
    if faults:
        way = "; --extend true lets a suite grow" if kept == grown and not changed else ""
        raise ConfigError(f"{folder} holds results of {' and of '.join(faults)}; choose another --out or remove it{way}")
    if differing or not contents.keys() <= known.keys():
        # Who works here has read the claim that lies there now, and would not notice another in its place.
        with working_alone(folder):
            write_json(folder / RUN_FILE, identity | {_CONTENTS: known | contents})


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
    table, entry, option = _place(name)
    if table not in _TABLES:
        return False
    is_in_both = all(any(_place(key)[:2] == (table, entry) for key in keys) for keys in (found, identity))
    return not is_in_both or (table, option) == ("models", "tasks")


def _place(name: str) -> tuple[str, str, str]:
    """Table, entry and option of a dotted path; an entry's name may hold dots, its options hold no more mappings."""
    table, _, rest = name.partition(".")
    entry, _, option = rest.rpartition(".")
    return table, entry, option
