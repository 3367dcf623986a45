"""What the hooks refuse, and what they put up with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.errors import UnsupportedModelError
from layerlens.models.block_autocast import blocks_in_bf16
from layerlens.models.frozen import frozen
from layerlens.profiling import capture as capture_module
from layerlens.profiling.calibration import calibration_batches
from layerlens.profiling.capture import Capture
from layerlens.profiling.gains import gain_curves
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.spaces import Space, Tokens
from layerlens.profiling.statistics import Statistics
from layerlens.words import TaskKind
from tests.unit.profiling.cases import Case, Vectors, open_case, vector_examples, vector_statistics


def test_a_layer_that_runs_twice_is_refused_by_name() -> None:
    class Twice(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return self.upper(torch.tanh(self.lower(x) + self.lower(2 * x)))

    with pytest.raises(UnsupportedModelError, match="layer lower runs more than once"):
        vector_statistics(Twice(), vector_examples(3))


def test_a_layer_whose_rows_belong_to_no_sample_is_refused_by_name() -> None:
    class Pruned(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.lower(x.flatten(0, 1)[1:]))
            return self.upper(hidden).mean(dim=0).expand(*x.shape[:2], 3)

    with pytest.raises(UnsupportedModelError, match=r"layer lower reads .* rows cannot be told apart"):
        vector_statistics(Pruned(), vector_examples(3, length=4))


def test_text_with_its_tokens_first_is_refused_by_name() -> None:
    class TokensFirst(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return self.upper(torch.tanh(self.lower(x.transpose(0, 1)))).transpose(0, 1)

    # Of four tokens and two samples: as many rows as two windows of each sample would have.
    with pytest.raises(UnsupportedModelError, match=r"layer lower reads \(4, 2, 5\) in a batch of 2 samples, tokens first"):
        vector_statistics(TokensFirst(), vector_examples(4, length=4), batch_size=2)


def test_an_input_that_is_overwritten_after_it_was_read_is_refused_by_name() -> None:
    class Overwriting(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            hidden = self.lower(x)
            x.add_(1.0)
            return self.upper(torch.tanh(hidden))

    with pytest.raises(UnsupportedModelError, match="input of layer lower is changed in place"):
        vector_statistics(Overwriting(), vector_examples(3))


def test_a_layer_that_reads_flattened_tokens_is_told_apart_by_sample() -> None:
    class Flat(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            return self.upper(torch.tanh(self.lower(x.flatten(0, 1)))).view(*x.shape[:2], 3)

    examples = vector_examples(5)
    flat, plain = vector_statistics(Flat(), examples), vector_statistics(Vectors(), examples)
    for layer in ("lower", "upper"):
        np.testing.assert_allclose(flat.norms(layer, "empirical"), plain.norms(layer, "empirical"), rtol=1e-4)
        torch.testing.assert_close(flat.layers[layer].shared.input_gram, plain.layers[layer].shared.input_gram)


@pytest.mark.parametrize("space", list(Space))
def test_under_autocast_the_input_is_rounded_and_its_gram_is_not(space: Space) -> None:
    examples, model = vector_examples(9, length=7), Vectors()
    with blocks_in_bf16([model], torch.device("cpu")):
        found = vector_statistics(model, examples, space=space)
    rows = torch.cat([torch.from_numpy(example["x"]).bfloat16().double() for example in examples])
    gram = found.layers["lower"].shared.input_gram
    assert gram is not None
    torch.testing.assert_close(gram.double(), rows.t() @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_a_layer_that_the_loss_does_not_depend_on_has_no_gradient() -> None:
    class Idle(Vectors):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return super().forward(x)

    statistics = vector_statistics(Idle(), vector_examples(5))
    assert statistics.norms("idle", "empirical").tolist() == [0.0] * 5
    assert statistics.layers["idle"].output_gram is None
    assert (statistics.norms("lower", "empirical") > 0).all()


@pytest.mark.parametrize("space", list(Space))
def test_samples_that_do_not_reach_a_layer_count_whatever_the_batches(space: Space) -> None:
    class Skipping(Vectors):
        def forward(self, x: Tensor) -> Tensor:
            # Samples of one length share a batch, so a batch skips the lower layer as a whole or not at all.
            return self.upper(torch.tanh(self.lower(x) if x.shape[1] > 3 else torch.zeros(*x.shape[:2], 6)))

    examples = [*vector_examples(4, length=3), *vector_examples(4, length=5)]
    found = vector_statistics(Skipping(), examples, batch_size=4, space=space)
    reached = vector_statistics(Vectors(), examples[4:], batch_size=4, space=space)
    assert found.norms("lower", "empirical")[:4].tolist() == [0.0] * 4
    gram, all_reached = (statistics.layers["lower"].output_gram for statistics in (found, reached))
    assert gram is not None
    torch.testing.assert_close(2.0 * gram, all_reached)


def test_frozen_puts_flags_mode_and_cache_back_even_after_an_error(tmp_path: Path) -> None:
    model = open_case(tmp_path, "gpt2", TaskKind.CAUSAL_LM).model
    model.train()
    model.config.use_cache = True
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]

    def fail() -> None:
        with frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert not model.training
            assert model.config.use_cache is False
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.training
    assert model.config.use_cache is True


def _run(case: Case, parts: Callable[[int], list[slice | None]], gram_tokens: int, space: Space) -> Statistics:
    """The pass with each batch in parts that share its padding, at the data's and at other labels."""
    lengths = sample_lengths(case.model, case.layout.layers, case.task, case.examples)
    batches = calibration_batches(lengths, batch_size=5, gram_tokens=gram_tokens, seed=0)
    modules = {spec.layer: case.model.get_submodule(spec.layer) for spec in case.layout.layers}
    num_rows = sum(len(batch.samples) * batch.num_tokens for batch in batches)
    capture = Capture(modules, case.layout.layers, device=torch.device("cpu"), tokens=Tokens(num_rows, num_rows), space=space)
    with frozen(case.model), capture.hooked():
        for batch in batches:
            values = case.task.collate([case.examples[sample] for sample in batch.samples])
            mask = case.task.token_mask(values)
            for part in parts(len(batch.samples)):
                held = {name: value[part or slice(None)] for name, value in values.items()}
                capture.start_batch(batch, mask, part)
                losses = case.task.per_sample_loss(case.model(**case.task.model_inputs(held)), held)
                capture.start_backward("empirical", fills_gram=False, is_last=False)
                losses.sum().backward(retain_graph=True)
                capture.end_backward()
                capture.start_backward("true", fills_gram=True, is_last=True)
                (losses * 2.0).sum().backward()
                capture.end_backward()
    half_sizes = (sum(batch.num_first for batch in batches), sum(len(batch.samples) - batch.num_first for batch in batches))
    positions = [sample for batch in batches for sample in batch.samples]
    return Statistics(capture.sums, capture.input_groups, np.zeros(len(positions)), half_sizes, 1.0, positions)


