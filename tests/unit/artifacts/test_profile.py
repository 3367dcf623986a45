"""Profiles of earlier versions are read, and keep the identity that their plans know them by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerlens.artifacts.profile import PROFILE_FILE, load_profile, save_profile
from layerlens.artifacts.store import sha256_of_json
from layerlens.errors import ManifestError
from tests.unit.budget.small_models import small


def test_a_profile_without_counted_memory_is_read_and_is_the_one_it_was(tmp_path: Path) -> None:
    made = small()
    save_profile(tmp_path, made.profile, made.arrays, made.timing)
    written = json.loads((tmp_path / PROFILE_FILE).read_text())
    del written["step_memory"]
    for block in written["blocks"]:
        del block["attention_bytes_per_token_pair"]
    (tmp_path / PROFILE_FILE).write_text(json.dumps(written))
    profile, _, _ = load_profile(tmp_path)
    told = {name: value for name, value in written.items() if name not in {"command", "versions", "warnings"}}
    assert profile.identity == sha256_of_json(told) != made.profile.identity


def test_a_folder_that_the_system_does_not_look_into_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot look into .*File name too long"):
        load_profile(tmp_path / ("a" * 300))
