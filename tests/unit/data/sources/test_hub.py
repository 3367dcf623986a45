"""No test reaches the network: the hub's loader is replaced, or told that it is offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerlens.data.sources import extras
from layerlens.data.sources.hub import HUB_NAME, read_hub, read_saved, table_of
from layerlens.data.table import Form
from layerlens.errors import DataError

datasets = pytest.importorskip("datasets")


def _dataset() -> Any:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    return datasets.Dataset.from_dict({"text": ["a b", "c d"], "label": [1, 0]}, features=features)


def test_the_name_the_config_and_the_split_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        calls.append((name, config, split))
        return _dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read_hub("glue:sst2", None)
    table = read_hub("owner/name", "validation")
    assert calls == [("glue", "sst2", "train"), ("owner/name", None, "validation")]
    assert list(table.columns["text"]) == ["a b", "c d"]
    assert table.label_column == "label"
    assert table.class_names == {"label": ("neg", "pos")}


def test_images_are_made_on_access() -> None:
    from PIL import Image

    pixels = np.full((3, 4, 3), 7, dtype=np.uint8)
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"img": [Image.fromarray(pixels)] * 2, "fine": [0, 1]}, features=features)
    table = table_of("hub", rows)
    assert table.form is Form.IMAGES
    assert table.text_columns == ("img",)
    np.testing.assert_array_equal(np.asarray(table.columns["img"][1]), pixels)


def test_a_row_without_its_image_is_named() -> None:
    from PIL import Image

    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b"])})
    rows = datasets.Dataset.from_dict({"img": [Image.new("RGB", (4, 3)), None], "fine": [0, 1]}, features=features)
    with pytest.raises(DataError, match="cannot read hub, row 2 as an image: there is none"):
        table_of("hub", rows).columns["img"][1]


def test_questions_are_recognised() -> None:
    answers = [{"text": ["b"], "answer_start": [2]}]
    rows = datasets.Dataset.from_dict({"question": ["q"], "context": ["a b"], "answers": answers})
    assert table_of("hub", rows).form is Form.SQUAD


def test_two_class_columns_leave_the_choice_to_the_names() -> None:
    feature = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"text": datasets.Value("string"), "label": feature, "topic": feature})
    table = table_of("hub", datasets.Dataset.from_dict({"text": ["x"], "label": [0], "topic": [1]}, features=features))
    assert table.label_column is None
    assert set(table.class_names) == {"label", "topic"}


def test_a_data_set_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="but no rows"):
        table_of("hub", _dataset().select([]))


def test_a_saved_data_set_is_read_with_its_split(tmp_path: Path) -> None:
    _dataset().save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": _dataset(), "test": _dataset().select([1])}).save_to_disk(tmp_path / "two")
    assert read_saved(tmp_path / "one", None).num_rows == 2
    assert list(read_saved(tmp_path / "two", "test").columns["text"]) == ["c d"]
    with pytest.raises(DataError, match=r"two has no split 'dev'; give --split, one of train, test"):
        read_saved(tmp_path / "two", "dev")


def test_what_the_hub_cannot_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **options: Any) -> Any:
        raise ConnectionError("out of reach\nwith a long\ntraceback")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"'no-such-set', and the hub gives none: out of reach$"):
        read_hub("no-such-set", None)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'needs datasets; install it with: pip install "layerlens-plan\[data\]"'):
        read_hub("owner/name", None)


@pytest.mark.parametrize("name", ["glue", "glue:sst2", "owner/na.me_1", "owner/name:config-1"])
def test_hub_names_are_told(name: str) -> None:
    assert HUB_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["a/b/c", "/abs/path", "with space", "a:b:c", "", "~/x"])
def test_paths_are_no_hub_names(name: str) -> None:
    assert not HUB_NAME.fullmatch(name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_hub(name, None)
