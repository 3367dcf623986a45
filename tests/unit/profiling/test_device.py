"""A profile in memory on a device: nothing is left on the host that the device would miss."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.models.load import load_task_model
from layerlens.models.roles import describe_layers
from layerlens.profiling.run import profile_model
from tests.strict_device import STRICT, strict_device
from tests.unit.profiling.streamed.test_run import assert_same_numbers, case, in_memory


@pytest.mark.parametrize(("family", "proxy"), [("bert", "few"), ("vit", "off")])
def test_a_model_on_a_device_gives_the_processors_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, proxy: str
) -> None:
    # There is no autocast for a device that is not there.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    few = {"num_samples": 12, "head_samples": 16, "proxy": proxy, "proxy_steps": 1, "proxy_held_out": 4, "proxy_batch_size": 2}
    measured = case(tmp_path, family, **few)
    expected = in_memory(measured)
    task_model = load_task_model(measured.checkpoint, measured.data.task.info, seed=0)
    layout = describe_layers(task_model.model)
    with strict_device():
        task_model.model.to(STRICT)
        found = profile_model(task_model, layout, measured.data, measured.part, measured.config, command="test")[:2]
    if proxy == "off":
        assert_same_numbers(found, expected, of_gain=1e-3)
        return
    # A proxy is the little that is left of two losses of about 1.
    mine, theirs = ([layer.metrics["proxy_eval"] for layer in profile.layers] for profile, _ in (found, expected))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    assert any(theirs)
