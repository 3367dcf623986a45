"""A hub data set, or a folder saved by `datasets`, through the package `datasets` (extra `data`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from layerlens.data.columns import QUESTION_NAMES
from layerlens.data.sources.extras import need
from layerlens.data.sources.pictures import as_rgb
from layerlens.data.table import Form, LazyColumn, Table
from layerlens.errors import DataError

HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<config>\w[\w.-]*))?")
DEFAULT_SPLIT = "train"
#: What `datasets` leaves in a folder of several splits.
SAVED_SPLITS = "dataset_dict.json"


def read_hub(data: str, split: str | None) -> Table:
    """Read one split (train if None) of `name` or `name:config`.

    Raises:
        DataError: `datasets` is not installed, or the hub has no such data set, config or split, or is out of reach.
    """
    match = HUB_NAME.fullmatch(data)
    if match is None:
        raise DataError(f"{data!r} is neither a file nor a folder nor the name of a hub data set (name or name:config)")
    need("datasets", "data", f"{data!r} is no file or folder, so it could be a hub data set")
    import datasets

    try:
        rows = datasets.load_dataset(match["name"], match["config"], split=split or DEFAULT_SPLIT)
    except Exception as error:
        # The package raises its own, the hub client's, the network's and plain ValueErrors alike.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise DataError(f"no file, folder or built-in data set is called {data!r}, and the hub gives none: {reason}") from error
    return table_of(data, rows)


def read_saved(folder: Path, split: str | None) -> Table:
    """Read a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        DataError: `datasets` is not installed, or the folder is damaged or lacks the split.
    """
    need("datasets", "data", f"{folder} was saved by datasets")
    import datasets

    try:
        rows = datasets.load_from_disk(str(folder))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise DataError(f"cannot read {folder} as a saved data set: {reason}") from error
    if isinstance(rows, datasets.DatasetDict):
        if (wanted := split or DEFAULT_SPLIT) not in rows:
            raise DataError(f"{folder} has no split {wanted!r}; give --split, one of {', '.join(map(str, rows))}")
        rows = rows[wanted]
    return table_of(str(folder), rows)


def hub_splits(data: str) -> list[str]:
    """Names of the splits that `name` or `name:config` has on the hub; none where that cannot be told."""
    match = HUB_NAME.fullmatch(data)
    try:
        import datasets

        return [] if match is None else list(datasets.get_dataset_split_names(match["name"], match["config"]))
    except Exception:
        # As in `read_hub`, which says what is wrong.
        return []


def saved_splits(folder: Path) -> list[str]:
    """Names of the splits that `DatasetDict.save_to_disk` wrote; none where that cannot be told."""
    try:
        return list(json.loads((folder / SAVED_SPLITS).read_text(encoding="utf-8"))["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def table_of(where: str, rows: Any) -> Table:
    """Wrap a `datasets.Dataset`; a column of images and the names of a class label are recognised by its features."""
    from datasets import ClassLabel, Image

    if len(rows) == 0:
        raise DataError(f"{where} has columns ({', '.join(rows.column_names)}) but no rows")
    images = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    classes = {name: feature for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
    columns: dict[str, Any] = {name: rows[name] for name in rows.column_names if name not in images}
    for name in images[:1]:
        need("PIL", "images", f"{where} holds images")
        # `datasets` names every state of a data set by its fingerprint; reading each image would take longer than some runs.
        columns[name] = LazyColumn(
            lambda row, name=name: as_rgb(f"{where}, row {row + 1}", lambda: _picture(rows, name, row)),
            len(rows),
            lambda row: f"{rows._fingerprint}\0{row}".encode(),
        )
    is_questions = all(name in columns for name in QUESTION_NAMES)
    label = next(iter(classes)) if len(classes) == 1 else None
    return Table(
        where=where,
        columns=columns,
        form=Form.IMAGES if images else Form.SQUAD if is_questions else Form.TABLE,
        text_columns=tuple(images[:1]),
        label_column=label,
        class_names={name: tuple(feature.names) for name, feature in classes.items()},
    )


def _picture(rows: Any, name: str, row: int) -> Any:
    picture = rows[row][name]
    if picture is None:
        raise ValueError("there is none")
    return picture
