"""What a suite's data hold: runs on a file that has changed since do not stand beside runs on what it was.

`contents.json` in the suite's folder keeps each source's hash with the sizes and times of its files, so that a call that finds
these as they were reads none of them again.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerlens.artifacts.store import sha256_of_file, sha256_of_json, write_json
from layerlens.config.bench import BenchSuite
from layerlens.data.sources.stdlib_docs import NAME as STDLIB_DOCS

#: In the suite's folder.
CONTENTS_FILE = "contents.json"
#: A file that was written so short a time ago may be written again without its time telling.
_SETTLED_NS = 2_000_000_000


def contents_of(suite: BenchSuite, known: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What stands for the contents of every data source, by the name that jobs know it by.

    Files and folders are hashed whole, whatever a task reads of them: that needs neither a model nor its tokenizer. A hub data
    set is known by its name alone and has no entry, nor has what cannot be read: the job that reads it says why.

    Args:
        suite: With its places filled in.
        known: What an earlier call has kept.

    Returns:
        Of each source `content` and, where files can be told to be the same without reading them, the `stamp` that does.
    """
    sources = dict.fromkeys(source for task in suite.tasks.values() for source in (task.data, task.eval_data) if source)
    found = {source: _content(source, known.get(source)) for source in sources}
    return {source: content for source, content in found.items() if content is not None}


def keep_contents(folder: Path, contents: Mapping[str, Mapping[str, str]], known: Mapping[str, Any]) -> None:
    """Keep what was found beside what was known, for the next call, where that is more."""
    kept = {**known, **{source: dict(found) for source, found in contents.items() if "stamp" in found}}
    if kept != known:
        write_json(folder / CONTENTS_FILE, kept)


def _content(source: str, known: Any) -> dict[str, str] | None:
    if source == STDLIB_DOCS:
        return {"content": f"Python {platform.python_version()}"}  # which decides its rows
    path = Path(source).expanduser()
    try:
        if not path.exists():
            return None
        files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        stamp = _stamp(path, files)
        if stamp is not None and isinstance(known, dict) and known.get("stamp") == stamp and known.get("content"):
            return {"content": str(known["content"]), "stamp": stamp}
        return {"content": _hash(path, files), **({} if stamp is None else {"stamp": stamp})}
    except OSError:
        return None


def _hash(path: Path, files: list[Path]) -> str:
    if not path.is_dir():
        return sha256_of_file(path)
    return sha256_of_json({found.relative_to(path).as_posix(): sha256_of_file(found) for found in files})


def _stamp(path: Path, files: list[Path]) -> str | None:
    """Names, sizes and times of the files; None where one is so new that these do not tell it from what it may yet become."""
    stats = {found.relative_to(path).as_posix(): found.stat() for found in files}
    newest = max((max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats.values()), default=0)
    if newest > time.time_ns() - _SETTLED_NS:
        return None
    return sha256_of_json({name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()})


def known_contents(folder: Path) -> dict[str, Any]:
    """What an earlier call has kept in the suite's folder; nothing where it cannot be read."""
    try:
        found = json.loads((folder / CONTENTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
