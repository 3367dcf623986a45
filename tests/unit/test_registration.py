"""The quantiser registers itself when transformers is imported, before or after LayerLens, and costs nothing until then."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IS_KNOWN = "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING as table; assert 'layerlens' in table"


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "code",
    [
        f"import layerlens; {_IS_KNOWN}",
        f"import transformers, layerlens; {_IS_KNOWN}",
        f"import transformers.quantizers.auto, layerlens; {_IS_KNOWN}",
        f"import layerlens; from transformers import AutoModel; AutoModel.from_pretrained; {_IS_KNOWN}",
    ],
    ids=["first", "after transformers", "after its table", "through a class"],
)
def test_transformers_knows_layerlens_in_whichever_order_they_are_imported(code: str) -> None:
    _run(code)


def test_importing_layerlens_imports_nothing_heavy_and_leaves_one_hook() -> None:
    _run(
        "import sys, layerlens; from layerlens.registration import register_quantiser; register_quantiser(); "
        "assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules); "
        "assert sum(type(finder).__name__ == '_AfterImport' for finder in sys.meta_path) == 1"
    )


def test_the_hook_is_gone_once_it_has_done_its_work() -> None:
    _run(
        "import sys, layerlens, transformers.quantizers.auto; "
        "assert not any(type(finder).__name__ == '_AfterImport' for finder in sys.meta_path)"
    )
