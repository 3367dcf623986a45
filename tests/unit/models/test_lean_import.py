"""Imports that are put off come when they are needed, to the same objects; imports that must not be put off are not."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerlens import cli
from layerlens.config import CompressConfig, OptimizationConfig, ProfilingConfig
from layerlens.models import lean_import
from layerlens.models.lean_torch import DynamoInName

PACKAGE = """
from late_package.parts import LIMIT, Part
LISTED = [LIMIT]
"""
PARTS = """
import late_package.seen
LIMIT = 5
class Part:
    def __init__(self, size=1):
        self.size = size
def join(*parts):
    return sum(part.size for part in parts)
"""


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that counts as heavy; gives a function that runs code as a module does, with its imports put off."""
    folder = tmp_path / "late_package"
    folder.mkdir()
    for name, text in (("__init__", PACKAGE), ("parts", PARTS), ("seen", "")):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lean_import, "_HEAVY", ("late_package",))
    monkeypatch.setattr(lean_import, "_ASKED_FOR", {"Part"})
    lean = lean_import._LeanImport(builtins.__import__, DynamoInName())

    def run(code: str, name: str = "transformers.some_model") -> dict[str, Any]:
        own = {"__name__": name, "__builtins__": {**vars(builtins), "__import__": lean}}
        exec(code, own)
        return own

    yield run
    for name in [name for name in sys.modules if name.startswith("late_package")]:
        del sys.modules[name]


def is_imported() -> bool:
    return "late_package.seen" in sys.modules


def test_a_name_is_imported_when_it_is_used_and_then_the_module_holds_the_real_one(late: Any) -> None:
    own = late(
        "from late_package.parts import Part as Piece, join, LIMIT\ndef use():\n    return join(Piece(2), Piece(3)) + LIMIT"
    )
    assert not isinstance(3, own["Piece"])
    assert not is_imported()
    assert own["use"]() == 10
    assert is_imported()
    import late_package.parts as parts

    assert own["Piece"] is parts.Part
    assert own["join"] is parts.join


def test_what_is_imported_inside_a_function_waits_as_well(late: Any) -> None:
    own = late("def is_part(value):\n    from late_package.parts import Part\n    return isinstance(value, Part)")
    assert not own["is_part"](3)
    assert not is_imported()
    from late_package.parts import Part

    assert own["is_part"](Part())
    assert not own["is_part"](3)


@pytest.mark.parametrize(
    "code",
    [
        "import late_package.parts",
        "from late_package.parts import *",
        "from late_package.parts import Part, unheard_of",
        "from late_package import parts, __file__",
    ],
)
def test_other_imports_and_names_that_the_source_lacks_come_at_once(late: Any, code: str) -> None:
    if "unheard_of" in code:
        with pytest.raises(ImportError, match="unheard_of"):
            late(code)
    else:
        late(code)
    assert is_imported()


def test_a_package_that_is_not_there_is_missed_at_once(late: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_import, "_HEAVY", ("absent_package",))
    own = late("try:\n    from absent_package.parts import Part\nexcept ImportError:\n    Part = None")
    assert own["Part"] is None


def test_others_than_transformers_import_as_ever(late: Any) -> None:
    own = late("from late_package.parts import Part", "layerlens.some_module")
    assert is_imported()
    assert isinstance(own["Part"], type)


def test_where_transformers_is_there_already_nothing_is_put_off() -> None:
    import transformers  # noqa: F401

    lean_import.import_lean()
    assert not lean_import.is_lean()


@pytest.mark.parametrize(
    ("config", "is_wanted"),
    [
        (ProfilingConfig(execution="stream"), True),
        (ProfilingConfig(max_memory="1GB"), True),
        (CompressConfig(size="1GB", max_memory="1GB"), True),
        (ProfilingConfig(max_memory="1GB", execution="memory"), False),
        (ProfilingConfig(), False),
        (CompressConfig(size="1GB"), True),
        (OptimizationConfig(max_trainable_params=1), False),
        (None, False),
    ],
)
def test_only_what_is_streamed_or_capped_wants_it(config: Any, is_wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(lean_import, "import_lean", lambda: asked.append(True))
    lean_import.import_lean_for(config)
    assert bool(asked) is is_wanted


def test_only_a_process_that_is_the_command_asks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli, "import_lean_for", asked.append)
    typed = ["profile", str(tmp_path / "no model"), "--data", "x", "--out", str(tmp_path / "out"), "--max-memory", "1GB"]
    assert cli.main(typed) == cli.EXIT_BAD_INPUT
    assert asked == []
    monkeypatch.setattr(sys, "argv", ["layerlens", *typed])
    assert cli.main() == cli.EXIT_BAD_INPUT
    assert [config.max_memory for config in asked] == [1 << 30]


HEAVY = ("accelerate", "scipy.optimize", "sympy", "torch._dynamo", "torch.distributed.tensor", "torchao")

LEAN = f"""
import sys
from layerlens.models.lean_import import import_lean, is_lean
import_lean()
import_lean()
assert is_lean()
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=11)
model = BertForSequenceClassification(BertConfig(**small)).eval()
mask = torch.tensor([[1, 1, 0]])
loss = model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=mask, labels=torch.tensor([1])).loss
loss.backward()
GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11))(torch.tensor([[1, 2]]))
assert not {set(HEAVY)} & set(sys.modules), {set(HEAVY)} & set(sys.modules)

from transformers.loss.loss_for_object_detection import HungarianMatcher
outputs = dict(logits=torch.eye(3)[None], pred_boxes=torch.rand(1, 3, 4))
targets = [dict(class_labels=torch.tensor([2, 0]), boxes=outputs["pred_boxes"][0, [2, 0]])]
rows, columns = HungarianMatcher()(outputs, targets)[0]
assert (rows.tolist(), columns.tolist()) == ([0, 2], [1, 0])
assert "scipy.optimize" in sys.modules
from transformers.distributed import tensor_parallel
import torch.distributed.tensor as tensors
assert tensor_parallel.ALL_PARALLEL_STYLES["colwise"].output_layouts == tensors.Shard(-1)
assert isinstance(tensor_parallel.ALL_PARALLEL_STYLES["rowwise"].output_layouts, tensors.Replicate)
from transformers.integrations.accelerate import get_max_memory
assert get_max_memory()["cpu"] > 0
import accelerate
from transformers.modeling_utils import add_hook_to_module
assert add_hook_to_module(torch.nn.Linear(2, 2), accelerate.hooks.ModelHook())._hf_hook is not None
"""


def test_models_run_without_heavy_packages_and_these_work_once_they_are_needed() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
