"""Whose folder it is: another config is refused, and the refusal says what differs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.store import working_alone, write_json
from layerlens.benching import contents
from layerlens.benching.claim import claim_suite_folder, suite_identity
from layerlens.errors import ConfigError
from tests.unit.benching.suites import suite


def claim(folder: Path, *, may_extend: bool = False, **changes: Any) -> None:
    claim_suite_folder(folder, suite(**changes), may_extend=may_extend)


def test_the_same_suite_goes_on_in_its_folder(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    claim(tmp_path / "out")
    claim(tmp_path / "out", description="other words", report_to=["mlflow"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"batch_size": 8, "max_steps": 9}}, "training.max_steps was 4, now 9"),
        ({"tasks": {"docs": {"data": "stdlib-docs", "max_length": 32}}}, "tasks.docs.max_length was 16, now 32"),
        ({"budget": {"max_trainable_params": 7}}, "budget.max_trainable_params was 1000, now 7"),
        ({"learning_rates": {"tuned": "kind"}}, "learning_rates.tuned was the default, now kind"),
        ({"training": {"batch_size": 8, "max_steps": 4, "dropout": True}}, "training.dropout was False, now True"),
        ({"seeds": [0, 1, 2]}, "seeds was 0,1, now 0,1,2"),
        ({"arms": ["full"]}, "arms was full,uniform,layerlens, now full"),
    ],
)
def test_another_config_is_refused_with_what_differs(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    claim(tmp_path / "out")
    before = (tmp_path / "out" / "run.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        claim(tmp_path / "out", **changes)
    assert words in str(caught.value)
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_a_suite_may_grow_where_the_user_says_so(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    tasks = {"docs": {"data": "stdlib-docs", "max_length": 16}, "more": {"data": "more.csv"}}
    with pytest.raises(ConfigError, match="--extend true lets a suite grow"):
        claim(tmp_path / "out", seeds=[0, 1, 2], tasks=tasks)
    claim(tmp_path / "out", seeds=[0, 1, 2], tasks=tasks, may_extend=True)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seeds"] == [0, 1, 2]
    claim(tmp_path / "out", seeds=[0, 1, 2], tasks=tasks)


def test_a_grid_of_rates_may_grow_and_how_rates_are_chosen_may_not(tmp_path: Path) -> None:
    claim(tmp_path / "out", learning_rates={"full": [1e-4], "adapter": [1e-3, 3e-3]})
    claim(tmp_path / "out", learning_rates={"full": [1e-4, 3e-4], "adapter": [1e-3, 3e-3, 6e-3]}, may_extend=True)
    # A grid that loses a rate and gains another is a changed one, as is one that leaves its default behind.
    for adapter in ([5e-6], [1e-3, 5e-3]):
        with pytest.raises(ConfigError, match=r"learning_rates\.adapter was"):
            claim(tmp_path / "out", learning_rates={"full": [1e-4, 3e-4], "adapter": adapter}, may_extend=True)
    with pytest.raises(ConfigError, match=r"learning_rates\.tuned was the default, now kind"):
        claim(
            tmp_path / "out",
            learning_rates={"full": [1e-4, 3e-4], "adapter": [1e-3, 3e-3, 6e-3], "tuned": "kind"},
            may_extend=True,
        )


def test_growth_changes_nothing_that_is_there(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"tasks\.docs\.max_length was 16, now 32"):
        claim(tmp_path / "out", tasks={"docs": {"data": "stdlib-docs", "max_length": 32}}, may_extend=True)
    # Rates and race come from the first seed.
    with pytest.raises(ConfigError, match="seeds was 0,1, now 5,0,1"):
        claim(tmp_path / "out", seeds=[5, 0, 1], may_extend=True)


def test_a_folder_of_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="not empty"):
        claim(tmp_path)


def test_entries_are_told_by_their_whole_names_and_meet_other_tasks_where_the_suite_may_grow(tmp_path: Path) -> None:
    first = {"llama-3": {"id": "b", "tasks": ["docs"]}, "llama-3.1-8b": "a"}
    claim(tmp_path / "out", models=first)
    tasks = {"docs": {"data": "stdlib-docs", "max_length": 16}, "v1.1": {"data": "more.csv"}}
    more = {"llama-3": {"id": "b", "tasks": ["docs", "v1.1"]}, "llama-3.1-70b": "c"}
    with pytest.raises(ConfigError, match="--extend true lets a suite grow"):
        claim(tmp_path / "out", models=more, tasks=tasks)
    claim(tmp_path / "out", models=more, tasks=tasks, may_extend=True)
    with pytest.raises(ConfigError, match=r"models\.llama-3\.1-70b\.id was c, now d"):
        claim(tmp_path / "out", models=more | {"llama-3.1-70b": "d"}, tasks=tasks, may_extend=True)


def test_data_that_have_changed_are_refused_by_their_name(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "images"
    train.write_text("text,label\na,0\n", encoding="utf-8")
    (test / "cats").mkdir(parents=True)
    (test / "cats" / "1.png").write_bytes(b"one")
    tasks = {"own": {"data": str(train), "eval_data": str(test)}}
    claim(tmp_path / "out", tasks=tasks)
    claim(tmp_path / "out", tasks=tasks)
    (test / "cats" / "1.png").write_bytes(b"two")
    for may_extend in (False, True):
        with pytest.raises(ConfigError, match=f"results of other data: {test} changed since; choose another --out or remove it$"):
            claim(tmp_path / "out", tasks=tasks, may_extend=may_extend)
    # Runs of a task that has left still lie there, and count again when it comes back.
    (test / "cats" / "1.png").write_bytes(b"one")
    claim(tmp_path / "out", may_extend=True)
    train.write_text("text,label\na,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{train} changed since"):
        claim(tmp_path / "out", tasks=tasks, may_extend=True)


def test_data_that_lie_there_as_they_were_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "train.csv"
    data.write_text("text,label\na,0\n", encoding="utf-8")
    tasks, read = {"own": {"data": str(data)}}, []
    whole = contents.sha256_of_file
    monkeypatch.setattr(contents, "sha256_of_file", lambda path: read.append(path) or whole(path))
    # A file this new may yet change within the same tick of its clock.
    claim(tmp_path / "out", tasks=tasks)
    claim(tmp_path / "out", tasks=tasks)
    assert len(read) == 2
    monkeypatch.setattr(contents, "_SETTLED_NS", 0)
    claim(tmp_path / "out", tasks=tasks)
    claim(tmp_path / "out", tasks=tasks)
    assert len(read) == 3
    os.utime(data, ns=(1, 1))
    claim(tmp_path / "out", tasks=tasks)
    assert len(read) == 4
    before = data.stat()
    data.write_text("text,label\na,1\n", encoding="utf-8")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match="other data"):
        claim(tmp_path / "out", tasks=tasks)


def test_a_folder_of_an_older_version_takes_its_data_as_they_are(tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    data.write_text("text,label\na,0\n", encoding="utf-8")
    tasks = {"own": {"data": str(data)}}
    write_json(tmp_path / "out" / "run.json", suite_identity(suite(tasks=tasks)))
    claim(tmp_path / "out", tasks=tasks)
    data.write_text("text,label\na,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="other data"):
        claim(tmp_path / "out", tasks=tasks)


def test_a_folder_of_a_version_without_the_option_was_made_with_dropout(tmp_path: Path) -> None:
    with_dropout = {"training": {"batch_size": 8, "max_steps": 4, "dropout": True}}
    older = suite_identity(suite(**with_dropout))
    del older["training.dropout"]
    write_json(tmp_path / "out" / "run.json", older)
    claim(tmp_path / "out", **with_dropout)
    with pytest.raises(ConfigError, match=r"training\.dropout was True, now False"):
        claim(tmp_path / "out")


def test_a_suite_does_not_grow_while_a_call_works_in_its_folder(tmp_path: Path) -> None:
    claim(tmp_path / "out")
    before = (tmp_path / "out" / "run.json").read_bytes()
    with working_alone(tmp_path / "out"), pytest.raises(ConfigError, match="another process is working"):
        claim(tmp_path / "out", seeds=[0, 1, 2], may_extend=True)
    assert (tmp_path / "out" / "run.json").read_bytes() == before
