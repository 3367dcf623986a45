"""What a suite's data hold: runs on a file that has changed since do not stand beside runs on what it was."""

from __future__ import annotations

import platform
from pathlib import Path

from layerlens.artifacts.store import sha256_of_file, sha256_of_json
from layerlens.config.bench import BenchSuite
from layerlens.data.sources.stdlib_docs import NAME as STDLIB_DOCS


def contents_of(suite: BenchSuite) -> dict[str, str]:
    """What stands for the contents of every data source, by the name that jobs know it by.

    Files and folders are hashed whole, whatever a task reads of them: that needs neither a model nor its tokenizer. A hub data
    set is known by its name alone and has no entry, nor has what cannot be read: the job that reads it says why.

    Args:
        suite: With its places filled in.
    """
    sources = dict.fromkeys(source for task in suite.tasks.values() for source in (task.data, task.eval_data) if source)
    found = {source: _content(source) for source in sources}
    return {source: content for source, content in found.items() if content is not None}


def _content(source: str) -> str | None:
    if source == STDLIB_DOCS:
        return f"Python {platform.python_version()}"  # which decides its rows
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            files = sorted(found for found in path.rglob("*") if found.is_file())
            return sha256_of_json({found.relative_to(path).as_posix(): sha256_of_file(found) for found in files})
        return sha256_of_file(path) if path.is_file() else None
    except OSError:
        return None
