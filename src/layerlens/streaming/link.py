"""Copies between the host and a device that go on while others compute, and the buffers on the host that they go through.

    upload      buffer ──► device     `take` orders what computes next behind the copy; the buffer is free after `finish`
    download    device ──► buffer     begins once what was computed so far is done; the buffer is filled after `finish`

Until then a buffer belongs to its copy, and nobody else may read or write it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack

import torch
from jaxtyping import UInt8
from torch import Tensor


class Copy(ABC):
    """A copy that was begun."""

    @abstractmethod
    def finish(self) -> None:
        """Let the calling thread wait until it is done."""


class Upload(Copy):
    """A copy to the device."""

    @abstractmethod
    def take(self) -> Tensor:
        """What arrives, for the calling thread to compute with: the device waits, not the thread. Asked for once."""


class Link(ABC):
    """The way to a device and back; each thread may use it.

    Attributes:
        device: Where it leads.
    """

    device: torch.device

    @abstractmethod
    def buffer(self, num_bytes: int) -> UInt8[Tensor, " bytes"]:
        """A buffer on the host that the device can copy from and to while others compute."""

    @abstractmethod
    def upload(self, staged: Tensor) -> Upload:
        """Begin to copy what lies in a buffer to the device."""

    @abstractmethod
    def download(self, values: Tensor, staged: Tensor) -> Copy:
        """Begin to copy what the calling thread has asked the device to compute into a buffer, of the same shape and type."""


class BufferRing:
    """Two buffers of the host that take turns, used by one thread; each is used again only when its last use is over.

    So one can be filled while the other is copied, and no more memory is pinned than twice the largest thing that is moved.

    Args:
        link: Makes the buffers.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._buffers: list[UInt8[Tensor, " bytes"] | None] = [None, None]
        self._waits: list[Callable[[], object] | None] = [None, None]
        self._turn = 0

    def next(self, num_bytes: int) -> UInt8[Tensor, " bytes"]:
        """The buffer whose turn it is, once it is free."""
        self._turn = 1 - self._turn
        wait, self._waits[self._turn] = self._waits[self._turn], None
        if wait is not None:
            wait()
        buffer = self._buffers[self._turn]
        if buffer is None or len(buffer) < num_bytes:
            # The smaller one goes before the larger one comes.
            self._buffers[self._turn] = buffer = None
            buffer = self._buffers[self._turn] = self._link.buffer(num_bytes)
        return buffer[:num_bytes]

    def used_until(self, wait: Callable[[], object]) -> None:
        """Say what waits for the end of the use of the buffer that `next` gave last."""
        self._waits[self._turn] = wait

    def finish(self) -> None:
        """Wait for the end of every use, also where that of another failed."""
        waits, self._waits = self._waits, [None, None]
        with ExitStack() as stack:
            for wait in waits:
                if wait is not None:
                    stack.callback(wait)