@pytest.mark.parametrize("gram_tokens", [14, 10_000], ids=["mixed", "all tokens"])
@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("family", ["bert", "gpt2", "gpt_neo", "llama", "vit"])
def test_batches_in_parts_give_the_same_statistics(tmp_path: Path, family: str, space: Space, gram_tokens: int) -> None:
    case = open_case(tmp_path, family, TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION)
    whole = _run(case, lambda size: [None], gram_tokens, space)
    one_by_one = _run(case, lambda size: [slice(sample, sample + 1) for sample in range(size)], gram_tokens, space)
    uneven = _run(case, lambda size: [slice(0, 1), slice(1, size)], gram_tokens, space)
    metrics, curves = raw_metrics(whole), gain_curves(whole, case.layout.layers, damping=0.1, max_rank=3)
    for parts in (one_by_one, uneven):
        assert parts.input_groups == whole.input_groups
        found = raw_metrics(parts)
        found_curves = gain_curves(parts, case.layout.layers, damping=0.1, max_rank=3)
        for layer, values in metrics.items():
            noise = values["fisher_empirical"] / len(case.examples)
            assert found[layer]["fisher"] == pytest.approx(values["fisher"], rel=1e-4)
            assert found[layer]["gradient_energy"] == pytest.approx(values["gradient_energy"], abs=1e-4 * noise)
            np.testing.assert_allclose(
                parts.norms(layer, "empirical"), whole.norms(layer, "empirical"), rtol=1e-3, atol=1e-4 * noise
            )
            np.testing.assert_allclose(
                found_curves[layer], curves[layer], rtol=1e-3, atol=1e-3 * max(c[-1] for c in curves.values())
            )
            assert parts.layers[layer].shared.num_rows == whole.layers[layer].shared.num_rows


def test_layers_of_one_input_in_different_spaces_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = open_case(tmp_path, "llama", TaskKind.CAUSAL_LM)
    expected = raw_metrics(case.statistics(space=Space.FEATURES))
    layers = [spec.model_copy(update={"input_group": spec.layer}) for spec in case.layout.layers]
    case.layout = case.layout.model_copy(update={"layers": layers})
    # The layout does not know that they read the same input, so keys may be kept elsewhere than queries and values.
    monkeypatch.setattr(
        capture_module, "choose_space", lambda group, _: Space.TOKENS if group[0].layer.endswith("k_proj") else Space.FEATURES
    )
    statistics = case.statistics()
    query, key, value = (f"model.layers.0.self_attn.{side}_proj" for side in "qkv")
    assert statistics.input_groups[key] == statistics.input_groups[value] == query
    sums = statistics.layers
    assert sums[value].shared is sums[query].shared
    assert sums[key].shared is not sums[query].shared
    torch.testing.assert_close(sums[key].shared.input_gram, sums[query].shared.input_gram, rtol=1e-4, atol=1e-4)
    for layer, values in raw_metrics(statistics).items():
        assert values["gradient_energy"] == pytest.approx(
            expected[layer]["gradient_energy"], rel=1e-3, abs=1e-6 * values["fisher"]
        )


def test_inputs_that_are_views_of_other_shapes_do_not_pass_for_one_another() -> None:
    class Permuted(nn.Module):
        """Both layers read copies that live only for a moment, at what may be one address."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            turned = x.transpose(0, 1)
            return self.one((2.0 * turned).transpose(0, 1)) + self.two((3.0 * turned).transpose(0, 1))

    statistics = vector_statistics(Permuted(), vector_examples(5, length=4))
    assert statistics.input_groups == {"one": "one", "two": "two"}
    one, two = (statistics.layers[name].shared.input_gram for name in ("one", "two"))
    torch.testing.assert_close(9.0 * one, 4.0 * two)
