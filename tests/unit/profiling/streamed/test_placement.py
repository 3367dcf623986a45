"""A streamed profile on a device: every number of it is what it is on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.artifacts.profile import Profile
from layerlens.models.devices import choose_device, forget_peak, peak_device_bytes
from layerlens.models.streamed.load import StreamedModel
from layerlens.profiling import capture
from layerlens.profiling.spaces import Space
from layerlens.profiling.streamed.run import profile_streamed
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.boundaries import fewest_slots
from layerlens.streaming.device_placement import DevicePlacement, placement_on
from layerlens.streaming.link import Copy, Link, Upload
from layerlens.streaming.placement import HostPlacement, Placement
from layerlens.streaming.samples import Part
from tests.strict_device import STRICT, StrictTensor, strict_device
from tests.unit.profiling.streamed.test_run import WHOLE, Case, assert_same_numbers, case, run_streamed, settings_for
from tests.unit.streaming.deferred_link import DeferredCopy, DeferredLink, DeferredUpload

#: Several parts of a batch, a block swept twice, and inputs computed again.
PARTS = {"tokens_at_once": 40, "holds_weights": True, "num_sweeps": 2, "loss_tokens": 40}


def run_on(
    placement: Placement, case: Case, model: StreamedModel, work: Path, **settings: object
) -> tuple[Profile, dict[str, np.ndarray]]:
    with placement:
        profile, arrays, timing = profile_streamed(
            model,
            case.data,
            case.part,
            case.config,
            work=work,
            settings_for=settings_for(fewest_slots, **settings),
            command="test",
            placement=placement,
        )
    assert timing.device
    return profile, arrays


@pytest.mark.parametrize(("family", "labels"), [("bert", "empirical"), ("llama", "true")])
def test_a_device_whose_copies_come_late_gives_the_same_bytes(tmp_path: Path, family: str, labels: str) -> None:
    measured = case(tmp_path, family, fisher_labels=labels)
    expected, expected_arrays = run_streamed(measured, tmp_path / "host", fewest_slots, **PARTS)
    link = DeferredLink()
    profile, arrays = run_on(DevicePlacement(link), measured, measured.streamed(), tmp_path / "device", **PARTS)
    assert link.num_uploads > link.num_downloads > 0
    assert profile == expected
    assert arrays.keys() == expected_arrays.keys()
    assert all(np.array_equal(arrays[name], values) for name, values in expected_arrays.items())


class LastMoment(HostPlacement):
    """Writes nothing before it has to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[ActivationStore, int, Part, Tensor]] = []

    def write(self, store: ActivationStore, slot: int, part: Part, values: Tensor) -> None:
        self.waiting.append((store, slot, part, values))

    def drain(self) -> None:
        for waiting in self.waiting:
            super().write(*waiting)
        self.waiting.clear()


def test_every_step_waits_for_what_it_wrote_and_leaves_it_unchanged_meanwhile(tmp_path: Path) -> None:
    measured = case(tmp_path, "llama", fisher_labels="true")
    expected, expected_arrays = run_streamed(measured, tmp_path / "host", fewest_slots, **PARTS)
    placement = LastMoment()
    profile, arrays = run_on(placement, measured, measured.streamed(), tmp_path / "late", **PARTS)
    assert not placement.waiting
    assert profile == expected
    assert all(np.array_equal(arrays[name], values) for name, values in expected_arrays.items())


class StrictLink(Link):
    """The way to a device whose tensors mix with no others."""

    device = STRICT

    def buffer(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def upload(self, staged: Tensor) -> Upload:
        return DeferredUpload(StrictTensor(torch.full_like(staged, float("nan"))), staged)

    def download(self, values: Tensor, staged: Tensor) -> Copy:
        assert isinstance(values, StrictTensor)
        return DeferredCopy(staged, values.host)


@pytest.mark.parametrize(
    ("family", "labels", "space"),
    [("bert", "true", None), ("gpt2", "empirical", Space.TOKENS), ("vit", "empirical", None)],
    ids=["bert-true", "gpt2-tokens", "vit"],
)
def test_nothing_is_left_on_the_host_that_a_device_would_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, labels: str, space: Space | None
) -> None:
    if space is not None:
        monkeypatch.setattr(capture, "choose_space", lambda *_: space)
    measured = case(tmp_path, family, fisher_labels=labels)
    expected = run_streamed(measured, tmp_path / "host", fewest_slots, **PARTS)
    model = measured.streamed()
    with strict_device():
        found = run_on(DevicePlacement(StrictLink()), measured, model, tmp_path / "device", **PARTS)
    assert_same_numbers(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none here")
@pytest.mark.parametrize("settings", [WHOLE, PARTS], ids=["whole", "parts"])
@pytest.mark.parametrize(
    ("family", "labels"), [("bert", "empirical"), ("gpt2", "empirical"), ("llama", "true"), ("vit", "empirical")]
)
def test_a_cuda_device_gives_the_processors_numbers(
    tmp_path: Path, family: str, labels: str, settings: dict[str, object]
) -> None:
    measured = case(tmp_path, family, fisher_labels=labels)
    device = choose_device("cuda")
    forget_peak(device)
    found = run_on(placement_on(device), measured, measured.streamed(), tmp_path / "device", **settings)
    assert (peak_device_bytes(device) or 0) > 0
    assert_same_numbers(found, run_streamed(measured, tmp_path / "host", fewest_slots, **settings), of_gain=1e-3)
