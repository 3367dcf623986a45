"""Reading ahead and writing behind change when things are moved, never what is computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.errors import CheckpointError, ConfigError
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.device_placement import DevicePlacement, placement_on
from layerlens.streaming.link import BufferRing, Copy, Upload
from layerlens.streaming.placement import HostPlacement, Placement
from layerlens.streaming.samples import Part
from tests.unit.models.streamed.test_streamed_linear import reader_of
from tests.unit.streaming.deferred_link import DeferredLink, DeferredUpload

SHAPES = [(4, 3, 2), (2, 5, 2)]
#: Matrices of a block: more than the buffers that take turns.
NUM_MATRICES = 3


class Blocks(StreamedModel):
    """No model, only its blocks' layers; the last block stands for what surrounds the others."""

    def __init__(self, blocks: list[dict[str, StreamedLinear]]) -> None:
        self.blocks, self.model = blocks, nn.Module()

    def layers_of(self, block: int) -> dict[str, StreamedLinear]:
        return self.blocks[block]

    def layers_outside(self) -> dict[str, StreamedLinear]:
        return self.blocks[-1]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Of three blocks and what surrounds them, in several types and sizes."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    return {
        f"{block}.{number}": torch.randn(2 + block, 3 + number).to(types[number])
        for block in range(4)
        for number in range(NUM_MATRICES)
    }


@pytest.fixture
def model(tmp_path: Path, weights: dict[str, Tensor]) -> Blocks:
    reader = reader_of(tmp_path / "w.safetensors", **weights)
    return Blocks(
        [
            {
                name: StreamedLinear(WeightSource(reader, name), None, is_transposed=False)
                for name in weights
                if name.startswith(f"{block}.")
            }
            for block in range(4)
        ]
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ActivationStore]:
    with ActivationStore(tmp_path / "a.bin", SHAPES, 3) as made:
        yield made


def parts() -> list[Part]:
    found = [Part(0, slice(start, start + 1), {}, {}, None) for start in range(4)]
    return [*found, Part(1, slice(0, 2), {}, {}, None)]


def held_now(model: Blocks) -> set[str]:
    return {name for block in model.blocks for name, layer in block.items() if layer.source.is_held}


def assert_held(model: Blocks, weights: dict[str, Tensor], block: int) -> None:
    assert held_now(model) == set(model.blocks[block])
    for name, layer in model.blocks[block].items():
        assert torch.equal(layer.source.read(), weights[name]), name


def test_a_processor_reads_nothing_ahead() -> None:
    assert isinstance(placement_on(torch.device("cpu")), HostPlacement)


@pytest.mark.parametrize("said", [[0, 1, None, 1, 0], [], [2, 2, 2], [0, None]], ids=["plan", "none", "wrong", "part"])
def test_a_blocks_weights_are_there_in_its_turn_whatever_was_said(
    model: Blocks, weights: dict[str, Tensor], said: list[int | None]
) -> None:
    with DevicePlacement(DeferredLink()) as placement:
        placement.follow(said)
        for turn, block in ((0, 0), (1, 1), (1, 1), (None, 3), (1, 1), (0, 0)):
            with placement.held(model, turn):
                assert_held(model, weights, block)
    assert not held_now(model)


def test_a_block_that_follows_its_like_is_read_once_and_the_next_one_meanwhile(model: Blocks) -> None:
    link = DeferredLink()
    with DevicePlacement(link) as placement:
        placement.follow([0, 0, 1, 1])
        for turn in (0, 0, 1, 1):
            with placement.held(model, turn):
                pass
    assert link.num_uploads == 2 * NUM_MATRICES


