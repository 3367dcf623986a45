"""Another target into the same folder: the old result makes way whole, and nothing goes with it that is somebody's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layerlens.artifacts.compression import load_compression_plan
from layerlens.artifacts.store import write_json
from layerlens.compressing import tensor_files
from layerlens.errors import ConfigError, InfeasibleBudgetError
from layerlens.workflow import compress as compress_file
from layerlens.workflow import compress_curves
from layerlens.workflow.report import report
from tests.unit.reporting.compression import artifacts
from tests.unit.workflow.compressions import Place, digest, tensor_bytes, write_text


@pytest.fixture
def out(first: Path, measured: Path) -> Path:
    """A compressed folder with its curves beside it."""
    shutil.copytree(first, measured)
    return measured


@pytest.fixture
def source(small_llama: Place, tmp_path: Path) -> Path:
    """The model, to write into."""
    return Path(shutil.copytree(small_llama.model, tmp_path / "source"))


def test_another_target_replaces_the_result_and_what_was_made_of_it(
    small_llama: Place, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_curves, "measure_curves", lambda *_, **__: pytest.fail("measured again"))
    write_json(out / "evaluation.json", artifacts.evaluation())
    report(out)
    budget = int(0.9 * tensor_bytes(out))
    foretold = small_llama.compress(out, dry_run=True, size=budget).plan
    assert foretold is not None
    assert (out / "report.html").exists()
    plan = small_llama.compress(out, size=budget).plan
    assert plan is not None
    assert plan == load_compression_plan(out)
    assert tensor_bytes(out) == plan.size_bytes <= budget
    assert not (out / "evaluation.json").exists()
    assert not (out / "report.html").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "out.curves"]


def test_a_target_that_cannot_be_met_or_a_disk_that_is_full_leaves_the_result_as_it_was(
    small_llama: Place, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(out)
    with pytest.raises(InfeasibleBudgetError):
        small_llama.compress(out, size=1000)
    monkeypatch.setattr(tensor_files.TensorFiles, "write", no_space)
    with pytest.raises(ConfigError, match="No space left on device"):
        small_llama.compress(out, bits_per_weight=8)
    assert digest(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "out.curves"]


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def write_note(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def change_config(out: Path) -> None:
    path = out / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": {"0": "mine"}}))


def write_weights(out: Path) -> None:
    (out / "model.safetensors").write_bytes(b"mine")


def write_page(out: Path) -> None:
    (out / "report.html").write_text("<title>Mine</title>")


def write_evaluation(out: Path) -> None:
    (out / "evaluation.json").write_text("{}")


def write_folder(out: Path) -> None:
    (out / "adapter").mkdir()


def link(out: Path) -> None:
    (out / "README.md").symlink_to(out / "plan.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (write_note, "notes.txt"),
        (change_config, "config.json"),
        (write_weights, "model.safetensors"),
        (write_page, "report.html"),
        (write_evaluation, "evaluation.json"),
        (write_folder, "adapter"),
        (link, "README.md"),
    ],
)
def test_what_somebody_put_or_changed_there_is_named_and_stays(
    small_llama: Place, out: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], named: str
) -> None:
    monkeypatch.setattr(compress_file, "open_streamed", lambda *_, **__: pytest.fail("began"))
    change(out)
    before = digest(out)
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=rf"out would be replaced, but holds .*: {named}; move"):
            small_llama.compress(out, dry_run=dry_run, bits_per_weight=8)
    assert digest(out) == before


def test_files_that_the_model_holds_too_go_and_come_again(small_llama: Place, source: Path, out: Path) -> None:
    (source / "README.md").write_text("a model")
    mine = Place(source, small_llama.data)
    (out / "README.md").write_text("a model")
    mine.compress(out, bits_per_weight=8)
    assert (out / "README.md").read_text() == "a model"
    (out / "README.md").write_text("my model")
    with pytest.raises(ConfigError, match=r"README\.md; move"):
        mine.compress(out, bits_per_weight=9)


def test_a_result_for_other_data_another_model_or_another_way_of_measuring_is_refused(
    small_llama: Place, source: Path, out: Path, tmp_path: Path
) -> None:
    before = digest(out)
    config = source / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_name": "another"}))
    others = (Place(small_llama.model, write_text(tmp_path / "other.txt", seed=1)), Place(source, small_llama.data))
    for other in others:
        with pytest.raises(ConfigError, match="is not empty and holds no result for this model and data"):
            other.compress(out, bits_per_weight=8)
    with pytest.raises(ConfigError, match="is not empty and holds no result for this model and data"):
        small_llama.compress(out, bits_per_weight=8, num_samples=7)
    assert digest(out) == before


def test_a_result_for_data_that_changed_is_refused_without_its_curves_too(small_llama: Place, tmp_path: Path) -> None:
    mine = Place(small_llama.model, write_text(tmp_path / "text.txt", words=400))
    few = {"widths": [8, 2], "formats": ["integer"], "probes": "off"}
    mine.compress(tmp_path / "out", bits_per_weight=9, **few)
    before = digest(tmp_path / "out")
    shutil.rmtree(tmp_path / "out.curves")
    write_text(mine.data, words=400, seed=1)
    with pytest.raises(ConfigError, match=r"text\.txt has changed since .*out was written"):
        mine.compress(tmp_path / "out", bits_per_weight=8.5, **few)
    assert digest(tmp_path / "out") == before
    assert not (tmp_path / "out.curves").exists()


def test_an_output_that_is_a_link_is_refused_before_anything_is_measured(
    small_llama: Place, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress_file, "open_streamed", lambda *_, **__: pytest.fail("began"))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (source / "out").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path / "link", source / "out"):
        for dry_run in (True, False):
            with pytest.raises(ConfigError, match="is a link"):
                Place(source, small_llama.data).compress(place, dry_run=dry_run, bits_per_weight=9)
    assert not list(tmp_path.rglob("*.curves"))
