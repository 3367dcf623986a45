"""Curves for a compression: kept ones are used where the data are what they were, and told where the release is another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.compression import load_curves, save_curves
from layerlens.data.partition import partition
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.workflow.compress_curves import option_grid
from layerlens.workflow.open import open_streamed
from tests.unit.workflow.compressions import Place, config, digest, place, write_text


def test_curves_of_data_that_changed_are_not_used(small_llama: Place, tmp_path: Path) -> None:
    mine = Place(small_llama.model, write_text(tmp_path / "text.txt", words=400))
    mine.compress(tmp_path / "out", bits_per_weight=9, widths=[8, 2], formats=["integer"], probes="off")
    shutil.rmtree(tmp_path / "out")
    kept = digest(tmp_path / "out.curves")
    write_text(tmp_path / "text.txt", words=400, seed=1)
    with pytest.raises(ConfigError, match=r"text\.txt has changed since .*out.curves was measured"):
        mine.compress(tmp_path / "out", bits_per_weight=9, widths=[8, 2], formats=["integer"], probes="off")
    assert digest(tmp_path / "out.curves") == kept


def test_held_out_samples_that_changed_are_found_beside_the_result_and_beside_the_curves(tmp_path: Path) -> None:
    mine = place(tmp_path, "llama")
    options: dict[str, Any] = {"bits_per_weight": 16, "widths": [8, 2], "formats": ["integer"], "probes": "off"}
    mine.compress(tmp_path / "out", **options)
    told = load_curves(tmp_path / "out.curves").data
    text = mine.data.read_text(encoding="utf-8").split()
    data, model = open_streamed(open_checkpoint(str(mine.model)), str(mine.data), config(**options))
    model.state.reader.close()
    part = partition(len(data.examples), data.splits, seed=0, has_eval_data=False)
    # One word of a window that only the probes and the race read.
    place_in_text = part.race[0] * 16 + 8
    text[place_in_text] = "w0" if text[place_in_text] != "w0" else "w1"
    mine.data.write_text(" ".join(text), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has changed since .*out was written"):
        mine.compress(tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=r"has changed since .*out was written"):
        mine.compress(tmp_path / "out", **{**options, "bits_per_weight": 15})
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has changed since .*out.curves was measured"):
        mine.compress(tmp_path / "out", **options)
    changed = open_streamed(open_checkpoint(str(mine.model)), str(mine.data), config(**options))[0]
    assert changed.hash(part.train[:8]) == told["hash"], "what calibrates is as it was"


def test_curves_of_another_release_are_used_and_told(small_llama: Place, measured: Path) -> None:
    folder = measured.with_name("out.curves")
    kept = load_curves(folder)
    save_curves(folder, kept.model_copy(update={"versions": {**kept.versions, "python": "3.0", "torch": "1.0"}}))
    plan = small_llama.compress(measured, bits_per_weight=9).plan
    assert plan is not None
    note = f"the curves were measured under other versions than those that race: torch 1.0, now {kept.versions['torch']}"
    assert note in plan.metadata["notes"]


def test_lean_effort_is_for_large_models_and_offers_what_a_few_vectors_give(small_llama: Place) -> None:
    checkpoint = open_checkpoint(str(small_llama.model))
    with_all, lean = (option_grid(checkpoint, config(size=1, effort=effort)) for effort in ("auto", "lean"))
    assert (with_all.is_iterated, lean.is_iterated) == (False, True)
    assert with_all.corrected_widths
    assert not lean.corrected_widths
