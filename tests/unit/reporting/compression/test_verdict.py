from __future__ import annotations

from typing import Any

from layerlens.artifacts.plan import Budget, Chosen
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.compression.verdict import headline, statements, tiles
from layerlens.reporting.quantities import NO_BREAK, memory, nats
from layerlens.reporting.verdict import Statement, Tone
from layerlens.words import BudgetName, TaskKind
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder


def told(folder: CompressedFolder, topic: str) -> Statement:
    (found,) = [statement for statement in statements(folder) if statement.topic == topic]
    return found


def replanned(**update: Any) -> CompressedFolder:
    return a_folder(plan=artifacts.plan().model_copy(update=update))


def test_the_headline_says_size_bits_loss_and_how_far_the_baseline_is_beaten() -> None:
    made, text = artifacts.plan(), headline(a_folder())
    ours, rival = made.measured[0].kl_nats, made.measured[2].kl_nats
    assert memory(made.size_bytes) in text
    assert memory(made.model.size_bytes) in text
    assert f"{made.bits_per_weight:.2f} bits per weight" in text
    assert f"{nats(ours)} nats per token" in text
    assert f"{100 * (1 - ours / rival):.0f}{NO_BREAK}% below the best baseline" in text


def test_a_baseline_that_won_is_named_in_the_headline_and_is_a_caution() -> None:
    folder = a_folder(plan=artifacts.baseline_plan())
    assert f"a baseline, {artifacts.RIVAL}, beat every plan of LayerLens's own" in headline(folder)
    found = told(folder, "Against baselines")
    assert found.tone is Tone.CAUTION
    assert "0.012" in found.text


def test_a_win_is_good_and_tells_the_baseline_s_loss_and_bytes() -> None:
    found, rival = told(a_folder(), "Against baselines"), artifacts.plan().measured[2]
    assert found.tone is Tone.GOOD
    assert nats(rival.kl_nats) in found.text
    assert memory(rival.size_bytes) in found.text


def test_without_baselines_or_without_measurements_nothing_is_claimed() -> None:
    lone = replanned(measured=artifacts.plan().measured[:2])
    assert "no baseline was measured" in headline(lone)
    assert told(lone, "Against baselines").tone is Tone.CAUTION
    none = replanned(measured=[])
    assert "was not measured" in headline(none)
    assert told(none, "Against baselines").tone is Tone.CAUTION
    assert "not measured" in tiles(none)[2].note


def test_writing_something_worse_than_a_measured_baseline_is_bad() -> None:
    race = [entry.model_copy(update={"kl_nats": 1.0}) if not entry.is_baseline else entry for entry in artifacts.plan().measured]
    folder = replanned(measured=race)
    assert told(folder, "Against baselines").tone is Tone.BAD
    assert headline(folder).endswith("the best baseline does better.")


def test_a_better_baseline_that_may_not_be_written_is_a_caution_with_the_reason() -> None:
    race = [entry.model_copy(update={"kl_nats": 1.0}) if not entry.is_baseline else entry for entry in artifacts.plan().measured]
    barred = {**artifacts.plan().metadata, "only_measured": {artifacts.RIVAL: "the policies leave out int4"}}
    folder = replanned(measured=race, metadata=barred)
    found = told(folder, "Against baselines")
    assert found.tone is Tone.CAUTION
    assert found.text.endswith("measured better. It may not be written: the policies leave out int4.")
    assert headline(folder).endswith("a baseline that may not be written does better.")
    second = next(entry.name for entry in race if entry.is_baseline and entry.name != artifacts.RIVAL)
    other = replanned(measured=race, metadata=barred, chosen=Chosen(name=second, value=-1.0))
    assert told(other, "Against baselines").text.startswith(f"{second} was written at")


def test_the_tiles_are_the_figures_of_the_files() -> None:
    made = artifacts.plan()
    shown = {tile.label: tile.value for tile in tiles(a_folder())}
    assert shown == {
        "Size of all tensors": memory(made.size_bytes),
        "Bits per weight": f"{made.bits_per_weight:.2f}",
        "Measured KL": nats(made.measured[0].kl_nats),
        "Perplexity": "7.250",
    }


def test_losses_of_samples_are_not_called_losses_of_tokens() -> None:
    task = artifacts.plan().task.model_copy(update={"kind": TaskKind.CLASSIFICATION})
    assert "nats per sample" in headline(replanned(task=task))


def test_each_text_is_told_and_only_calibration_text_is_a_caution() -> None:
    folder = a_folder()
    assert "7.125 → 7.250" in told(folder, "On stdlib-docs").text
    assert nats(0.0123 * 1.7) in told(folder, "On encyclopaedia").text
    evaluation = artifacts.evaluation()
    lone = a_folder(evaluation=evaluation.model_copy(update={"texts": evaluation.texts[:1]}))
    assert told(lone, "Second text").tone is Tone.CAUTION


def test_an_evaluation_of_this_folder_makes_no_mismatch() -> None:
    assert all(statement.topic != "Mismatch" for statement in statements(a_folder()))


def test_the_size_is_told_against_its_limit_where_one_was_set() -> None:
    made = artifacts.plan()
    assert "1,000 bytes under the limit" in told(a_folder(), "Size").text
    free = replanned(budgets={BudgetName.SIZE_BYTES: Budget(limit=None, spent=made.size_bytes)})
    assert told(free, "Size").text.endswith("no limit was set.")


def test_an_evaluation_of_another_folder_is_called_out() -> None:
    evaluation = artifacts.evaluation()
    size = evaluation.size_bytes.model_copy(update={"after": 12_345})
    folder = a_folder(evaluation=evaluation.model_copy(update={"size_bytes": size}))
    assert "12,345" in told(folder, "Mismatch").text


def test_pillars_layers_and_travel_are_told_from_the_evaluation() -> None:
    folder, evaluation = a_folder(), artifacts.evaluation()
    assert evaluation.leave_one_out is not None
    assert all(name in told(folder, "Pillars").text for name in evaluation.leave_one_out.pillars)
    worst = max(evaluation.layers, key=lambda layer: layer.output_error)
    assert worst.layer in told(folder, "Layers").text
    assert "2.25 times" in told(folder, "How errors travel").text
    assert "grow" in told(folder, "How errors travel").text


def test_notes_of_plan_and_evaluation_are_sentences() -> None:
    notes = [statement.text for statement in statements(a_folder()) if statement.topic == "Note"]
    assert notes == ["A note of the plan.", "A note of the evaluation."]
