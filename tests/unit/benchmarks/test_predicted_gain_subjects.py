"""What a subject is planned with is what the command line says now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import predicted_gain_subjects
import pytest
from predicted_gain_subjects import STORIES, profiled

from layerlens.artifacts.profile import save_profile
from layerlens.progress import SILENT
from tests.unit.budget.small_models import small


def test_other_numbers_of_plans_make_other_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_profile(model: str, data: str, out: Path, *rest: Any, **options: Any) -> None:
        made = small()
        save_profile(out, made.profile, made.arrays, made.timing)

    monkeypatch.setattr(predicted_gain_subjects, "make_profile", make_profile)
    found = [profiled(replace(STORIES, max_plans=count), tmp_path, SILENT) for count in (12, 4, 12)]
    assert [len(measured.candidates) for measured in found] == [12, 4, 12]
    assert found[0].candidates == found[2].candidates
