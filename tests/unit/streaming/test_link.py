"""Buffers that take turns: nobody gets one before its last use is over."""

from __future__ import annotations

import pytest
import torch

from layerlens.streaming.link import BufferRing
from tests.unit.streaming.deferred_link import DeferredLink


def test_two_buffers_take_turns_and_wait_for_their_last_use() -> None:
    ring, over = BufferRing(DeferredLink()), []
    first = ring.next(8)
    ring.used_until(lambda: over.append("first"))
    second = ring.next(8)
    ring.used_until(lambda: over.append("second"))
    assert first.data_ptr() != second.data_ptr()
    assert over == []
    assert ring.next(4).data_ptr() == first.data_ptr()
    assert over == ["first"]
    ring.finish()
    assert over == ["first", "second"]
    ring.finish()
    assert over == ["first", "second"]


def test_a_larger_thing_gets_a_larger_buffer() -> None:
    ring = BufferRing(DeferredLink())
    assert [len(ring.next(num_bytes)) for num_bytes in (4, 4, 16, 2)] == [4, 4, 16, 2]


def test_every_use_is_waited_for_even_if_one_failed() -> None:
    ring, over = BufferRing(DeferredLink()), []

    def fail() -> None:
        raise RuntimeError("disk full")

    for wait in (lambda: over.append("first"), fail):
        ring.next(1)
        ring.used_until(wait)
    with pytest.raises(RuntimeError, match="disk full"):
        ring.finish()
    assert over == ["first"]


def test_what_was_not_waited_for_is_no_number() -> None:
    link = DeferredLink()
    staged = torch.ones(3)
    upload = link.upload(staged)
    staged.fill_(2.0)
    assert torch.equal(upload.take(), torch.full((3,), 2.0))
    copy = link.download(torch.ones(3), staged)
    assert bool(staged.isnan().all())
    copy.finish()
    assert torch.equal(staged, torch.ones(3))
