"""Every check with its value, its target, its verdict, and what a pass does and does not prove."""

from __future__ import annotations

from collections import Counter

from layerlens.artifacts.validation import Check, Verdict
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import unbroken
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Column, Section, figure, table
from layerlens.reporting.verdict import check_words

MARKS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✕", Verdict.NOT_APPLICABLE: "–"}
CLASSES = {Verdict.PASS: "pass", Verdict.WARN: "warn", Verdict.FAIL: "fail", Verdict.NOT_APPLICABLE: "na"}


def checks_section(run: RunFolder) -> Section | None:
    """The table of checks; None where the plan was not validated."""
    if run.validation is None:
        return None
    checks = run.validation.checks
    counts = Counter(check.verdict for check in checks)
    tally = [join([badge(verdict), element("span", f" {counts[verdict]}")]) for verdict in Verdict if counts[verdict]]
    columns = [Column("Check"), Column("Verdict"), Column("Value"), Column("Target"), Column("What a pass says, and what not")]
    rows = [
        [check_words(check.name), badge(check.verdict), *map(unbroken, (value_text(check), check.target, check.meaning))]
        for check in checks
    ]
    body = join([element("p", join(tally, Markup("&ensp;")), class_="tally"), table("Checks of the plan", columns, rows)])
    caption = "A fail makes the plan invalid, a warning is for a person to judge, and what does not apply never counts as a pass."
    return Section("checks", "Checks", figure(body, caption, class_="checks"))


def badge(verdict: Verdict) -> Markup:
    """A verdict as a sign and a word, so that colour is never the only cue."""
    word = "n/a" if verdict is Verdict.NOT_APPLICABLE else verdict.value
    return element("span", element("span", MARKS[verdict], aria_hidden="true"), f" {word}", class_=f"badge {CLASSES[verdict]}")


def value_text(check: Check) -> str:
    """Show a check's value: text as it is, large numbers whole, others to four significant digits."""
    value = check.value
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