def test_two_blocks_at_most_are_there(model: Blocks) -> None:
    link = DeferredLink()
    sizes = [sum(layer.source.num_bytes for layer in block.values()) for block in model.blocks]
    placement = DevicePlacement(link)
    with placement:
        placement.follow([0, 1, 2, 1, 0])
        for turn in (0, 1, 2, 1, 0):
            with placement.held(model, turn):
                if placement._coming is not None:
                    placement._coming.uploads.result()
    assert link.most_bytes == sizes[1] + sizes[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    reader = reader_of(tmp_path / "w.safetensors", w=torch.full((2, 2), bad))
    model = Blocks([{"w": StreamedLinear(WeightSource(reader, "w"), None, is_transposed=False)}])
    with (
        DevicePlacement(DeferredLink()) as placement,
        pytest.raises(CheckpointError, match="NaN or infinite weights in w"),
        placement.held(model, 0),
    ):
        pass


def doubled(placement: Placement, store: ActivationStore) -> None:
    """Slot 2 from slots 0 and 1, part by part."""
    for part, take in placement.reading(store, parts(), [0, 1]):
        first = take(0)
        second = take(1)
        placement.write(store, 2, part, first + 2.0 * second)
        del first, second
    placement.drain()


def fill(store: ActivationStore) -> None:
    for slot in range(2):
        for batch, shape in enumerate(SHAPES):
            store.write(slot, batch, 0, torch.randn(shape))


def assert_doubled(store: ActivationStore) -> None:
    for batch, (samples, _, _) in enumerate(SHAPES):
        first, second, found = (store.read(slot, batch, 0, samples) for slot in range(3))
        assert torch.equal(found, first + 2.0 * second)


def test_every_part_is_read_and_written_as_on_the_host(store: ActivationStore) -> None:
    link = DeferredLink()
    for placement in (HostPlacement(), DevicePlacement(link)):
        fill(store)
        with placement:
            doubled(placement, store)
        assert_doubled(store)
    assert (link.num_uploads, link.num_downloads) == (2 * len(parts()), len(parts()))


def test_two_parts_at_most_are_there(store: ActivationStore) -> None:
    link = DeferredLink()
    fill(store)
    with DevicePlacement(link) as placement:
        doubled(placement, store)
    largest = 4 * 2 * 5 * 2
    # Two slots of each of two parts, and an upload that has been taken may wait for its buffer's next turn.
    assert link.most_bytes <= 2 * 2 * largest


class Unordered(DeferredLink):
    """A device that computes without waiting for what it was sent."""

    def arriving(self, values: Tensor, staged: Tensor) -> Upload:
        class Careless(DeferredUpload):
            def take(self) -> Tensor:
                return values

        return Careless(values, staged)


def test_a_device_that_does_not_wait_for_a_copy_is_seen(model: Blocks, store: ActivationStore) -> None:
    fill(store)
    with DevicePlacement(Unordered()) as placement:
        with pytest.raises(CheckpointError, match="NaN or infinite weights"), placement.held(model, 0):
            pass
        doubled(placement, store)
    with pytest.raises(AssertionError):
        assert_doubled(store)


def test_a_buffer_that_is_used_again_too_early_is_seen(
    model: Blocks, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BufferRing, "used_until", lambda *_: None)
    with DevicePlacement(DeferredLink()) as placement, placement.held(model, 0), pytest.raises(AssertionError):
        assert_held(model, weights, 0)


class Slow(DeferredLink):
    """A device that copies back only once it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_copy = threading.Event()

    def download(self, values: Tensor, staged: Tensor) -> Copy:
        copy, allowed = super().download(values, staged), self.may_copy

        class Waiting(Copy):
            def finish(self) -> None:
                assert allowed.wait(20.0)
                copy.finish()

        return Waiting()


def test_nothing_is_written_before_it_is_copied_and_draining_waits_for_it(store: ActivationStore) -> None:
    link, part = Slow(), parts()[0]
    store.write(0, 0, 0, torch.zeros(SHAPES[0]))
    with DevicePlacement(link) as placement:
        placement.write(store, 0, part, torch.ones(1, 3, 2))
        drained = threading.Thread(target=placement.drain)
        drained.start()
        assert torch.equal(store.read(0, 0, 0, 1), torch.zeros(1, 3, 2))
        assert drained.is_alive()
        link.may_copy.set()
        drained.join(20.0)
        assert torch.equal(store.read(0, 0, 0, 1), torch.ones(1, 3, 2))


def test_a_write_that_fails_is_told_by_draining(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ConfigError("the disk is too full")

    monkeypatch.setattr(ActivationStore, "write", full)
    with DevicePlacement(DeferredLink()) as placement:
        placement.write(store, 0, parts()[0], torch.ones(1, 3, 2))
        with pytest.raises(ConfigError, match="too full"):
            placement.drain()
        placement.drain()


def test_a_step_that_ends_early_leaves_nothing_being_read(store: ActivationStore) -> None:
    fill(store)
    with DevicePlacement(DeferredLink()) as placement:
        for _ in placement.reading(store, parts(), [0, 1]):
            break
        placement.drain()
        doubled(placement, store)
    assert_doubled(store)
