"""Answers that need no compiler and no algebra are the compiler's own; everything else is asked of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch.fx.experimental.symbolic_shapes as shapes

from layerlens.models.lean_torch import ON_PLAIN, ModuleInName

PLAIN: dict[str, list[tuple[Any, ...]]] = {
    **{name: [(True,), (False,)] for name in ON_PLAIN if name not in ("sym_and", "sym_or", "sym_eq", "is_nested_int")},
    "sym_and": [(True,), (True, False), (True, True), (False, False, True)],
    "sym_or": [(True,), (True, False), (False, False), (False, False, True)],
    "sym_eq": [((1, 2), (1, 2)), ((1, 2), (2, 1)), ((1,), (1, 2)), ((), ())],
    "is_nested_int": [(3,), (-1,)],
}


@pytest.mark.parametrize("name", ON_PLAIN)
def test_plain_values_get_the_answer_that_torch_gives(name: str) -> None:
    assert PLAIN[name]
    for values in PLAIN[name]:
        mine, theirs = ON_PLAIN[name](*values), getattr(shapes, name)(*values)
        assert mine == theirs
        assert type(mine) is type(theirs)


def test_other_values_are_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(shapes, "guard_or_false", lambda *values, **options: asked.append((values, options)) or "symbolic")
    symbol = object()
    assert ON_PLAIN["guard_or_false"](symbol) == "symbolic"
    assert ON_PLAIN["guard_or_false"](True, skip=1) == "symbolic"
    assert asked == [((symbol,), {}), ((True,), {"skip": 1})]


def test_nothing_is_of_a_class_of_a_module_that_is_not_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_algebra.py").write_text("class Basic: pass\n__version__ = '1'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    late = ModuleInName("late_algebra")
    assert not isinstance(3, (str, late.Basic))
    assert "late_algebra" not in sys.modules
    assert isinstance(late.Basic(), late.Basic)
    assert "late_algebra" in sys.modules
    assert late.__version__ == "1"


COMPILER = """
import sys
from layerlens.models.lean_import import import_lean
import_lean()
import torch
assert "torch._dynamo" not in sys.modules

@torch.compiler.disable
def add(one, *, other):
    return one + other

@torch.compiler.disable(recursive=False)
def twice(value):
    return 2 * value

@torch._dynamo.allow_in_graph
def opaque(value):
    return value + 1

@torch._dynamo.assume_constant_result
def constant():
    return 3

assert (add(1, other=2), twice(2), opaque(1), constant()) == (3, 4, 2, 3)
assert add.__name__ == "add"
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.0)
(3.0 * weight).sum().backward()
optimizer.step()
assert torch.allclose(weight.detach(), torch.full((2,), 0.5))
with torch.device("meta"):
    assert torch.nn.Embedding(4, 5).weight.shape == (4, 5)
    assert torch.arange(2, 9, 3).shape == (3,)
    assert torch.randn(2, 3).tril().shape == (2, 3)
assert not {"torch._dynamo", "sympy"} & set(sys.modules)

from torch._dynamo import trace_rules
assert id(opaque) in trace_rules._allowed_callable_ids
assert constant._dynamo_marked_constant
assert torch._dynamo is sys.modules["torch._dynamo"]
waiting = [finder for finder in sys.meta_path if type(finder).__name__ == "_AfterImport"]
assert all(finder.module != "torch._dynamo" for finder in waiting)
graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward
compiled = torch.compile(lambda value: add(value.sin(), other=1).cos(), backend=backend)
value = torch.ones(2)
assert torch.allclose(compiled(value), (value.sin() + 1).cos())
assert len(graphs) == 2, "the function that is not compiled breaks the graph in two"
"""


def test_marks_count_once_there_is_a_compiler_and_nothing_imports_it_before() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILER], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
