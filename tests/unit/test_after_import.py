"""What is to be done after an import is done then, once, and nothing is left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from layerlens.after_import import _AfterImport, after_import


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that is not imported yet."""
    (tmp_path / "late_module.py").write_text("done = 'executed'\n")
    (tmp_path / "other_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    yield "late_module"
    for name in ("late_module", "other_module"):
        sys.modules.pop(name, None)


def _waiting(module: str) -> int:
    return sum(isinstance(finder, _AfterImport) and finder.module == module for finder in sys.meta_path)


def test_it_is_called_once_the_module_has_been_executed_and_not_before(late: str) -> None:
    seen: list[str] = []
    after_import(late, lambda: seen.append(sys.modules[late].done))
    import_module("other_module")
    assert (seen, _waiting(late), late in sys.modules) == ([], 1, False)
    import_module(late)
    assert (seen, _waiting(late)) == (["executed"], 0)


def test_it_is_called_at_once_where_the_module_was_imported(late: str) -> None:
    import_module(late)
    seen: list[str] = []
    after_import(late, lambda: seen.append(sys.modules[late].done))
    assert (seen, _waiting(late)) == (["executed"], 0)


def test_the_same_twice_is_called_once_and_two_functions_each(late: str) -> None:
    seen: list[str] = []

    def one() -> None:
        seen.append("one")

    after_import(late, one)
    after_import(late, one)
    after_import(late, lambda: seen.append("two"))
    assert _waiting(late) == 2
    import_module(late)
    assert (sorted(seen), _waiting(late)) == (["one", "two"], 0)


def test_a_module_that_does_not_exist_is_told_as_ever(late: str) -> None:
    after_import("absent_module", lambda: pytest.fail("there is nothing to come after"))
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        import_module("absent_module")
