"""Atomic writes, typed reads, and folders that belong to one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from layerlens.artifacts import store
from layerlens.artifacts.validation import Check, Validation, Verdict
from layerlens.errors import ConfigError, ManifestError

CHECKS = Validation(plan="p", checks=[Check(name="n", value=1.5, target="≥ 1", verdict=Verdict.PASS, meaning="m")])


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    store.claim_folder(tmp_path / "run", {"seed": 1})
    with store.working_alone(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another process is working in"), store.working_alone(tmp_path / "run"):
            raise AssertionError("both were let in")
        # A failure gives the claim up while the folder is still held.
        store.release_folder(tmp_path / "run")
    store.claim_folder(tmp_path / "run", {"seed": 2})
    with store.working_alone(tmp_path / "run"):
        assert store.read_claim(tmp_path / "run") == {"seed": 2}


def test_a_folder_that_its_owner_has_just_given_up_is_told_in_one_line(tmp_path: Path) -> None:
    store.claim_folder(tmp_path / "run", {"seed": 1})
    assert store.claim_folder(tmp_path / "run", {"seed": 1})
    store.release_folder(tmp_path / "run")
    with pytest.raises(ConfigError, match="another process is working in"), store.working_alone(tmp_path / "run"):
        raise AssertionError("a folder that is gone was worked in")


def test_another_claim_in_the_same_place_lets_nobody_else_in(tmp_path: Path) -> None:
    store.claim_folder(tmp_path / "run", {"seed": 1})
    with store.working_alone(tmp_path / "run"):
        # What another process does that found the folder empty just before this one claimed it.
        store.write_json(tmp_path / "run" / store.RUN_FILE, {"seed": 1})
        with pytest.raises(ConfigError, match="another process is working in"), store.working_alone(tmp_path / "run"):
            raise AssertionError("both were let in")


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_of_runs_that_begin_at_the_same_moment_one_works_under_its_own_claim(tmp_path: Path, seeds: tuple[int, int]) -> None:
    starts, ends = Barrier(2), Barrier(2)

    def begin(folder: Path, seed: int) -> bool:
        starts.wait(10)
        try:
            store.claim_folder(folder, {"seed": seed})
            with store.working_alone(folder):
                ends.wait(10)
                return store.read_claim(folder) == {"seed": seed}
        except ConfigError:
            ends.wait(10)
            return False

    with ThreadPoolExecutor(2) as pool:
        for trial in range(30):
            assert sorted(pool.map(begin, [tmp_path / str(trial)] * 2, seeds)) == [False, True]
            assert [path.name for path in (tmp_path / str(trial)).iterdir()] == [store.RUN_FILE]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store.write_json(tmp_path / "deep" / "v.json", CHECKS)
    assert store.read_json(tmp_path / "deep" / "v.json", Validation) == CHECKS


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.json"
    store.write_bytes(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*v\.json: No space left on device"):
        store.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]


def test_every_fault_of_a_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text('{"plan": 3, "checks": [], "surprise": 1}')
    with pytest.raises(ManifestError) as caught:
        store.read_json(tmp_path / "v.json", Validation)
    assert "plan" in str(caught.value)
    assert "surprise" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_shows_the_start_of_what_was_given_and_not_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("To be, or not to be. " * 1000)
    with pytest.raises(ManifestError, match="To be, or not to be") as caught:
        store.read_json(tmp_path / "file", Validation)
    assert len(str(caught.value)) < 500


def test_arrays_come_back_with_dtype_and_shape(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float64).reshape(2, 3).T, "a": np.ones(3, dtype=np.float32)}
    store.write_arrays(tmp_path / "a.safetensors", arrays)
    found = store.read_arrays(tmp_path / "a.safetensors")
    assert set(found) == {"a", "b"}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_cut_short_arrays_are_refused_in_one_line(tmp_path: Path) -> None:
    store.write_arrays(tmp_path / "a.safetensors", {"a": np.ones(100)})
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-40])
    with pytest.raises(ManifestError, match="cannot read"):
        store.read_arrays(tmp_path / "a.safetensors")


def test_a_folder_is_claimed_once_and_recognised_again(tmp_path: Path) -> None:
    run = {"command": "profile", "seed": 1}
    assert not store.claim_folder(tmp_path / "out", run)
    assert store.claim_folder(tmp_path / "out", run)


def test_another_runs_folder_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    store.claim_folder(tmp_path / "out", {"command": "profile", "seed": 1})
    with pytest.raises(ConfigError, match="seed was 1, now 2"):
        store.claim_folder(tmp_path / "out", {"command": "profile", "seed": 2})


def test_a_folder_that_the_system_does_not_look_into_is_refused_in_one_line(tmp_path: Path) -> None:
    # As one in another user's home, but for a superuser too.
    with pytest.raises(ConfigError, match=r"cannot look into .*File name too long; choose another output folder"):
        store.claim_folder(tmp_path / ("a" * 300), {"command": "profile"})


def test_a_folder_with_a_persons_own_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        store.claim_folder(tmp_path, {"command": "profile"})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


RUN = {"command": "profile"}


def broken_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file in a process that is killed meanwhile: nothing is tidied up."""

    class KilledError(BaseException):
        pass

    def kill(_: int) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", kill)
        patched.setattr(store.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KilledError):
            store.write_bytes(path, b"half")
    assert any(left.name.startswith(f".{path.name}.") for left in path.parent.iterdir())


def test_what_a_killed_process_left_of_its_own_files_stops_no_claim_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(tmp_path / "run.json", monkeypatch)
    assert not store.claim_folder(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    broken_off(tmp_path / "profile.json", monkeypatch)
    assert store.claim_folder(tmp_path, RUN, ["profile.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_half_written_files_of_others_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".run.json.backup").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        store.claim_folder(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == [".run.json.backup"]
    store.claim_folder(tmp_path / "theirs", {"command": "race"})
    broken_off(tmp_path / "theirs" / "profile.json", monkeypatch)
    with pytest.raises(ConfigError, match="another run's files"):
        store.claim_folder(tmp_path / "theirs", RUN, ["profile.json"])
    assert len(list((tmp_path / "theirs").iterdir())) == 2
