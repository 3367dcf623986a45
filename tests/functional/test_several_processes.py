"""Processes that share a profile end together, whatever befalls one of them, and none of them with a traceback."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.distributed as distributed

from layerlens.cli import main
from layerlens.errors import NotFiniteError
from layerlens.profiling import run as profiling_run
from layerlens.profiling import statistics_pass
from layerlens.workflow import execution
from tests.functional.conftest import Workplace

SMALL = ("--num-samples", 12, "--max-length", 8, "--proxy", "off", "--batch-size", 3, "--head-samples", 8)
SECONDS_AT_MOST = 60


@dataclass(frozen=True)
class Ended:
    """How one process ended; the code is minus the signal where one ended it."""

    code: int
    err: str


def no_change(_: int) -> None:
    pass


def launch(folder: Path, arguments: list[object], change: Callable[[int], None] = no_change) -> list[Ended]:
    """Run a command in two processes that share it, after `change` in each of them with its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            _child(folder, [str(argument) for argument in arguments], change, rank, port)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [Ended(code, (folder / f"err{rank}").read_text()) for rank, code in enumerate(codes)]


def _child(folder: Path, arguments: list[str], change: Callable[[int], None], rank: int, port: int) -> None:
    code = 1
    # A process that waits for another forever shall not make the tests wait.
    signal.alarm(SECONDS_AT_MOST)
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        change(rank)
        code = main(arguments)
    except SystemExit as end:
        code = int(str(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(workplace: Workplace, out: Path) -> list[object]:
    return ["profile", workplace.model, "--data", workplace.data, "--out", out, *SMALL]


def told(err: str) -> list[str]:
    """What a process complains of, beside its progress."""
    return [line for line in err.splitlines() if line.startswith("layerlens:") or "Traceback" in line or "Error" in line]


def test_the_first_process_decides_for_all_and_a_finished_folder_ends_them_all(workplace: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "p"

    def see_other_memory(rank: int) -> None:
        free = 1 if rank else 1 << 40
        execution.available_bytes = lambda: free

    first = launch(tmp_path, command(workplace, out), see_other_memory)
    assert [ended.code for ended in first] == [0, 0], first
    content = (out / "profile.json").read_bytes()

    def measures_nothing(_: int) -> None:
        def measured(*_: object, **__: object) -> None:
            raise AssertionError

        profiling_run.collect_statistics = measured

    again = launch(tmp_path, command(workplace, out), measures_nothing)
    assert [ended.code for ended in again] == [0, 0], again
    assert "already holds this profile" in " ".join(again[0].err.split())
    assert (out / "profile.json").read_bytes() == content


@pytest.mark.parametrize("failing", [0, 1])
def test_a_loss_that_is_not_finite_in_one_share_is_told_by_the_first_process_alone(
    workplace: Workplace, tmp_path: Path, failing: int
) -> None:
    def spoil(rank: int) -> None:
        def refuse(_: object) -> None:
            raise NotFiniteError("the loss of sample 7 is nan")

        if rank == failing:
            statistics_pass.check_norms = refuse

    ended = launch(tmp_path, command(workplace, tmp_path / "p"), spoil)
    assert [one.code for one in ended] == [2, 2], ended
    assert told(ended[0].err) == ["layerlens: the loss of sample 7 is nan"]
    assert told(ended[1].err) == []
    assert not (tmp_path / "p").exists()


def test_a_folder_that_is_refused_ends_all_processes_and_is_told_once(workplace: Workplace, tmp_path: Path) -> None:
    out = tmp_path / "p"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    ended = launch(tmp_path, command(workplace, out))
    assert [one.code for one in ended] == [2, 2], ended
    assert len(told(ended[0].err)) == 1
    assert "is not empty and belongs to no run" in ended[0].err
    assert told(ended[1].err) == []
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_process_that_is_killed_ends_the_others_with_one_line(workplace: Workplace, tmp_path: Path) -> None:
    def die(rank: int) -> None:
        if rank:
            statistics_pass.check_norms = lambda _: os.kill(os.getpid(), signal.SIGKILL)

    ended = launch(tmp_path, command(workplace, tmp_path / "p"), die)
    assert [one.code for one in ended] == [2, -signal.SIGKILL], ended
    refusal = [line for line in ended[0].err.splitlines() if line.startswith("layerlens:")]
    assert len(refusal) == 1
    assert "another of the processes that share this profile ended early" in refusal[0]
    assert "Traceback" not in ended[0].err
    assert not (tmp_path / "p").exists()


def test_what_fails_in_the_first_process_after_the_others_have_left_keeps_nobody(workplace: Workplace, tmp_path: Path) -> None:
    def fail_late(rank: int) -> None:
        def refuse(*_: object, **__: object) -> None:
            assert not distributed.is_initialized()
            raise NotFiniteError("no curve")

        if rank == 0:
            profiling_run.measure_layers = refuse

    ended = launch(tmp_path, command(workplace, tmp_path / "p"), fail_late)
    assert [one.code for one in ended] == [2, 0], ended
    assert told(ended[0].err) == ["layerlens: no curve"]
    assert not (tmp_path / "p").exists()
