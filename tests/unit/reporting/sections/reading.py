"""A run in memory, and a section read back from its HTML."""

from __future__ import annotations

from functools import cache
from typing import Any

from layerlens.artifacts.plan import Plan
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section
from tests.unit.reporting import artifacts
from tests.unit.reporting.page_reading import Page, read_page


@cache
def _candidates() -> dict[str, Plan]:
    return {name: artifacts.plan(name, sizes) for name, sizes in artifacts.candidate_sizes().items()}


def a_run(**parts: Any) -> RunFolder:
    """Everything that a run leaves, but for the parts given."""
    whole: dict[str, Any] = {
        "name": "run",
        "profile": artifacts.profile(),
        "arrays": artifacts.curves(),
        "timing": artifacts.timing(),
        "plan": artifacts.raced_plan(),
        "candidates": _candidates(),
        "evaluation": artifacts.evaluation(),
        "validation": None,
        "missing": (),
    }
    return RunFolder(**{**whole, **parts})


def read_section(section: Section | None) -> Page:
    assert section is not None
    return read_page(section.body)


def rows(page: Page) -> list[list[str]]:
    """The cells of every table row, head included."""
    found: list[list[str]] = []
    for element in page.elements:
        if element.tag == "tr":
            found.append([])
        elif element.tag in {"td", "th"}:
            found[-1].append(element.text)
    return found
