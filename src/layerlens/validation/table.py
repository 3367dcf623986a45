"""The checks as a table for the terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerlens.artifacts.validation import Check, Validation, Verdict

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red", Verdict.NOT_APPLICABLE: "dim"}
MARKS = {Verdict.PASS: "✓", Verdict.WARN: "!", Verdict.FAIL: "✗", Verdict.NOT_APPLICABLE: "–"}
VERDICT_WIDTH = 6


def validation_table(validation: Validation) -> RenderableType:
    """Lay out every check: verdict, name, value and target, and under them what it proves. Nothing is read as markup."""
    name_width = max((len(check.name) for check in validation.checks), default=0)
    parts: list[RenderableType] = [Text(f"Plan {validation.plan}: {tally(validation)}", style="bold")]
    for check in validation.checks:
        shown = "n/a" if check.verdict is Verdict.NOT_APPLICABLE else check.verdict.value
        row = Table.grid(padding=(0, 2), expand=True)
        row.add_column(width=VERDICT_WIDTH, no_wrap=True)
        row.add_column(width=name_width, no_wrap=True)
        row.add_column(ratio=1, overflow="fold")
        row.add_column(ratio=1, overflow="fold")
        verdict = Text(f"{MARKS[check.verdict]} {shown}", style=STYLES[check.verdict])
        row.add_row(verdict, Text(check.name), Text(value_text(check)), Text(f"target {check.target}", style="dim"))
        parts += [row, Padding(Text(check.meaning, style="dim"), (0, 0, 0, VERDICT_WIDTH + 2))]
    return Group(*parts)


def tally(validation: Validation) -> str:
    """Count the verdicts in words: `12 pass, 2 warn, 0 fail, 3 not applicable`."""
    counts = Counter(check.verdict for check in validation.checks)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)


def value_text(check: Check) -> str:
    """Show a check's value: text as it is, large numbers whole, others to four significant digits."""
    value = check.value
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
