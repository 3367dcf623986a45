"""Under what runs were made: as their records say, and where they differ, or do not say, the reader is told."""

from __future__ import annotations

from layerlens.benching.conditions import condition_notes, machines_of, versions_of
from layerlens.benching.job import Conditions, Done
from tests.unit.benching.suites import job


def done(machine: str | None = "2 cores", processes: int = 1, torch: str = "2.9") -> Done:
    """A record; without a machine it is of a version that kept no conditions."""
    versions = {"python": "3.12", "torch": torch}
    made = None if machine is None else Conditions(machine=machine, processes=processes, versions=versions)
    return Done(job=job("run"), seconds=1.0, conditions=made)


def test_runs_under_one_condition_need_no_note() -> None:
    records = [done(), done()]
    assert condition_notes({"m on t": records}) == []
    assert (machines_of(records), versions_of(records)) == ("2 cores", {"python": "3.12", "torch": "2.9"})


def test_runs_of_one_cell_that_differ_are_told_with_what_differs() -> None:
    records = [done(), done("a GPU", 4, "2.10"), done("a GPU", 4)]
    notes = condition_notes({"m on t": records, "m on u": [done()]})
    assert notes == [
        "Up to 4 runs went on at a time, so seconds hold what they took from each other; compare ratios.",
        "Runs of m on t were made under different conditions, so their seconds and peaks do not compare: "
        "machine 2 cores (1 runs), a GPU (2); runs at a time 1 (1 runs), 4 (2); torch 2.9 (2 runs), 2.10 (1).",
    ]
    assert machines_of(records) == "2 cores; a GPU"
    assert versions_of(records) == {"python": "3.12", "torch": "2.9, 2.10"}


def test_one_process_and_several_are_told_apart() -> None:
    assert condition_notes({"m on t": [done(processes=0)]})[0].startswith("All runs shared one process")
    assert condition_notes({"m on t": [done(processes=3)]})[0].startswith("3 runs went on at a time")


def test_records_of_older_versions_are_read_and_said_to_keep_no_conditions() -> None:
    old = done().model_dump(mode="json", exclude={"conditions"})
    records = [Done.model_validate(old), done()]
    assert records[0].conditions is None
    (note,) = condition_notes({"m on t": records})
    assert note == "1 of 2 runs were recorded by an older version, which kept no conditions."
    assert (machines_of(records[:1]), versions_of(records[:1])) == ("", {})
