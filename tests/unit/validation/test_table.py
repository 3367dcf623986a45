from __future__ import annotations

import io

import pytest
from rich.console import Console

from layerlens.artifacts.validation import Check, Validation, Verdict
from layerlens.validation.run import validate
from layerlens.validation.table import tally, validation_table, value_text
from tests.unit.reporting import artifacts


def _printed(validation: Validation, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width, highlight=False).print(validation_table(validation))
    return output.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_every_check_is_printed_with_its_name_verdict_and_meaning(width: int) -> None:
    validation = validate(artifacts.raced_plan(), artifacts.profile())
    printed = _printed(validation, width)
    words = " ".join(printed.split())
    assert all(check.name in printed for check in validation.checks)
    assert all(check.meaning in words for check in validation.checks)
    assert printed.count("✓ pass") == sum(check.verdict is Verdict.PASS for check in validation.checks)
    assert max(map(len, printed.splitlines())) <= width


def test_names_and_values_are_not_read_as_markup() -> None:
    check = Check(name="[bold]sums[/bold]", value="[red]", target="[/]", verdict=Verdict.FAIL, meaning="[link]")
    printed = _printed(Validation(plan="[dim]", checks=[check]), 120)
    assert all(text in printed for text in ("[bold]sums[/bold]", "[red]", "[/]", "[link]", "[dim]"))


def test_the_tally_names_every_verdict() -> None:
    checks = [
        Check(name="a", value=1.0, target="", verdict=verdict, meaning="")
        for verdict in (Verdict.PASS, Verdict.PASS, Verdict.FAIL)
    ]
    assert tally(Validation(plan="p", checks=checks)) == "2 pass, 0 warn, 1 fail, 0 not applicable"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), ("text", "text"), (0.123456, "0.1235"), (49_920.0, "49,920"), (4e-8, "4e-08"), (1.0, "1")]
)
def test_values_are_shown_short(value: float | str | None, shown: str) -> None:
    assert value_text(Check(name="a", value=value, target="", verdict=Verdict.PASS, meaning="")) == shown
