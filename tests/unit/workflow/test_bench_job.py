"""What a job of a suite tests on: nothing that was trained on, whatever the source is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from layerlens.benching.job import Job, JobKind
from layerlens.config import ProfilingConfig
from layerlens.data.partition import Partition, partition
from layerlens.errors import DataError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.workflow import bench_job
from layerlens.workflow.open import open_data
from tests.functional.conftest import write_table
from tests.tiny_models import save_tiny


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"eval_data": "data.csv"}, r"data\.csv holds the very samples of .*data\.csv that are trained on; give other"),
        ({"eval_data": "copy.csv"}, r"copy\.csv holds the very samples of .*data\.csv that are trained on; give other"),
        ({"eval_split": "test"}, r"eval_split test: .*data\.csv is read whole"),
        ({"eval_data": "copy.csv", "eval_split": "test"}, r"eval_split test: .*copy\.csv is read whole"),
    ],
)
def test_samples_that_are_trained_on_test_nothing_and_end_the_cell_at_its_profile(
    places: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("bert", tmp_path / "model")
    write_table(tmp_path / "data.csv", rows=40)
    shutil.copy(tmp_path / "data.csv", tmp_path / "copy.csv")
    monkeypatch.setattr(bench_job, "profile", lambda *args, **options: pytest.fail("profiled"))
    places = {key: value if key == "eval_split" else str(tmp_path / value) for key, value in places.items()}
    model, data = str(tmp_path / "model"), str(tmp_path / "data.csv")
    job = Job(name="p", kind=JobKind.PROFILE, out="p", model=model, data=data, config={"max_length": 16}, **places)
    with pytest.raises(DataError, match=words):
        bench_job.do_job(tmp_path, job)


def test_of_a_source_with_a_test_split_only_that_is_tested_on(tmp_path: Path) -> None:
    save_tiny("vit", tmp_path / "model")
    generator, parts = np.random.default_rng(0), {"train": 20, "validation": 6, "test": 9}
    images = {f"{name}_x": generator.integers(0, 255, (num, 16, 16, 3), dtype=np.uint8) for name, num in parts.items()}
    np.savez(tmp_path / "img.npz", **images, **{f"{name}_y": np.arange(num) % 3 for name, num in parts.items()})
    model, source = str(tmp_path / "model"), str(tmp_path / "img.npz")
    job = Job(name="r", kind=JobKind.RUN, out="r", model=model, data=source, eval_data=source, config={})
    data = open_data(open_checkpoint(model), source, ProfilingConfig())
    part = partition(len(data.examples), data.splits, seed=0, has_eval_data=True)
    tested, numbers = bench_job._test_samples(data, part, job, ProfilingConfig())
    assert list(numbers) == list(range(26, 35))
    assert not {*numbers} & {*part.train, *part.race}
    assert tested.id == source


def test_of_saved_splits_the_test_split_is_tested_on_whatever_split_is_trained_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    save_tiny("bert", tmp_path / "model")
    rows = {
        name: datasets.Dataset.from_dict(
            {"text": [f"{name} w{row}" for row in range(num)], "label": [row % 2 for row in range(num)]}
        )
        for name, num in (("train", 40), ("validation", 12), ("test", 9))
    }
    source = str(tmp_path / "saved")
    datasets.DatasetDict(rows).save_to_disk(source)
    config = ProfilingConfig(max_length=16, split="train")
    data = open_data(open_checkpoint(str(tmp_path / "model")), source, config)
    for places, num in (({"eval_data": source}, 9), ({"eval_data": source, "eval_split": "validation"}, 12)):
        job = Job(name="r", kind=JobKind.RUN, out="r", model=str(tmp_path / "model"), data=source, config={}, **places)
        tested, numbers = bench_job._test_samples(data, Partition(tuple(range(40)), (), ()), job, config)
        assert len(numbers) == len(tested.examples) == num
