"""Program code that is not needed leaves memory, comes back by itself, and nothing else is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from layerlens.streaming.code_pages import CodeMapping, code_mappings, drop_code_pages

SMAPS = """\
55d000000000-55d000010000 r--p 00000000 fe:00 12 /usr/bin/python3
Rss:                  64 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7f0000000000-7f0000400000 r-xp 00001000 fe:00 42 /lib/torch with space.so
Size:               4096 kB
Rss:                1024 kB
Anonymous:             0 kB
7f0000400000-7f0000500000 r-xp 00401000 fe:00 43 /lib/relocated.so
Rss:                 512 kB
Anonymous:             4 kB
7f0000500000-7f0000600000 rwxp 00401000 fe:00 44 /lib/rewritten.so
Rss:                 100 kB
Anonymous:             0 kB
7f0000600000-7f0000700000 rw-p 00000000 fe:00 42 /lib/torch with space.so
Rss:                 100 kB
Anonymous:             0 kB
7f0000700000-7f0000800000 r-xp 00000000 00:00 0
Rss:                 100 kB
Anonymous:             0 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
Anonymous:             0 kB
"""


def test_only_code_of_files_that_nobody_changed_may_go() -> None:
    torch_code = CodeMapping(0x7F0000000000, 0x400000, "42 /lib/torch with space.so")
    relocated = CodeMapping(0x7F0000400000, 0x100000, "43 /lib/relocated.so")
    assert code_mappings(SMAPS) == {torch_code: True, relocated: False}
    assert code_mappings("") == {}


def test_a_list_without_pages_finds_the_same_and_promises_nothing() -> None:
    listed = "\n".join(line for line in SMAPS.splitlines() if not line.endswith("kB"))
    assert code_mappings(listed) == dict.fromkeys(code_mappings(SMAPS), False)


def file_pages() -> int:
    """KiB of mapped files that count as this process's memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile:"))


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells its mappings otherwise")
def test_torch_gives_its_code_back_and_goes_on() -> None:
    values = torch.arange(12.0).reshape(3, 4)
    expected = torch.linalg.svdvals(values @ values.t())
    for _ in range(2):
        before = file_pages()
        drop_code_pages()
        # The interpreter and torch at least; what runs right afterwards comes back in part.
        assert file_pages() < before - 4096
        assert torch.equal(torch.linalg.svdvals(values @ values.t()), expected)
        torch.linalg.eigh(torch.eye(3))
        torch.nn.functional.conv1d(torch.ones(1, 1, 4), torch.ones(1, 1, 2))
