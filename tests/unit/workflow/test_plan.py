"""What a plan may be written over, and where it reads from."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.profile import save_profile
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError
from layerlens.workflow.plan import plan
from tests.unit.budget.small_models import small

CONFIG = OptimizationConfig(max_trainable_params=2000)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    made = small()
    save_profile(tmp_path / "profile", made.profile, made.arrays, made.timing)
    return tmp_path / "profile"


@pytest.mark.parametrize("name", ["mine.json", "notes.txt", "folder.json"])
def test_a_folder_of_candidates_that_holds_anything_else_is_refused_and_left_as_it_is(profile: Path, name: str) -> None:
    out = profile.parent / "plan.json"
    plan(profile, out, CONFIG)
    before, kept = out.read_bytes(), out.with_name("plan.candidates") / name
    if name.startswith("folder"):
        kept.mkdir()
    else:
        kept.write_text("{}")
    with pytest.raises(ConfigError, match="holds other files than candidates"):
        plan(profile, out, OptimizationConfig(max_trainable_params=1000))
    assert kept.exists()
    assert out.read_bytes() == before


def test_a_link_to_a_folder_of_candidates_is_refused(profile: Path) -> None:
    out = profile.parent / "plan.json"
    plan(profile, out, CONFIG)
    out.with_name("plan.candidates").rename(profile.parent / "elsewhere")
    out.with_name("plan.candidates").symlink_to(profile.parent / "elsewhere")
    with pytest.raises(ConfigError, match="holds other files than candidates"):
        plan(profile, out, CONFIG)
    assert any((profile.parent / "elsewhere").iterdir())


def test_a_profile_may_lie_under_home(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(profile.parent))
    made = plan("~/profile", "~/plan.json", CONFIG)
    assert made.path == profile.parent / "plan.json"
    assert made.plan.metadata.profile == str(profile)
