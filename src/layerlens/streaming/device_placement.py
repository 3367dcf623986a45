"""Blocks on a device: weights and hidden states are read ahead on the host and copied while the device computes.

    fetcher thread    weights of the next block      file ──► buffer ──► device
    reader thread     hidden states of the next part  store ──► buffer ──► device
    this thread       the block at work, part by part
    writer thread     what the part before left       device ──► buffer ──► store

At most two blocks, the one at work and the next, and two parts are on the device, beside what stays in memory for good (vectors,
small tables, a new head). Each thread has two buffers on the host that take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.streaming.activation_store import ActivationStore
from layerlens.streaming.cuda_link import CudaLink
from layerlens.streaming.link import BufferRing, Copy, Link, Upload
from layerlens.streaming.placement import HostPlacement, Placement, Take
from layerlens.streaming.samples import Part

_FLOAT_BYTES = 4


def placement_on(device: torch.device) -> Placement:
    """The placement for a device."""
    return HostPlacement() if device.type == "cpu" else DevicePlacement(CudaLink(device))


@dataclass
class _Turn:
    """A block's weights on their way to the device, or there."""

    turn: int | None
    uploads: Future[list[tuple[WeightSource, Upload]]]

    def arrive(self) -> None:
        for source, upload in self.uploads.result():
            source.hold(upload.take())

    def leave(self) -> None:
        for source, _ in self.uploads.result():
            source.release()


class DevicePlacement(Placement):
    """On a device, with the next block and the next part on their way.

    Args:
        link: The way to the device; a model's `place` has to have been called with its device.
    """

    def __init__(self, link: Link) -> None:
        self.device = link.device
        self._link = link
        self._fetcher, self._reader, self._writer = (
            ThreadPoolExecutor(1, thread_name_prefix=f"layerlens-{name}") for name in ("fetcher", "reader", "writer")
        )
        # One ring for each thread that fills its buffers.
        self._weights, self._incoming, self._outgoing = (BufferRing(link) for _ in range(3))
        self._turns: deque[int | None] = deque()
        self._at_work: _Turn | None = None
        self._coming: _Turn | None = None
        self._reads: deque[Future[Upload]] = deque()

    def follow(self, turns: Iterable[int | None]) -> None:
        self._turns = deque(turns)

    @contextmanager
    def held(self, model: StreamedModel, turn: int | None) -> Iterator[None]:
        # The weights stay until the next block's turn: a block that is swept again is not read again.
        if self._at_work is None or self._at_work.turn != turn:
            self._turn_to(model, turn)
        yield

    def _turn_to(self, model: StreamedModel, turn: int | None) -> None:
        self._let_go()
        coming, self._coming = self._coming, None
        if coming is not None and coming.turn != turn:
            coming.uploads.exception()
            coming = None
        if turn in self._turns:
            while self._turns.popleft() != turn:
                pass
        arriving = coming or self._begin(model, turn)
        arriving.arrive()
        self._at_work = arriving
        following = next((other for other in self._turns if other != turn), turn)
        if following != turn:
            self._coming = self._begin(model, following)

    def _begin(self, model: StreamedModel, turn: int | None) -> _Turn:
        layers = model.layers_outside() if turn is None else model.layers_of(turn)
        return _Turn(turn, self._fetcher.submit(self._fetch, [layer.source for layer in layers.values()]))

    def _fetch(self, sources: Sequence[WeightSource]) -> list[tuple[WeightSource, Upload]]:
        found = []
        for source in sources:
            staged = source.read_into(self._weights.next(source.num_bytes))
            found.append((source, upload := self._link.upload(staged)))
            self._weights.used_until(upload.finish)
        return found

    def reading(self, store: ActivationStore, parts: Iterable[Part], slots: Sequence[int]) -> Iterator[tuple[Part, Take]]:
        ahead: deque[tuple[Part, Take]] = deque()
        for part in parts:
            ahead.append((part, self._asked_for(store, part, slots)))
            if len(ahead) == 2:
                yield ahead.popleft()
        yield from ahead

    def _asked_for(self, store: ActivationStore, part: Part, slots: Sequence[int]) -> Take:
        uploads = {slot: self._reader.submit(self._read, store, slot, part) for slot in slots}
        self._reads.extend(uploads.values())

        def take(slot: int) -> Tensor:
            upload = uploads.pop(slot)
            self._reads.remove(upload)
            return upload.result().take()

        return take

    def _read(self, store: ActivationStore, slot: int, part: Part) -> Upload:
        shape = (part.samples.stop - part.samples.start, *store.shapes[part.batch][1:])
        staged = self._incoming.next(_FLOAT_BYTES * prod(shape)).view(torch.float32).view(shape)
        store.read_into(slot, part.batch, part.samples.start, staged)
        upload = self._link.upload(staged)
        self._incoming.used_until(upload.finish)
        return upload

    def write(self, store: ActivationStore, slot: int, part: Part, values: Tensor) -> None:
        values = values.detach().float().contiguous()
        staged = self._outgoing.next(values.nbytes).view(torch.float32).view(values.shape)
        copy = self._link.download(values, staged)
        written = self._writer.submit(_write, copy, store, slot, part, staged)
        # A write that failed says so when its buffer is wanted again, or in the end.
        self._outgoing.used_until(written.result)

    def drain(self) -> None:
        while self._reads:
            # What was read ahead of a step that ended early is not wanted.
            read = self._reads.pop()
            if not read.cancel():
                read.exception()
        self._outgoing.finish()

    def close(self) -> None:
        self.follow(())
        for executor in (self._fetcher, self._reader, self._writer):
            executor.shutdown()
        self._let_go()
        self._coming = None

    def _let_go(self) -> None:
        if self._at_work is not None:
            self._at_work.leave()
            self._at_work = None


def _write(copy: Copy, store: ActivationStore, slot: int, part: Part, staged: Tensor) -> None:
    copy.finish()
    store.write(slot, part.batch, part.samples.start, staged)
