"""A device made of host memory, whose copies come as late as they may: what a missing wait, or a buffer that is used too early,
would change on a real one is changed here every time.

    before a copy is waited for    what arrives is NaN, and so is what a download fills
    the copy itself                reads its source only then
"""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

from layerlens.streaming.link import Copy, Link, Upload


class DeferredLink(Link):
    """The link; `most_uploads` is the most bytes of uploads that were there at once."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.live_bytes = self.most_bytes = 0
        self.num_uploads = self.num_downloads = 0
        self._lock = threading.Lock()

    def buffer(self, num_bytes: int) -> Tensor:
        return torch.full((num_bytes,), 0xFF, dtype=torch.uint8)

    def upload(self, staged: Tensor) -> Upload:
        self.num_uploads += 1
        values = torch.full_like(staged, float("nan"))
        self._count(values.nbytes)
        weakref.finalize(values, self._count, -values.nbytes)
        return self.arriving(values, staged)

    def arriving(self, values: Tensor, staged: Tensor) -> Upload:
        """The copy to the device."""
        return DeferredUpload(values, staged)

    def download(self, values: Tensor, staged: Tensor) -> Copy:
        self.num_downloads += 1
        staged.fill_(float("nan"))
        return DeferredCopy(staged, values)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.live_bytes += num_bytes
            self.most_bytes = max(self.most_bytes, self.live_bytes)


class DeferredCopy(Copy):
    """Copies when it is waited for."""

    def __init__(self, target: Tensor, source: Tensor) -> None:
        self._target: Tensor | None = target
        self._source: Tensor | None = source
        self._lock = threading.Lock()

    def finish(self) -> None:
        with self._lock:
            if self._target is not None and self._source is not None:
                self._target.copy_(self._source)
            self._target = self._source = None


class DeferredUpload(Upload):
    """Copies when it is taken or its buffer is wanted."""

    def __init__(self, values: Tensor, staged: Tensor) -> None:
        self._values: Tensor | None = values
        self._copy = DeferredCopy(values, staged)

    def take(self) -> Tensor:
        self._copy.finish()
        values, self._values = self._values, None
        assert values is not None
        return values

    def finish(self) -> None:
        self._copy.finish()
