"""The models of the compression benchmark with their data: calibration and race from one file, the final test from another.

stdlib-llama   source files of the running Python's library that the model saw in training; tested on those that it never saw
stories260k    TinyStories; tested on the last quarter of the file
deit-tiny      CIFAR-10 training images; tested on its test images. The head is the model's own, of 1,000 ImageNet classes: there
               are no labels for it here, so what is measured is how far its predictions move, not whether they are right
minilm         sentences of STS-B's training pairs; tested on those of its test pairs

Calibration and race are shared out as `layerlens compress` does it, by `partition`; the test file shares nothing with them.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.dataset import LoadedData, load_dataset
from layerlens.data.partition import Partition, partition
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.processor import load_processor
from layerlens.models.streamed.load import StreamedModel, load_streamed_model
from layerlens.words import TaskKind
from layerlens.workflow.demo import demo_model

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
#: Characters of source that calibration and race draw from; the held-out files are as many.
SOURCE_CHARACTERS = 1_500_000
TEST_SHARE = 0.25


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        name: What `--models` calls it.
        folder: Its checkpoint.
        write: Writes the calibration file and the test file into a folder, and says where they are.
        settings: Fields of the config, where they differ from the command's defaults.
        test_samples: Samples of the final test.
        known: The task, where it is not to be guessed.
    """

    name: str
    folder: Callable[[], Path]
    write: Callable[[Path], tuple[Path, Path]]
    settings: dict[str, Any]
    test_samples: int
    known: TaskInfo | None = None


@dataclass(frozen=True)
class Opened:
    """A streamed model with everything that it is calibrated, raced and tested on."""

    checkpoint: Checkpoint
    model: StreamedModel
    data: LoadedData
    part: Partition
    test: LoadedData
    test_samples: list[int]


def open_subject(subject: Subject, folder: Path, config: DataConfig) -> Opened:
    """Write the data where they are not there yet, and open everything."""
    calibration, test_file = subject.write(folder)
    checkpoint = open_checkpoint(str(subject.folder()))
    data = _loaded(calibration, config, checkpoint, subject.known)
    test = _loaded(test_file, config, checkpoint, subject.known or data.task.info)
    part = partition(len(data.examples), data.splits, seed=config.seed, has_eval_data=False)
    model = load_streamed_model(checkpoint, data.task.info, seed=config.seed)
    return Opened(checkpoint, model, data, part, test, _spread(len(test.examples), subject.test_samples))


def _loaded(file: Path, config: DataConfig, checkpoint: Checkpoint, known: TaskInfo | None) -> LoadedData:
    return load_dataset(
        str(file),
        config,
        checkpoint_config=checkpoint.config,
        processor_for=lambda kind: load_processor(checkpoint, kind),
        task=known,
    )


def _spread(num: int, wanted: int) -> list[int]:
    """Evenly spaced positions, the last one (a window that may be short) left out."""
    return np.unique(np.linspace(0, max(0, num - 2), min(wanted, num)).round().astype(int)).tolist()


def _library(folder: Path) -> tuple[Path, Path]:
    """Files that the model saw, drawn in an order fixed by a seed, and those that it did not."""
    library = Path(sysconfig.get_paths()["stdlib"])
    held_out = json.loads((SHARED / "models" / "stdlib-llama" / "held_out.json").read_text(encoding="utf-8"))
    is_apart = {*held_out}
    seen = sorted(
        str(path.relative_to(library))
        for path in library.rglob("*.py")
        if "site-packages" not in path.parts and str(path.relative_to(library)) not in is_apart
    )
    order = np.random.default_rng(0).permutation(len(seen)).tolist()
    pieces, length = [], 0
    for place in order:
        pieces.append(_source(library / seen[place]))
        length += len(pieces[-1])
        if length >= SOURCE_CHARACTERS:
            break
    unseen = [_source(library / name) for name in held_out if (library / name).exists()]
    return _written(folder, "calibration.txt", "\n".join(pieces)), _written(folder, "test.txt", "\n".join(unseen))


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").replace("\x00", "")


def _stories(folder: Path) -> tuple[Path, Path]:
    text = (DATA / "tinystories" / "tinystories_train_part.txt").read_text(encoding="utf-8")
    cut = text.index("\n\n", round((1 - TEST_SHARE) * len(text)))
    return _written(folder, "calibration.txt", text[:cut]), _written(folder, "test.txt", text[cut:].lstrip())


def _images(folder: Path) -> tuple[Path, Path]:
    """Training and test images apart, so that neither file has a split of its own."""
    arrays = np.load(DATA / "cifar10" / "small.npz")
    files = folder / "calibration.npz", folder / "test.npz"
    folder.mkdir(parents=True, exist_ok=True)
    for file, split in zip(files, ("train", "test"), strict=True):
        if not file.exists():
            np.savez(file, x=arrays[f"{split}_x"], y=arrays[f"{split}_y"])
    return files


def _sentences(folder: Path) -> tuple[Path, Path]:
    lines = (DATA / "stsb" / "train.tsv").read_text(encoding="utf-8").splitlines()
    place = [lines[0].split("\t").index(name) for name in ("sentence1", "sentence2")]
    cells = [line.split("\t") for line in lines[1:]]
    tested = [sentence for first, second, _ in sts_pairs() for sentence in (first, second)]
    apart = set(tested)
    found = dict.fromkeys(row[at] for row in cells if len(row) > max(place) for at in place if row[at].strip())
    sentences = [sentence for sentence in found if sentence not in apart]
    return _written(folder, "calibration.jsonl", _rows(sentences)), _written(folder, "test.jsonl", _rows(tested))


def sts_pairs() -> list[tuple[str, str, float]]:
    """The labelled pairs of STS-B's test part: two sentences and how much alike people find them, 0 … 5."""
    lines = (DATA / "stsb" / "sts-test.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [(row[5], row[6], float(row[4])) for row in rows]


def _rows(sentences: list[str]) -> str:
    return "".join(json.dumps({"text": sentence}) + "\n" for sentence in sentences)


def _written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


def _shared(name: str) -> Callable[[], Path]:
    return lambda: SHARED / "models" / name


_CLASSES = TaskInfo(kind=TaskKind.IMAGE_CLASSIFICATION, num_labels=1000, label_names=[str(label) for label in range(1000)])

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("stdlib-llama", _shared("stdlib-llama"), _library, {}, 64),
        Subject("stories260k", _shared("stories260k"), _stories, {}, 128),
        Subject("deit-tiny", _shared("deit-tiny"), _images, {}, 96, _CLASSES),
        Subject("minilm", lambda: Path(demo_model()), _sentences, {"task": TaskKind.EMBEDDING}, 1000),
    )
}
