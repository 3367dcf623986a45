"""Suites by name and path: read, checked, selected from, and their places filled in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from layerlens.benching.cells import cells_of
from layerlens.benching.suite_file import known_suites, placed, read_suite, selected
from layerlens.config.bench import BenchConfig
from layerlens.errors import ConfigError
from layerlens.workflow.bench_arms import check_arms
from tests.unit.benching.suites import suite


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump(suite(**changes).model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", known_suites())
def test_every_suite_of_the_package_fits_the_schema_and_names_known_arms(name: str) -> None:
    read, folder = read_suite(name)
    assert read.name == name
    assert folder is None
    assert read.description
    assert cells_of(read)
    check_arms(read.arms)


def test_the_package_holds_the_suites_of_its_documents() -> None:
    assert {"smoke", "encoder", "encoder-squad", "decoder", "vision"} <= set(known_suites())
    hub = [read_suite(name)[0] for name in known_suites() if name.startswith("hub-")]
    ids = {model.id for one in hub for model in one.models.values()}
    for model in ("bert-base-uncased", "bert-large-uncased", "roberta-base", "Llama-2-7b-hf", "vit-base", "vit-large"):
        assert any(model in found for found in ids), model
    data = {task.data for one in hub for task in one.tasks.values()}
    for source in ("glue", "super_glue", "squad", "imagenet-1k"):
        assert any(source in found for found in data), source


def test_no_suite_of_the_package_knows_where_anybodys_data_lie() -> None:
    for name in known_suites():
        read, _ = read_suite(name)
        places = [*(task.data for task in read.tasks.values()), *(model.id for model in read.models.values())]
        assert not [place for place in places if place.startswith(("/", ".", "~"))]


def test_a_file_is_read_by_its_path_and_its_folder_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml")
    read, folder = read_suite(str(path))
    assert (read, folder) == (suite(), tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "is no YAML"),
        ("- a\n- b", "holds no mapping"),
        ("name: x\nmodls: {}", "modls: unknown key"),
        ("name: x", "models: is missing"),
        ("name: 2024-13-45", "is no YAML"),
        (f"seeds: [{'9' * 5000}]", "is no YAML"),
    ],
)
def test_a_file_that_is_no_suite_is_refused_by_its_path(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_suite(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no suite 'smok'.*smoke"):
        read_suite("smok")


def test_places_are_filled_by_option_before_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "models" / "m").mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (tmp_path / "data" / name).touch()
    tasks = {"t": {"data": "${DATA}/train.csv", "eval_data": "${DATA}/test.csv"}}
    asked = suite(tasks=tasks, models={"m": "${MODELS}/m"})
    for config, variables in (
        (BenchConfig(data_root=str(tmp_path / "data")), {"LAYERLENS_DATA": "/nowhere"}),
        (BenchConfig(), {"LAYERLENS_DATA": str(tmp_path / "data")}),
        # From whatever folder a root is named, the suite is the same one and resumes.
        (BenchConfig(data_root="data"), {}),
    ):
        found = placed(asked, None, config, variables)
        assert found.tasks["t"].data == str(tmp_path / "data" / "train.csv")
        assert found.tasks["t"].eval_data == str(tmp_path / "data" / "test.csv")
        assert found.models["m"].id == str(tmp_path / "models" / "m")


def test_a_place_that_nothing_fills_names_the_option_that_would() -> None:
    asked = suite(tasks={"a": {"data": "${DATA}/a.csv"}, "b": {"data": "${DATA}/b.csv"}})
    with pytest.raises(ConfigError, match=r"needs \$\{DATA\}/a.csv and 1 more; .*--data-root or the variable LAYERLENS_DATA"):
        placed(asked, None, BenchConfig(), {})
    with pytest.raises(ConfigError, match="does not exist; see --data-root"):
        placed(asked, None, BenchConfig(data_root="/nowhere"), {})
    with pytest.raises(ConfigError, match=r"only \$\{DATA\} and \$\{MODELS\}"):
        placed(suite(tasks={"a": {"data": "${HOME}/a.csv"}}), None, BenchConfig(), {})


def test_other_paths_are_read_from_the_suites_folder_where_they_lie_there(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").touch()
    asked = suite(tasks={"a": {"data": "mine.csv"}, "b": {"data": "stdlib-docs"}})
    found = placed(asked, tmp_path, BenchConfig(), {})
    assert found.tasks["a"].data == str(tmp_path / "mine.csv")
    assert found.tasks["b"].data == "stdlib-docs"


def test_a_folder_beside_the_suite_takes_no_name_that_is_layerlens_s_own(tmp_path: Path) -> None:
    for name in ("demo", "stdlib-docs", "own"):
        (tmp_path / name).mkdir()
    asked = suite(models={"m": "demo", "n": "own"}, tasks={"b": {"data": "stdlib-docs"}})
    found = placed(asked, tmp_path, BenchConfig(), {})
    assert (found.models["m"].id, found.tasks["b"].data) == ("demo", "stdlib-docs")
    assert found.models["n"].id == str(tmp_path / "own")


def test_rates_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(ValidationError, match="two rates are the same to six digits"):
        suite(learning_rates={"adapter": [1e-3, 1.0000001e-3]})
    assert suite(learning_rates={"adapter": [1e-3, 1e-3]}).learning_rates.adapter == [1e-3]


def test_a_part_of_a_suite_can_be_asked_for() -> None:
    tasks = {"a": {"data": "a.csv"}, "b": {"data": "b.csv"}}
    whole = suite(tasks=tasks, models={"m": {"id": "m", "tasks": ["a", "b"]}, "n": "n"})
    part = selected(whole, BenchConfig(tasks=["b"], seeds=[7], arms=["full"]))
    assert [(cell.model, cell.task_name) for cell in cells_of(part)] == [("m", "b"), ("n", "b")]
    assert (part.seeds, part.arms) == ([7], ["full"])
    assert part.training == whole.training
    with pytest.raises(ConfigError, match="--tasks: the suite small has no c; it has a, b"):
        selected(whole, BenchConfig(tasks=["c"]))
    with pytest.raises(ConfigError, match="full stands twice"):
        selected(whole, BenchConfig(arms=["full", "full"]))


def test_a_suite_is_the_same_however_its_file_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mine.yaml", tasks={"a": {"data": "mine.csv"}}, models={"m": "model"})
    (tmp_path / "mine.csv").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "below").mkdir()
    found = []
    for folder, name in ((tmp_path, "mine.yaml"), (tmp_path / "below", "../mine.yaml"), (Path("/"), str(path))):
        monkeypatch.chdir(folder)
        found.append(placed(*read_suite(name), BenchConfig(), {}))
    assert found[0] == found[1] == found[2]
    assert found[0].tasks["a"].data == str(tmp_path / "mine.csv")
