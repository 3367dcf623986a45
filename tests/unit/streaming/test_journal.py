"""A journal that goes on only where it should."""

from __future__ import annotations

from pathlib import Path

from layerlens.streaming.journal import Journal


def test_a_journal_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work", {"tokens": 8})
    journal.finish(0)
    journal.finish(1)
    (tmp_path / "work" / "activations.bin").write_bytes(b"kept")
    again = Journal(tmp_path / "work", {"tokens": 8})
    assert [again.is_done(step) for step in range(3)] == [True, True, False]
    assert (tmp_path / "work" / "activations.bin").exists()
    other = Journal(tmp_path / "work", {"tokens": 16})
    assert not other.is_done(0)
    assert not (tmp_path / "work" / "activations.bin").exists()


def test_steps_that_are_forgotten_are_done_again_by_the_next_run_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work", {})
    journal.save("head", {"fit": 1}, {})
    journal.finish(3)
    journal.go_back(1)
    again = Journal(tmp_path / "work", {})
    for found in (journal, again):
        assert [found.is_done(step) for step in range(3)] == [True, False, False]
    assert again.load("head")[0] == {"fit": 1}
    again.go_back(5)
    assert not again.is_done(1)


def test_a_damaged_journal_begins_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "work", {}).finish(4)
    (tmp_path / "work" / "journal.json").write_text("{")
    assert not Journal(tmp_path / "work", {}).is_done(0)
