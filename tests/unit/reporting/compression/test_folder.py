from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from layerlens.artifacts.compression import save_compression_plan
from layerlens.artifacts.compression_evaluation import Spread, TextQuality
from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import ManifestError
from layerlens.reporting.compression.folder import CompressedFolder, bits_per_weight, is_compressed, read_compressed
from layerlens.reporting.compression.run import SECTIONS
from layerlens.reporting.compression.verdict import headline, statements, tiles
from layerlens.words import TaskKind
from tests.unit.reporting import artifacts as tuning
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder, write_folder
from tests.unit.reporting.compression.synthetic_curves import EMBEDDING, HIDDEN, VOCABULARY, curves


def test_everything_that_is_there_is_read_and_nothing_is_missing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "compressed", beside=curves(), evaluated=artifacts.evaluation())
    found = read_compressed(folder)
    assert (found.name, found.plan, found.curves) == ("compressed", artifacts.plan(), curves())
    assert found.evaluation == artifacts.evaluation()
    assert found.missing == ()


def test_curves_are_found_beside_a_folder_that_is_named_by_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folder(tmp_path / "compressed", beside=curves()))
    assert read_compressed(Path()).curves == curves()


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    unmeasured = artifacts.plan().model_copy(update={"measured": []})
    found = read_compressed(write_folder(tmp_path / "compressed", made=unmeasured))
    text = " ".join(found.missing)
    assert len(found.missing) == 3
    assert "compressed.curves/curves.json" in text
    assert "layerlens evaluate compressed --against MODEL" in text


def test_curves_of_another_checkpoint_are_left_out_and_named(tmp_path: Path) -> None:
    foreign = curves().model_copy(update={"model": curves().model.model_copy(update={"hash": "b" * 64})})
    found = read_compressed(write_folder(tmp_path / "compressed", beside=foreign))
    assert found.curves is None
    assert any("another checkpoint" in line for line in found.missing)


def test_a_damaged_evaluation_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "compressed")
    (folder / "evaluation.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"evaluation\.json"):
        read_compressed(folder)


def test_a_plan_that_was_edited_so_that_it_no_longer_adds_up_is_refused(tmp_path: Path) -> None:
    edited = artifacts.plan().model_copy(update={"size_bytes": artifacts.plan().size_bytes + 7})
    with pytest.raises(ManifestError, match="does not add up"):
        read_compressed(write_folder(tmp_path / "compressed", made=edited))


def test_only_a_plan_of_compression_makes_a_folder_a_compressed_one(tmp_path: Path) -> None:
    assert not is_compressed(tmp_path)
    save_compression_plan(tmp_path, artifacts.plan())
    assert is_compressed(tmp_path)
    tuning.write_run(tmp_path, made=tuning.plan(), has_profile=False, has_candidates=False)
    assert not is_compressed(tmp_path)
    for text in ("{", json.dumps([1])):
        (tmp_path / "plan.json").write_text(text, encoding="utf-8")
        assert not is_compressed(tmp_path)


def test_bytes_before_come_from_the_curves_or_from_the_checkpoint_s_mean() -> None:
    exact, mean = a_folder(), a_folder(curves=None)
    assert exact.has_exact_sizes
    assert not mean.has_exact_sizes
    # All numbers of this checkpoint take four bytes, so that the mean is exact too.
    assert exact.bytes_before == mean.bytes_before
    assert exact.bytes_before[EMBEDDING] == 4 * VOCABULARY * HIDDEN


def test_a_matrix_of_fewer_bytes_per_number_is_counted_as_the_curves_say() -> None:
    narrow = [matrix.model_copy(update={"kept_element_bytes": 2}) for matrix in curves().matrices]
    found = a_folder(curves=curves().model_copy(update={"matrices": narrow}))
    assert found.bytes_before[EMBEDDING] == 2 * VOCABULARY * HIDDEN


def test_winner_and_rivals_are_told_by_name_and_by_measurement() -> None:
    ours = a_folder()
    assert ours.winner is not None
    assert ours.winner.name == artifacts.OURS
    assert ours.best_baseline is not None
    assert ours.best_baseline.name == artifacts.RIVAL
    theirs = a_folder(plan=artifacts.baseline_plan())
    assert theirs.winner == theirs.best_baseline
    assert theirs.best_candidate is not None
    assert theirs.best_candidate.name == artifacts.OURS


def embedding_folder(**metadata: Any) -> CompressedFolder:
    """A plan for embeddings, and an evaluation of them."""
    made = artifacts.plan()
    task = TaskInfo(kind=TaskKind.EMBEDDING, max_length=64)
    layers = [entry.model_copy(update={"why": ""}) for entry in made.layers]
    plan = made.model_copy(update={"task": task, "layers": layers, "metadata": {**made.metadata, **metadata}})
    text = TextQuality(name="pairs", num_positions=9, embedding_distance=Spread(mean=0.01, median=0.01, p99=0.02, max=0.03))
    return a_folder(plan=plan, evaluation=artifacts.evaluation().model_copy(update={"texts": [text]}))


def test_distances_of_embeddings_are_nowhere_called_nats_or_a_divergence_of_predictions() -> None:
    folder = embedding_folder()
    sections = [section for make in SECTIONS if (section := make(folder)) is not None]
    said = [headline(folder), *map(str, tiles(folder)), *map(str, statements(folder)), *(section.body for section in sections)]
    said += [json.dumps([chart.traces, chart.layout], ensure_ascii=False) for section in sections for chart in section.charts]
    assert re.findall(r".{0,40}\b(?:nats|KL)\b", " ".join(said)) == []
    assert "(1 − cosine)" in headline(folder)


def test_what_was_compared_decides_the_unit_where_the_plan_tells_it() -> None:
    assert embedding_folder(held_out={"compared": "distribution"}).unit == "nats"
    headless = artifacts.plan().model_copy(update={"metadata": {"held_out": {"compared": "embedding"}}})
    assert a_folder(plan=headless).unit == "1 − cosine"
    assert (a_folder().unit, a_folder().whole_unit) == ("nats", "nats per token")


def test_bits_per_weight_of_some_matrices_are_their_bytes_over_their_weights() -> None:
    first, second = artifacts.plan().layers[:2]
    weights = first.out_features * first.in_features + second.out_features * second.in_features
    assert bits_per_weight([first, second]) == pytest.approx(8 * (first.size_bytes + second.size_bytes) / weights)
