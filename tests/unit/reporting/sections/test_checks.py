from __future__ import annotations

from layerlens.artifacts.validation import Check, Validation, Verdict
from layerlens.reporting.sections.checks import badge, checks_section
from layerlens.validation.run import validate
from tests.unit.reporting import artifacts
from tests.unit.reporting.page_reading import read_page
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_every_check_has_a_row_with_verdict_value_target_and_meaning() -> None:
    validation = validate(artifacts.raced_plan(), artifacts.profile())
    found = rows(read_section(checks_section(a_run(validation=validation))))[1:]
    assert len(found) == len(validation.checks)
    for row, check in zip(found, validation.checks, strict=True):
        assert row[4].replace("\u00a0", " ") == check.meaning
        assert check.target == row[3].replace("\u00a0", " ")


def test_a_verdict_is_a_sign_and_a_word_and_not_a_colour_alone() -> None:
    texts = [read_page(badge(verdict)).elements[0].text for verdict in Verdict]
    assert texts == ["✓ pass", "! warn", "✕ fail", "– n/a"]


def test_the_tally_counts_what_there_is() -> None:
    checks = [
        Check(name="a", value=None, target="", verdict=verdict, meaning="")
        for verdict in (Verdict.FAIL, Verdict.FAIL, Verdict.PASS)
    ]
    page = read_section(checks_section(a_run(validation=Validation(plan="p", checks=checks))))
    assert page.one("p", class_="tally").text.split() == ["✓", "pass", "1", "✕", "fail", "2"]


def test_no_validation_no_section() -> None:
    assert checks_section(a_run()) is None
