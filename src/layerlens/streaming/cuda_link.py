"""Copies to and from a CUDA device on streams of their own, through pinned memory.

Memory of the device belongs to the stream that it was allocated on; `record_stream` keeps it from being given away while
another stream still works with it.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from layerlens.streaming.link import Copy, Link, Upload


class _CudaCopy(Copy):
    def __init__(self, done: torch.cuda.Event) -> None:
        self._done = done

    def finish(self) -> None:
        self._done.synchronize()


class _CudaUpload(Upload):
    def __init__(self, values: Tensor, done: torch.cuda.Event) -> None:
        self._values: Tensor | None = values
        self._done = done

    def take(self) -> Tensor:
        values, self._values = self._values, None
        if values is None:
            raise AssertionError("an upload is taken once")
        stream = torch.cuda.current_stream(values.device)
        stream.wait_event(self._done)
        values.record_stream(stream)
        return values

    def finish(self) -> None:
        self._done.synchronize()


class CudaLink(Link):
    """The link to a CUDA device.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def buffer(self, num_bytes: int) -> UInt8[Tensor, " bytes"]:
        # Each thread has a current device of its own, and pinning would make it another context there.
        with torch.cuda.device(self.device):
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, staged: Tensor) -> Upload:
        with torch.cuda.stream(self._up):
            values = torch.empty(staged.shape, dtype=staged.dtype, device=self.device)
            values.copy_(staged, non_blocking=True)
            return _CudaUpload(values, self._recorded(self._up))

    def download(self, values: Tensor, staged: Tensor) -> Copy:
        computed = self._recorded(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            self._down.wait_event(computed)
            staged.copy_(values, non_blocking=True)
            # The caller lets go of the values while they are still on their way.
            values.record_stream(self._down)
            return _CudaCopy(self._recorded(self._down))

    @staticmethod
    def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
        # Blocking: a thread that waits sleeps, and leaves its core to those that read.
        event = torch.cuda.Event(blocking=True)
        event.record(stream)
        return event
