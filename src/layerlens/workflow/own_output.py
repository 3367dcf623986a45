"""What a command may write over: what it has written there before. Any other file is somebody's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from layerlens.artifacts.store import read_json
from layerlens.errors import ConfigError, ManifestError

#: A page says who made it near its top.
_TITLE, _TITLE_WITHIN = "<title>LayerLens · ", 4096


def refuse_foreign(path: Path, is_own: Callable[[Path], bool], usual: str) -> None:
    """See that a file may be written, before anything is computed for it.

    Args:
        path: The file.
        is_own: Whether a file that is there is of the same command, and so may be replaced.
        usual: What the file is called as a rule.

    Raises:
        ConfigError: it is a folder, or holds something else.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file to write, such as {path / usual}")
    if path.exists() and not is_own(path):
        raise ConfigError(f"{path} is there, and is not what this command writes; choose another --out, or move it away")


def holds(path: Path, kind: type[BaseModel]) -> bool:
    """Whether a file is a whole artifact of a kind."""
    try:
        read_json(path, kind)
    except ManifestError:
        return False
    return True


def is_page(path: Path) -> bool:
    """Whether a file is a page of LayerLens."""
    with path.open(encoding="utf-8", errors="replace") as page:
        return _TITLE in page.read(_TITLE_WITHIN)
