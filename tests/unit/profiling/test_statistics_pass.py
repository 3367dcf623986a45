"""The pass against gradients of every sample taken alone, on every family and task."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.config import FisherLabels
from layerlens.data.example import Batch
from layerlens.errors import NotFiniteError
from layerlens.models.weights import is_planned_module
from layerlens.profiling import layer_sums
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.spaces import Space
from layerlens.words import TaskKind
from tests.unit.profiling.cases import (
    Case,
    Vectors,
    VectorTask,
    open_case,
    per_sample_gradients,
    vector_examples,
    vector_statistics,
)

CASES = [
    ("bert", TaskKind.CLASSIFICATION),
    ("bert", TaskKind.REGRESSION),
    ("bert", TaskKind.QUESTION_ANSWERING),
    ("roberta", TaskKind.PAIR_CLASSIFICATION),
    ("distilbert", TaskKind.CLASSIFICATION),
    ("gpt2", TaskKind.CLASSIFICATION),
    ("gpt2", TaskKind.CAUSAL_LM),
    ("gpt_neo", TaskKind.CAUSAL_LM),
    ("llama", TaskKind.CLASSIFICATION),
    ("llama", TaskKind.CAUSAL_LM),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
]


@pytest.mark.parametrize(
    ("space", "is_direct"),
    [(Space.FEATURES, True), (Space.FEATURES, False), (Space.TOKENS, False)],
    ids=["direct", "ghost", "tokens"],
)
@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: str(value))
def test_gradients_and_norms_are_those_of_each_sample_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: TaskKind, space: Space, is_direct: bool
) -> None:
    monkeypatch.setattr(layer_sums, "is_direct_cheaper", lambda *_: is_direct)
    case = open_case(tmp_path, family, kind)
    expected = per_sample_gradients(case)
    statistics = case.statistics(space=space)
    metrics = raw_metrics(statistics)
    assert list(statistics.layers) == [spec.layer for spec in case.layout.layers]
    num_samples = len(case.examples)
    for layer, gradients in expected.items():
        norms = gradients.square().sum(dim=(1, 2))
        scale = norms.max().item()
        assert scale > 0, layer
        np.testing.assert_allclose(statistics.norms(layer, "empirical"), norms.numpy(), rtol=1e-3, atol=1e-5 * scale)
        first, second = statistics.mean_gradients(layer)
        sizes = statistics.half_sizes
        mean = (first * sizes[0] + second * sizes[1]).double() / num_samples
        torch.testing.assert_close(mean, gradients.mean(dim=0), rtol=1e-3, atol=1e-5 * scale**0.5)
        energy = gradients.mean(dim=0).square().sum().item() - norms.mean().item() / num_samples
        assert metrics[layer]["gradient_energy"] == pytest.approx(energy, rel=1e-3, abs=1e-5 * scale)
        assert metrics[layer]["fisher"] == pytest.approx(norms.mean().item(), rel=1e-4)
        assert metrics[layer]["gradient_norm_squared"] == pytest.approx(gradients.mean(dim=0).square().sum().item(), rel=1e-3)


@pytest.mark.parametrize("space", list(Space))
def test_the_halves_hold_every_other_sample_by_length(tmp_path: Path, space: Space) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    expected = per_sample_gradients(case)
    statistics = case.statistics(batch_size=3, space=space)
    by_length = sorted(range(7), key=lambda sample: (len(case.examples[sample]["input_ids"]), sample))
    # Batches of 3, 3 and 1: the half that is behind takes the odd sample.
    first = [by_length[position] for position in (0, 2, 4, 6)]
    second = [by_length[position] for position in (1, 3, 5)]
    assert statistics.half_sizes == (4, 3)
    for layer, gradients in expected.items():
        for half, members in zip(statistics.mean_gradients(layer), (first, second), strict=True):
            torch.testing.assert_close(half.double(), gradients[members].mean(dim=0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: str(value))
def test_grams_are_those_of_unpadded_inputs_and_gradients(tmp_path: Path, family: str, kind: TaskKind, space: Space) -> None:
    case = open_case(tmp_path, family, kind)
    statistics = case.statistics(space=space)
    inputs, outputs = _unpadded(case)
    for spec in case.layout.layers:
        sums = statistics.layers[spec.layer]
        x = torch.cat(inputs[spec.layer])
        expected = x.t() @ x / len(x)
        torch.testing.assert_close(sums.shared.input_gram.double(), expected, rtol=1e-3, atol=1e-5 * expected.max().item())
        g = torch.cat(outputs[spec.layer])
        expected = g.t() @ g / len(case.examples)
        torch.testing.assert_close(sums.output_gram.double(), expected, rtol=1e-3, atol=1e-5 * expected.max().item())


def _unpadded(case: Case) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """Inputs and output gradients of every layer, each sample alone."""
    inputs: dict[str, list[Tensor]] = {spec.layer: [] for spec in case.layout.layers}
    gradients: dict[str, list[Tensor]] = {spec.layer: [] for spec in case.layout.layers}
    for example in case.examples:
        kept: dict[str, Tensor] = {}

        def keep(name: str, args: tuple[Any, ...], output: Tensor, kept: dict[str, Tensor] = kept) -> None:
            inputs[name].append(args[0].detach().flatten(0, -2).double())
            kept[name] = output
            output.retain_grad()

        handles = [
            case.model.get_submodule(name).register_forward_hook(lambda _, args, output, name=name: keep(name, args, output))
            for name in inputs
        ]
        batch = case.task.collate([example])
        case.task.per_sample_loss(case.model(**case.task.model_inputs(batch)), batch).sum().backward()
        for handle in handles:
            handle.remove()
        for name, output in kept.items():
            gradients[name].append(output.grad.flatten(0, -2).double())
    case.model.zero_grad()
    return inputs, gradients


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: str(value))
def test_losses_come_in_calibration_order_and_the_model_is_left_as_it_was(tmp_path: Path, family: str, kind: TaskKind) -> None:
    case = open_case(tmp_path, family, kind)
    flags = {name: parameter.requires_grad for name, parameter in case.model.named_parameters()}
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    statistics = case.statistics()
    with torch.no_grad():
        for number, example in enumerate(case.examples):
            batch = case.task.collate([example])
            loss = case.task.per_sample_loss(case.model(**case.task.model_inputs(batch)), batch).item()
            assert statistics.losses[number] == pytest.approx(loss, rel=1e-4)
    assert {name: parameter.requires_grad for name, parameter in case.model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert not any(module._forward_hooks for module in case.model.modules() if is_planned_module(module))


@pytest.mark.parametrize(
    ("family", "kind"),
    [("bert", TaskKind.CLASSIFICATION), ("gpt2", TaskKind.CAUSAL_LM), ("bert", TaskKind.REGRESSION)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize(
    ("space", "is_direct"),
    [(Space.FEATURES, True), (Space.FEATURES, False), (Space.TOKENS, False)],
    ids=["direct", "ghost", "tokens"],
)
def test_sampled_labels_give_fisher_and_b_while_the_energy_is_debiased_at_the_data_s_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: TaskKind, space: Space, is_direct: bool
) -> None:
    monkeypatch.setattr(layer_sums, "is_direct_cheaper", lambda *_: is_direct)
    monkeypatch.setattr(layer_sums, "is_ghost_cheaper_alone", lambda *_: not is_direct)
    case = open_case(tmp_path, family, kind)
    other = _Relabelled(case)
    monkeypatch.setattr(case.task, "sample_labels", lambda outputs, batch, generator: other.relabel(batch))
    at_data, at_other = per_sample_gradients(case), per_sample_gradients(case, other.task)
    statistics = case.statistics(fisher_labels=FisherLabels.TRUE, space=space)
    metrics = raw_metrics(statistics)
    for layer, gradients in at_other.items():
        norms = gradients.square().sum(dim=(1, 2)).numpy()
        data_norms = at_data[layer].square().sum(dim=(1, 2)).numpy()
        assert not np.allclose(norms, data_norms, rtol=2e-2)
        np.testing.assert_allclose(statistics.norms(layer, "true"), norms, rtol=1e-3, atol=1e-5 * norms.max())
        fisher, empirical = norms.mean(), data_norms.mean()
        assert metrics[layer]["fisher"] == pytest.approx(fisher, rel=1e-3)
        assert metrics[layer]["fisher_empirical"] == pytest.approx(empirical, rel=1e-3)
        energy = at_data[layer].mean(dim=0).square().sum().item() - empirical / len(case.examples)
        assert metrics[layer]["gradient_energy"] == pytest.approx(energy, rel=1e-3, abs=1e-5 * empirical)
    plain = case.statistics(space=space)
    last = case.layout.layers[-1].layer
    assert not torch.allclose(statistics.layers[last].output_gram, plain.layers[last].output_gram, rtol=1e-2)


class _Relabelled:
    """The same task with every label changed in a fixed way."""

    def __init__(self, case: Case) -> None:
        self.kind = case.task.info.kind
        task = type(case.task)(case.task.info, 0)
        collate = task.collate
        task.collate = lambda examples: self.relabel(collate(examples))  # type: ignore[method-assign]
        self.task = task

    def relabel(self, batch: Batch) -> Batch:
        labels = batch["labels"]
        if self.kind is TaskKind.CAUSAL_LM:
            changed = torch.where(labels == -100, labels, (labels * 7 + 3) % 190)
        elif self.kind is TaskKind.REGRESSION:
            changed = labels + 2.0
        else:
            changed = (labels + 1) % 3
        return {**batch, "labels": changed}


def test_layers_that_read_the_same_tensor_share_their_sums(tmp_path: Path) -> None:
    for family in ("bert", "gpt2", "llama"):
        case = open_case(tmp_path, family, TaskKind.CLASSIFICATION)
        statistics = case.statistics()
        assert statistics.input_groups == {spec.layer: spec.input_group for spec in case.layout.layers}
        for spec in case.layout.layers:
            assert statistics.layers[spec.layer].shared is statistics.layers[spec.input_group].shared


def test_grams_of_few_rows_are_close_to_those_of_all_tokens() -> None:
    examples = vector_examples(400, length=12)
    full, mixed = (vector_statistics(Vectors(), examples, batch_size=50, gram_tokens=rows) for rows in (10_000, 1_600))
    assert full.layers["upper"].shared.num_rows == 4_800
    assert mixed.layers["upper"].shared.num_rows == 1_600
    for layer, sums in mixed.layers.items():
        for found, exact in (
            (sums.shared.input_gram, full.layers[layer].shared.input_gram),
            (sums.output_gram, full.layers[layer].output_gram),
        ):
            assert (found - exact).norm() < 0.15 * exact.norm()
            assert not torch.equal(found, exact)


def test_without_grams_none_are_made() -> None:
    statistics = vector_statistics(Vectors(), vector_examples(4), gram_tokens=0)
    assert statistics.layers["upper"].output_gram is None
    assert statistics.layers["upper"].shared.input_gram is None


@pytest.mark.parametrize("space", list(Space))
def test_norms_with_padding_agree_with_opacus(space: Space) -> None:
    with warnings.catch_warnings():
        # opacus warns about its own use of torch interfaces.
        warnings.simplefilter("ignore")
        from opacus.grad_sample import GradSampleModule
    model, task, examples = Vectors(), VectorTask(), vector_examples(6)
    statistics = vector_statistics(model, examples, space=space)
    wrapped = GradSampleModule(Vectors(), loss_reduction="sum")
    batch = task.collate(examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task.per_sample_loss(wrapped(batch["x"]), batch).sum().backward()
    for name in ("lower", "upper"):
        samples = wrapped.get_submodule(f"_module.{name}").weight.grad_sample
        np.testing.assert_allclose(statistics.norms(name, "empirical"), samples.square().sum(dim=(1, 2)).numpy(), rtol=1e-4)


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("length", [1, 4])
def test_grams_agree_with_curvlinops_kfac_expand(length: int, space: Space) -> None:
    """With `reduction="sum"` its gradient factor is summed over samples, ours is their mean; the input factors are equal."""
    with warnings.catch_warnings():
        # curvlinops imports packages that use deprecated parts of torch.
        warnings.simplefilter("ignore")
        from curvlinops import KFACLinearOperator

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Vectors()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).mean(dim=1)

    class Labelled(VectorTask):
        def per_sample_loss(self, outputs: Any, batch: Batch) -> Tensor:
            return nn.functional.cross_entropy(outputs, torch.ones(len(outputs), dtype=torch.long), reduction="none")

    from layerlens.profiling.calibration import calibration_batches
    from layerlens.profiling.statistics_pass import collect_statistics
    from tests.unit.profiling.cases import layer_specs

    model, examples = Classifier(), vector_examples(9, length=length)
    batches = calibration_batches([length] * 9, batch_size=4, gram_tokens=1000, seed=0)
    statistics = collect_statistics(model, layer_specs(model), Labelled(), examples, batches, space=space)
    x = torch.stack([torch.as_tensor(example["x"]) for example in examples])
    data = [(x[:4], torch.ones(4, dtype=torch.long)), (x[4:], torch.ones(5, dtype=torch.long))]
    names = ("body.lower", "body.upper")
    operator = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(reduction="sum"),
        [model.get_submodule(name).weight for name in names],
        data,
        fisher_type="empirical",
        kfac_approx="expand",
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()
    for name in names:
        sums = statistics.layers[name]
        torch.testing.assert_close(sums.shared.input_gram, operator._input_covariances[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(sums.output_gram, operator._gradient_covariances[name] / 9, rtol=1e-4, atol=1e-8)


def test_a_loss_that_is_not_finite_names_the_sample_and_the_first_layer(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    embedding = case.model.get_submodule("bert.embeddings.word_embeddings").weight
    case.examples[4]["input_ids"][1] = 199
    with torch.no_grad():
        embedding[199] = float("inf")
    with pytest.raises(NotFiniteError, match=r"sample 4 is nan, arising first at bert\.embeddings\.word_embeddings"):
        case.statistics()


def test_a_gradient_that_is_not_finite_names_the_layer_where_it_arises() -> None:
    class Rooted(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            # The root of zero is zero, its slope is infinite: the loss is fine, the gradient below is not.
            return self.upper(torch.sqrt(0.0 * self.lower(x)))

    with pytest.raises(NotFiniteError, match="gradient of layer lower is not finite"):
        vector_statistics(Rooted(), vector_examples(3))


def test_a_bfloat16_model_is_summed_in_float32() -> None:
    examples = vector_examples(6)
    exact = vector_statistics(Vectors(), examples)

    class Lowered(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.bfloat16()).float()

    found = vector_statistics(Lowered().bfloat16(), examples)
    for layer, sums in found.layers.items():
        assert sums.first.dtype == sums.output_gram.dtype == sums.shared.input_gram.dtype == torch.float32
        np.testing.assert_allclose(found.norms(layer, "empirical"), exact.norms(layer, "empirical"), rtol=0.1)
