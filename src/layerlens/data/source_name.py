"""Which data set a name means: two paths of one file or folder are one set's."""

from __future__ import annotations

from pathlib import Path


def whole_name(data: str) -> str:
    """What a data set is called from any folder: the whole path of a file or a folder, any other name as it is."""
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def is_same_source(first: str, second: str) -> bool:
    """Whether two names of data sets are one set's: the same name, or two paths of one file or folder."""
    paths = [Path(name).expanduser() for name in (first, second)]
    return first == second or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))
