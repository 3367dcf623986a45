"""What DATA names: a built-in set, a file, a folder or a hub data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from layerlens.config import DataConfig
from layerlens.data.sources.arrays import read_arrays
from layerlens.data.sources.delimited import is_tab_table, read_delimited
from layerlens.data.sources.hub import HUB_NAME, SAVED_SPLITS, hub_splits, read_hub, read_saved, saved_splits
from layerlens.data.sources.image_folder import read_image_folder
from layerlens.data.sources.json_rows import read_json, read_json_lines
from layerlens.data.sources.parquet import read_parquet
from layerlens.data.sources.stdlib_docs import NAME as STDLIB_DOCS
from layerlens.data.sources.stdlib_docs import read_stdlib_docs
from layerlens.data.sources.text import read_plain_text
from layerlens.data.table import Table
from layerlens.errors import DataError

BUILT_IN: dict[str, Callable[[], Table]] = {STDLIB_DOCS: read_stdlib_docs}
READERS: dict[str, Callable[[Path], Table]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".npz": read_arrays,
    ".parquet": read_parquet,
}
TEST_SPLIT = "test"
FILE_SUFFIXES = frozenset({*READERS, ".csv", ".tsv", ".txt"})


def open_source(data: str, config: DataConfig) -> Table:
    """Read the source that `data` names.

    A built-in name comes first, then a file or folder, then the hub. A file's kind is told by its ending; any other
    file is plain text, unless its first line is a header of well-known, tab-separated names.

    Raises:
        DataError: nothing is called so, or it cannot be read.
    """
    if data in BUILT_IN:
        return BUILT_IN[data]()
    path = Path(data).expanduser()
    if path.is_dir():
        is_saved = (path / SAVED_SPLITS).exists() or (path / "state.json").exists()
        return read_saved(path, config.split) if is_saved else read_image_folder(path)
    if path.exists():
        return _read_file(path, config)
    known = f"built-in data: {', '.join(sorted(BUILT_IN))}"
    if path.suffix.lower() in FILE_SUFFIXES or HUB_NAME.fullmatch(data) is None:
        raise DataError(
            f"{data}: no such file or folder; give a file, a folder of images, a hub data set or a built-in name ({known})"
        )
    try:
        return read_hub(data, config.split)
    except DataError as error:
        raise DataError(f"{error} ({known})") from error


def has_split_to_choose(data: str) -> bool:
    """Whether `split` says which part of a source is read: of a hub data set, or of several that were saved together."""
    path = Path(data).expanduser()
    return data not in BUILT_IN and (not path.exists() or (path / SAVED_SPLITS).exists())


def has_test_split(data: str) -> bool:
    """Whether a source of which a split is chosen has one called test; no where that cannot be told."""
    if not has_split_to_choose(data):
        return False
    folder = Path(data).expanduser()
    return TEST_SPLIT in (saved_splits(folder) if folder.exists() else hub_splits(data))


def _read_file(path: Path, config: DataConfig) -> Table:
    suffix = path.suffix.lower()
    if suffix in READERS:
        return READERS[suffix](path)
    if suffix in (".csv", ".tsv") or is_tab_table(path):
        wanted = [*(config.text_columns or []), *([config.label_column] if config.label_column else [])]
        return read_delimited(path, wanted)
    return read_plain_text(path)
