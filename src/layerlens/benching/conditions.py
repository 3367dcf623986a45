"""Under what a suite's runs were made, told from their records: the call that writes the results may have made none of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from layerlens.benching.job import Conditions, Done


def machines_of(records: Sequence[Done]) -> str:
    """Every machine that runs were made on; empty where no record says."""
    return "; ".join(dict.fromkeys(made.machine for made in _known(records)))


def versions_of(records: Sequence[Done]) -> dict[str, str]:
    """Every version of each package that runs were made with."""
    made = [found.versions for found in _known(records)]
    names = dict.fromkeys(chain.from_iterable(made))
    return {name: ", ".join(dict.fromkeys(found[name] for found in made if name in found)) for name in names}


def condition_notes(records: Mapping[str, Sequence[Done]]) -> list[str]:
    """What a reader of seconds and peaks has to know of how runs were made.

    Args:
        records: Of the finished runs, by the name of their cell.
    """
    all_records = list(chain.from_iterable(records.values()))
    known = _known(all_records)
    processes = sorted({made.processes for made in known})
    notes = []
    if processes and (most := processes[-1]) > 1:
        count = f"{most}" if len(processes) == 1 else f"Up to {most}"
        notes.append(f"{count} runs went on at a time, so seconds hold what they took from each other; compare ratios.")
    if 0 in processes:
        which = "All runs" if processes == [0] else "Some runs"
        notes.append(f"{which} shared one process, so peak memory holds what earlier runs left behind.")
    notes += [
        f"Runs of {cell} were made under different conditions, so their seconds and peaks do not compare: {'; '.join(differing)}."
        for cell, found in records.items()
        if (differing := list(_differing(_known(found))))
    ]
    if unknown := len(all_records) - len(known):
        notes.append(f"{unknown} of {len(all_records)} runs were recorded by an older version, which kept no conditions.")
    return notes


def _known(records: Sequence[Done]) -> list[Conditions]:
    return [record.conditions for record in records if record.conditions is not None]


def _differing(made: Sequence[Conditions]) -> Iterator[str]:
    """`torch 2.9.0 (3 runs), 2.9.1 (1)`, for each condition that is not the same for all."""
    facts = [{"machine": found.machine, "runs at a time": str(found.processes), **found.versions} for found in made]
    for name in dict.fromkeys(chain.from_iterable(facts)):
        counts = Counter(found.get(name, "none") for found in facts)
        if len(counts) > 1:
            (first, number), *others = counts.items()
            yield f"{name} {first} ({number} runs)" + "".join(f", {value} ({count})" for value, count in others)
