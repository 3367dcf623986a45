"""What the calibration pass predicts against what a small change of one matrix really does to the model's predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerlens.compressing import matrices as matrices_file
from layerlens.compressing.matrices import Matrix
from layerlens.compressing.pricing import Pricer
from layerlens.compressing.sensitivity import Sensitivity
from layerlens.errors import NotFiniteError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.words import TaskKind
from tests.unit.compressing.calibrations import Calibrated, calibrated, sensitivities


def ratio(case: Calibrated, matrix: Matrix, sensitivity: Sensitivity, *, size: float = 0.01, trials: int = 6) -> float:
    """Measured divergence over the predicted one, for noise of a hundredth of the matrix."""
    model = case.in_memory()
    weight = dict(model.named_parameters(remove_duplicate=False))[f"{matrix.layer}.weight"].detach().clone()
    measured = predicted = 0.0
    for trial in range(trials):
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(trial), dtype=torch.float64)
        error = size * weight.std() * noise
        measured += case.divergence(model, {f"{matrix.layer}.weight": weight + error})
        own = (error.T if matrix.is_transposed else error).float().contiguous()
        predicted += Pricer(torch.ones_like(own), sensitivity).errors(own).loss
    return measured / predicted


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_a_small_change_of_a_layer_costs_what_was_predicted_within_a_factor_of_two(tmp_path: Path, family: str) -> None:
    case = calibrated(tmp_path, family, num_samples=96)
    found = sensitivities(case, tmp_path)
    assert len(found) == len(case.streamed().layout.layers)
    ratios = {layer: ratio(case, *pair, trials=3) for layer, pair in found.items()}
    assert all(0.5 < value < 2.0 for value in ratios.values()), ratios


@pytest.mark.parametrize("kind", [TaskKind.REGRESSION, TaskKind.QUESTION_ANSWERING, TaskKind.EMBEDDING])
def test_the_other_tasks_of_text_are_predicted_too(tmp_path: Path, kind: TaskKind) -> None:
    case = calibrated(tmp_path, "bert", kind, num_samples=96)
    found = sensitivities(case, tmp_path)
    layer = next(layer for layer in found if layer.endswith("layer.1.intermediate.dense"))
    assert 0.67 < ratio(case, *found[layer]) < 1.5


def test_a_linear_softmax_is_predicted_nearly_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices_file, "LARGE", 1000)
    case = calibrated(tmp_path, "llama", num_samples=128, tie_word_embeddings=False)
    found = sensitivities(case, tmp_path)
    assert ratio(case, *found["lm_head"], trials=12) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize(
    ("family", "table"),
    [
        ("llama", "model.embed_tokens"),
        ("gemma2", "model.embed_tokens"),
        ("ctrl", "transformer.w"),
        ("bert", "bert.embeddings.word_embeddings"),
    ],
)
def test_a_change_of_the_word_embedding_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, table: str
) -> None:
    monkeypatch.setattr(matrices_file, "LARGE", 1000)
    case = calibrated(tmp_path, family, num_samples=128)
    found = sensitivities(case, tmp_path)
    # The tied head of a decoder changes along with its table.
    assert found[table][0].tied == (() if family == "bert" else ("lm_head",))
    assert 0.5 < ratio(case, *found[table]) < 2.0


def test_a_classifier_is_predicted_like_any_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices_file, "LARGE", 1000)
    case = calibrated(tmp_path, "bert", num_samples=128)
    pooler = sensitivities(case, tmp_path)["bert.pooler.dense"]
    assert ratio(case, *pooler) == pytest.approx(1.0, abs=0.35)


def test_parts_of_batches_and_weights_read_in_slices_give_the_same_moments(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "llama")
    whole = sensitivities(case, tmp_path)
    cut = sensitivities(case, tmp_path, tokens_at_once=30, loss_tokens=20, holds_weights=False)
    for layer, (_, sensitivity) in whole.items():
        other = cut[layer][1]
        torch.testing.assert_close(sensitivity.input_gram, other.input_gram, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sensitivity.output_gram, other.output_gram, rtol=1e-3, atol=1e-6)
        error = torch.randn(sensitivity.terms[0].left.shape[-1], sensitivity.input_gram.shape[0])
        prices = [Pricer(error, one).errors(error).loss for one in (sensitivity, other)]
        # The signs of a sketch are drawn part by part.
        assert prices[0] == pytest.approx(prices[1], rel=0.1)


def test_a_loss_that_is_not_finite_names_the_layer_where_it_arises(tmp_path: Path) -> None:
    case = calibrated(tmp_path, "llama")
    path = tmp_path / "llama" / "model.safetensors"
    tensors = load_file(path)
    # Finite, as every weight has to be; its products are not.
    tensors["model.norm.weight"].fill_(torch.finfo(torch.float32).max)
    save_file(tensors, path, metadata={"format": "pt"})
    case = replace(case, checkpoint=open_checkpoint(str(path.parent)))
    with pytest.raises(NotFiniteError, match=r"is nan, arising after the last block, first at model\.norm; check its text"):
        sensitivities(case, tmp_path)
