"""Copies to and from a CUDA device, against work on it that takes long enough for a missing wait to show."""

from __future__ import annotations

import pytest
import torch

from layerlens.streaming.cuda_link import CudaLink
from layerlens.streaming.link import BufferRing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none here")

#: Cycles of the device, some tens of milliseconds; and floats that take a while to copy.
LONG, COUNT = 50_000_000, 1 << 22


@pytest.fixture
def link() -> CudaLink:
    return CudaLink(torch.device("cuda", torch.cuda.current_device()))


def test_buffers_are_pinned(link: CudaLink) -> None:
    assert link.buffer(16).is_pinned()


def test_what_is_computed_waits_for_the_upload(link: CudaLink) -> None:
    staged = link.buffer(4 * COUNT).view(torch.float32).fill_(3.0)
    with torch.cuda.stream(link._up):
        torch.cuda._sleep(LONG)
    upload = link.upload(staged)
    total = upload.take().double().sum()
    upload.finish()
    staged.fill_(0.0)
    assert float(total) == 3.0 * COUNT


def test_a_download_waits_for_what_is_computed_and_outlives_its_source(link: CudaLink) -> None:
    staged = link.buffer(4 * COUNT).view(torch.float32).fill_(0.0)
    torch.cuda._sleep(LONG)
    values = torch.full((COUNT,), 5.0, device=link.device)
    copy = link.download(values, staged)
    del values
    # Takes the memory of the values if nothing keeps it.
    torch.zeros(COUNT, device=link.device)
    copy.finish()
    assert bool((staged == 5.0).all())


def test_memory_that_is_still_computed_with_is_not_uploaded_to(link: CudaLink) -> None:
    ring = BufferRing(link)
    totals = []
    for number in range(8):
        staged = ring.next(4 * COUNT).view(torch.float32).fill_(float(number))
        upload = link.upload(staged)
        ring.used_until(upload.finish)
        values = upload.take()
        torch.cuda._sleep(LONG // 4)
        totals.append(values.double().sum())
        del values
    assert [float(total) for total in totals] == [float(number) * COUNT for number in range(8)]
