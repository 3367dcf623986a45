"""Leave one out against the plain model with all but one matrix overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.compressing.leave_one_out import leave_one_out
from layerlens.compressing.outside_blocks import starting_block
from layerlens.models.roles import describe_layers
from tests.unit.compressing.cases import Case, case, noisy, overwritten


def kl_sums(measured: Case, model: nn.Module, before: list[Tensor]) -> tuple[list[float], list[int], list[Tensor]]:
    """Sum of KL and number of predicted positions of each sample, and the log-probabilities."""
    sums, counts, logs = [], [], []
    for number, sample in enumerate(measured.order()):
        inputs = measured.task.model_inputs(measured.task.collate([measured.examples[sample]]))
        with torch.no_grad():
            q = model(**inputs).logits[0, :-1].double().log_softmax(-1)
        logs.append(q)
        p = before[number] if before else q
        sums.append(float((p.exp() * (p - q)).sum()))
        counts.append(len(q))
    return sums, counts, logs


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_matrix_gives_back_what_a_plain_model_without_it_says(tmp_path: Path, family: str) -> None:
    measured = case(tmp_path, family)
    plain = measured.in_memory()
    table = {"gpt2": "transformer.wte", "llama": "model.embed_tokens"}[family]
    layers = [[spec.layer] for spec in describe_layers(plain).layers] + [[table, "lm_head"]]
    weights = noisy(plain, [path for paths in layers[:-1] for path in paths], size=0.1)
    # One matrix is hurt far more than the others.
    weights[layers[5][0]] = noisy(plain, layers[5], size=1.5)[layers[5][0]]
    weights |= dict.fromkeys([table, "lm_head"], noisy(plain, [table], size=0.05)[table])
    _, counts, before = kl_sums(measured, plain, [])
    with overwritten(plain, weights):
        whole = np.array(kl_sums(measured, plain, before)[0])
    model = measured.streamed()
    found = leave_one_out(model, measured.samples(model), weights, layers, work=tmp_path)
    assert found.kl_nats == pytest.approx(whole.sum() / sum(counts), rel=1e-3)
    assert {layer.layer for layer in found.layers} == {paths[0] for paths in layers}
    for paths in layers:
        with overwritten(plain, {path: values for path, values in weights.items() if path not in paths}):
            without = np.array(kl_sums(measured, plain, before)[0])
        reverted = next(layer for layer in found.layers if layer.layer == paths[0])
        gains = whole - without
        assert reverted.gain_nats == pytest.approx(gains.sum() / sum(counts), rel=1e-2, abs=1e-6)
        assert reverted.kl_nats == pytest.approx(without.sum() / sum(counts), rel=1e-3)
        assert reverted.share == pytest.approx(reverted.gain_nats / found.kl_nats, rel=1e-6)
        assert reverted.low <= reverted.gain_nats <= reverted.high
        assert (gains / counts).min() - 1e-9 <= reverted.low
        assert reverted.high <= (gains / counts).max() + 1e-9
    gains_in_order = [layer.gain_nats for layer in found.layers]
    assert gains_in_order == sorted(gains_in_order, reverse=True)
    assert found.pillars[0] == layers[5][0]
    assert all(layer.low > 0 and layer.share >= 2 / len(layers) for layer in found.layers if layer.is_pillar)
    assert len(found.pillars) < len(layers) / 2


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_a_change_starts_where_the_first_of_its_matrices_is(tmp_path: Path, family: str) -> None:
    measured = case(tmp_path, family)
    model = measured.streamed()
    second, third = model.layout.layers[-1].layer, next(s.layer for s in model.layout.layers if s.block == 1)
    assert starting_block(model, [second]) == 2
    assert starting_block(model, [second, third]) == 1
    if family == "vit":
        assert starting_block(model, ["classifier"]) == 3
    if family == "bert":
        assert starting_block(model, ["bert.pooler.dense"]) == starting_block(model, ["classifier"]) == 3
        assert starting_block(model, ["bert.embeddings.word_embeddings", second]) == 0
    if family == "gpt2":
        assert starting_block(model, ["lm_head"]) == 3
        assert starting_block(model, ["lm_head", "transformer.wte"]) == 0
