"""`validation.json`: every check of a plan with its value, its target and its verdict."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from layerlens.words import SCHEMA_VERSION, Frozen

#: Its name beside the plan.
VALIDATION_FILE = "validation.json"


class Verdict(StrEnum):
    """`fail` exits with 1; `warn` does not; `not applicable` never counts as a pass."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


class Check(Frozen):
    """One check."""

    name: str
    value: float | str | None
    target: str
    verdict: Verdict
    meaning: str = Field(description="one line: what the check does and does not prove")


class Validation(Frozen):
    """The content of `validation.json`."""

    schema_version: int = SCHEMA_VERSION
    plan: str
    plan_hash: str | None = Field(default=None, description="sha256 of the plan that was checked; older versions left it out")
    checks: list[Check]

    @property
    def has_failed(self) -> bool:
        return any(check.verdict is Verdict.FAIL for check in self.checks)
