"""A worker ends with whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from layerlens.orphan import EXIT_CODE

CODE = """
import sys, time
from layerlens.orphan import leave_with
leave_with(int(sys.argv[1]))
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("parents_off", "seconds", "code"), [(0, 0.7, 0), (1, 60.0, EXIT_CODE)])
def test_a_process_leaves_when_its_parent_is_another_one(parents_off: int, seconds: float, code: int) -> None:
    parent = os.getpid() + parents_off
    assert subprocess.run([sys.executable, "-c", CODE, str(parent), str(seconds)], check=False).returncode == code
