"""The house stays in order: small files, no catch-alls, exports that exist, commands that are documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import layerlens
from layerlens.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_fits_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def test_every_public_name_can_be_imported() -> None:
    for name in layerlens.__all__:
        assert getattr(layerlens, name) is not None, name


def test_public_names_are_sorted() -> None:
    assert list(layerlens.__all__) == sorted(layerlens.__all__)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_and_has_its_twin(command: str) -> None:
    assert f"layerlens {command}" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert callable(getattr(layerlens, command))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_gives_a_twins_arguments_in_their_order(command: str) -> None:
    manual = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    [told] = re.findall(rf"^layerlens\.{command}\((.+?)\)", manual, re.MULTILINE)
    parameters = inspect.signature(getattr(layerlens, command)).parameters.values()
    assert told.split(", ") == [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]


@pytest.mark.parametrize(
    "module",
    [
        "layerlens",
        "layerlens.cli",
        "layerlens.workflow.export",
        "layerlens.workflow.plan",
        "layerlens.workflow.validate",
        "layerlens.workflow.report",
        "layerlens.tables",
    ],
)
def test_planning_checking_and_reporting_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
