"""Whether data are those that an adapter was tuned on, be they moved, copied or changed since.

The record of a run knows its training samples by what they are encoded from. Images are known by their files' places and times,
which say nothing of a copy.
"""

from __future__ import annotations

import json
from typing import Any

from layerlens.adapting.finetune import ARM_FILE
from layerlens.adapting.load import AdapterFolder
from layerlens.adapting.samples import SOURCE, Samples, choose
from layerlens.adapting.save import TrainedFor
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import partition
from layerlens.errors import DataError
from layerlens.words import TaskKind


def holds_what_trained(data: LoadedData, adapter: AdapterFolder, told: TrainedFor) -> bool | None:
    """Whether data give the very samples that the record beside an adapter knows; none where that cannot be told.

    Args:
        data: Read for the adapter's task.
        adapter: Where it is.
        told: How its samples were shared out.
    """
    try:
        run = json.loads((adapter.folder.parent / ARM_FILE).read_text(encoding="utf-8"))["run"]
        source, config = run["training"][SOURCE], run["config"]
        is_read_alike = _is_read_alike(data, told, config)
        samples = _training_samples(data, told, config)
        # The run's length, where it was not asked for, is the plan's.
        lengths = {told.task.max_length, config["max_length"], data.task.info.max_length}
    except DataError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_same = any(source == samples.source(length) for length in lengths)
    return is_same if is_same or is_read_alike else None


def _is_read_alike(data: LoadedData, told: TrainedFor, config: dict[str, Any]) -> bool:
    """Whether these data, were they the run's, would give its samples: from the same columns, cut in the same way."""
    found, trained = data.task.info, told.task
    if found.kind is TaskKind.IMAGE_CLASSIFICATION:
        return False
    if found.kind is TaskKind.CAUSAL_LM and found.max_length != trained.max_length:
        return False
    columns = config["text_columns"] or trained.text_columns, config["label_column"] or trained.label_column
    return columns == (found.text_columns, found.label_column)


def _training_samples(data: LoadedData, told: TrainedFor, config: dict[str, Any]) -> Samples:
    """The samples that would train, were these the run's data.

    Raises:
        DataError: there are too few.
    """
    part = partition(len(data.examples), data.splits, seed=told.split_seed, has_eval_data=not told.keeps_test)
    return Samples(data, choose(part.train, config["max_train_samples"], seed=config["seed"]))
