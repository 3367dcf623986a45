"""Variants of a streamed model against plain models in memory whose weights are really overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.compressing.variant_pass import STORE_FILE, measure_variants
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.variants import ORIGINAL, Variant
from layerlens.data.padding import IGNORED_LABEL
from layerlens.errors import ConfigError, NotFiniteError, UnsupportedModelError
from layerlens.models.roles import describe_layers
from layerlens.models.streamed import load
from layerlens.models.tree import is_under
from layerlens.words import TaskKind
from tests.unit.compressing.cases import Case, case, noisy, overwritten

FAMILIES = ["bert", "gpt2", "gpt_neo", "llama", "vit"]


class Oracle:
    """Every sample alone through a plain model, without padding and without streaming."""

    def __init__(self, measured: Case) -> None:
        self.case, self.model = measured, measured.in_memory()
        self.layout = describe_layers(self.model)
        self.before = [self._run(sample) for sample in measured.order()]

    def _run(self, sample: int) -> tuple[Tensor, list[Tensor], Tensor]:
        """Log-probabilities, the hidden state after each block, and the pooled embedding."""
        states: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: object) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        handles = [self.model.get_submodule(block.path).register_forward_hook(keep) for block in self.layout.blocks]
        batch = self.case.task.collate([self.case.examples[sample]])
        inputs = self.case.task.model_inputs(batch)
        with torch.no_grad():
            outputs = self.model(**inputs)
            embedding = self.model.base_model(**inputs).last_hidden_state[0].double().mean(0)
        for handle in handles:
            handle.remove()
        ends = [outputs[name][0] for name in ("start_logits", "end_logits") if name in outputs]
        rows = torch.stack(ends) if ends else outputs.logits[0]
        if self.case.info.kind is TaskKind.CAUSAL_LM:
            assert IGNORED_LABEL not in batch["labels"]
            rows = rows[:-1]
        return torch.atleast_2d(rows).double(), states[: len(self.layout.blocks)], embedding

    def check(self, found: VariantResult, matrices: Mapping[str, Tensor], *, errors_from: int = 0) -> None:
        """Compare what was found with the model with these matrices in place."""
        with overwritten(self.model, matrices):
            after = [self._run(sample) for sample in self.case.order()]
        expected, tops = [], []
        for (p, _, _), (q, _, _) in zip(self.before, after, strict=True):
            log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
            expected.append((log_p.exp() * (log_p - log_q)).sum(-1))
            tops.append(p.argmax(-1) == q.argmax(-1))
        sums = np.array([float(rows.sum()) for rows in expected])
        np.testing.assert_allclose(found.sample_sums, sums, rtol=1e-3, atol=1e-9)
        assert sums.max() > 1e-7
        assert found.sample_counts.tolist() == [len(rows) for rows in expected]
        joined = torch.cat(expected).numpy()
        assert found.mean == pytest.approx(joined.mean(), rel=1e-3)
        assert found.median == pytest.approx(np.median(joined), rel=1e-3)
        assert found.p99 == pytest.approx(np.quantile(joined, 0.99), rel=1e-3)
        assert found.max == pytest.approx(joined.max(), rel=1e-3)
        assert found.same_top_rate == pytest.approx(float(torch.cat(tops).double().mean()))
        assert found.first_block == errors_from
        self.check_errors(found, after, errors_from)

    def check_errors(self, found: VariantResult, after: list[tuple[Tensor, list[Tensor], Tensor]], errors_from: int) -> None:
        errors = []
        for block in range(errors_from, len(self.layout.blocks)):
            pairs = [(h0[block].double(), h[block].double()) for (_, h0, _), (_, h, _) in zip(self.before, after, strict=True)]
            error = sum(float((h - h0).square().sum()) for h0, h in pairs)
            errors.append((error / sum(float(h0.square().sum()) for h0, _ in pairs)) ** 0.5)
        np.testing.assert_allclose(found.error_after_blocks, errors, rtol=1e-4)

    def in_blocks(self) -> list[str]:
        return [spec.layer for spec in self.layout.layers if spec.block is not None]

    def in_block(self, block: int) -> list[str]:
        return [spec.layer for spec in self.layout.layers if spec.block == block]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_lean", [False, True])
def test_every_variant_is_the_model_with_its_matrices(tmp_path: Path, family: str, is_lean: bool) -> None:
    measured = case(tmp_path, family)
    oracle = Oracle(measured)
    whole = noisy(oracle.model, oracle.in_blocks())
    middle, last = oracle.in_block(1)[-1], oracle.in_block(2)[-1]
    reverted = {path: values for path, values in whole.items() if path != middle}
    model = measured.streamed()
    found = measure_variants(
        model,
        measured.samples(model),
        [
            Variant("last", {last: whole[last]}, first_block=2),
            Variant("without middle", {middle: ORIGINAL}, first_block=1, parent="whole"),
            Variant("middle", lambda path: whole[path] if path == middle else None, 1),
            Variant("whole", whole),
        ],
        work=tmp_path / "work",
        holds_weights=not is_lean,
        head_tokens=6 if is_lean else None,
        max_store=6 * 4 * 32 * 53 if is_lean else None,
        is_embedding=False,
    )
    assert list(found) == ["last", "without middle", "middle", "whole"]
    oracle.check(found["whole"], whole)
    oracle.check(found["middle"], {middle: whole[middle]}, errors_from=1)
    oracle.check(found["last"], {last: whole[last]}, errors_from=2)
    oracle.check(found["without middle"], reverted, errors_from=1)
    assert not (tmp_path / "work" / STORE_FILE).exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keeps_tables", [True, False])
def test_matrices_outside_the_blocks_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, keeps_tables: bool
) -> None:
    monkeypatch.setattr(load, "_LARGE_TABLE", 1 << 20 if keeps_tables else 100)
    measured = case(tmp_path, family)
    oracle = Oracle(measured)
    blocks = [block.path for block in oracle.layout.blocks]
    outside = {path: module for path, module in oracle.model.named_modules() if not is_under(path, blocks)}
    tables = [path for path, module in outside.items() if isinstance(module, nn.Embedding)]
    heads = [path for path, module in outside.items() if isinstance(module, nn.Linear)]
    others = noisy(oracle.model, [*tables, *heads])
    below = noisy(oracle.model, oracle.in_block(0)[:2])
    top = noisy(oracle.model, oracle.in_block(2)[:1])
    only_heads = {path: others[path] for path in heads}
    variants = [
        Variant("head", only_heads, first_block=3),
        Variant("all", {**others, **below}),
        Variant("all but the heads", dict.fromkeys(heads, ORIGINAL), first_block=3, parent="all"),
        Variant("and the top", top, first_block=2, parent="all"),
        Variant("and below", below, parent="tables"),
        Variant("tables", {path: others[path] for path in tables}),
    ]
    model = measured.streamed()
    found = measure_variants(model, measured.samples(model), variants, work=tmp_path / "work", is_embedding=False)
    assert len(tables) == {"bert": 3, "gpt2": 2, "gpt_neo": 2, "llama": 1, "vit": 0}[family]
    assert len(heads) == (2 if family == "bert" else 1)
    oracle.check(found["head"], only_heads, errors_from=3)
    oracle.check(found["all"], {**others, **below})
    oracle.check(found["and the top"], {**others, **below, **top}, errors_from=2)
    of_tables = {path: others[path] for path in tables}
    oracle.check(found["all but the heads"], {**of_tables, **below}, errors_from=3)
    oracle.check(found["and below"], {**of_tables, **below})
    if tables:
        oracle.check(found["tables"], of_tables)
    else:
        assert found["tables"].max == 0.0
        assert found["tables"].same_top_rate == 1.0
        assert found["tables"].error_after_blocks == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_models_without_a_trained_head_are_compared_by_their_pooled_embedding(tmp_path: Path, family: str) -> None:
    measured = case(tmp_path, family)
    oracle = Oracle(measured)
    whole = noisy(oracle.model, oracle.in_blocks())
    model = measured.streamed()
    is_new = bool(model.new_parameters)
    found = measure_variants(
        model, measured.samples(model), [Variant("whole", whole)], work=tmp_path, is_embedding=None if is_new else True
    )["whole"]
    with overwritten(oracle.model, whole):
        after = [oracle._run(sample) for sample in measured.order()]
    pairs = [(before[2], run[2]) for before, run in zip(oracle.before, after, strict=True)]
    expected = [1.0 - float(torch.cosine_similarity(first, second, dim=0)) for first, second in pairs]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-3)
    assert min(expected) > 1e-5
    assert found.same_top_rate is None
    assert is_new == (family != "llama")
    oracle.check_errors(found, after, 0)


def test_answers_are_compared_by_both_their_ends(tmp_path: Path) -> None:
    measured = case(tmp_path, "bert", TaskKind.QUESTION_ANSWERING)
    oracle = Oracle(measured)
    whole = noisy(oracle.model, oracle.in_blocks())
    model = measured.streamed()
    found = measure_variants(model, measured.samples(model), [Variant("w", whole)], work=tmp_path, is_embedding=False)
    oracle.check(found["w"], whole)


def test_numbers_are_compared_by_half_their_squared_difference(tmp_path: Path) -> None:
    measured = case(tmp_path, "bert", TaskKind.REGRESSION)
    oracle = Oracle(measured)
    whole = noisy(oracle.model, oracle.in_blocks())
    model = measured.streamed()
    found = measure_variants(model, measured.samples(model), [Variant("w", whole)], work=tmp_path, is_embedding=False)["w"]
    with overwritten(oracle.model, whole):
        after = [oracle._run(sample)[0] for sample in measured.order()]
    expected = [0.5 * float(a - b[0]) ** 2 for a, b in zip(after, oracle.before, strict=True)]
    np.testing.assert_allclose(found.distances, expected, rtol=1e-3)


def test_one_pass_and_several_give_the_same_numbers_and_a_block_is_read_once_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = case(tmp_path, "llama")
    oracle = Oracle(measured)
    whole = noisy(oracle.model, oracle.in_blocks())
    variants = [Variant(path, {path: values}, first_block=number // 7) for number, (path, values) in enumerate(whole.items())]
    model = measured.streamed()
    read: list[str] = []
    own = model.state.reader.read

    def reading(name: str, start: int = 0, stop: int | None = None) -> Tensor:
        read.append(name)
        return own(name, start, stop)

    monkeypatch.setattr(model.state.reader, "read", reading)
    one = measure_variants(model, measured.samples(model), variants, work=tmp_path)
    inside = [name for name in read if ".layers." in name]
    assert len(inside) == len(set(inside)) == 21
    slot = 4 * 32 * (3 * 11 + 2 * 7)
    several = measure_variants(model, measured.samples(model), variants, work=tmp_path, max_store=7 * slot)
    assert len([name for name in read if ".layers." in name]) == 21 * (1 + 5)
    assert list(one) == list(several) == list(whole)
    for name, result in one.items():
        assert np.array_equal(result.distances, several[name].distances)
        assert result.error_after_blocks == several[name].error_after_blocks
        assert len(result.error_after_blocks) == 3 - result.first_block


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    measured = case(tmp_path, "gpt2")
    oracle = Oracle(measured)
    model = measured.streamed()
    inputs = measured.task.model_inputs(measured.task.collate(measured.examples[:2]))
    before = model.model(**inputs).logits
    everything = noisy(oracle.model, [*oracle.in_blocks(), "transformer.wte", "lm_head"])
    samples = measured.samples(model)
    damaged = {
        path: values.fill_(float("nan")) if path == "transformer.h.1.mlp.c_fc" else values for path, values in everything.items()
    }
    with pytest.raises(NotFiniteError, match=r"variant broken after transformer\.h\.1 is NaN"):
        measure_variants(model, samples, [Variant("broken", damaged)], work=tmp_path)
    assert torch.equal(model.model(**inputs).logits, before)
    assert not any(layer.source.is_held for block in range(3) for layer in model.layers_of(block).values())


def test_faulty_variants_are_told(tmp_path: Path) -> None:
    measured = case(tmp_path, "llama")
    model = measured.streamed()
    samples = measured.samples(model)

    def run(*variants: Variant, max_store: int | None = None) -> None:
        measure_variants(model, samples, variants, work=tmp_path, max_store=max_store)

    with pytest.raises(ConfigError, match="by the same name: a"):
        run(Variant("a", {}), Variant("a", {}), Variant("b", {}))
    with pytest.raises(ConfigError, match="unknown parent, c"):
        run(Variant("a", {}, parent="c"))
    with pytest.raises(ConfigError, match="its own ancestor"):
        run(Variant("a", {}, parent="b"), Variant("b", {}, parent="a"))
    with pytest.raises(ConfigError, match="starts at block 4 of 3"):
        run(Variant("a", {}, first_block=4))
    with pytest.raises(ConfigError, match="hidden states of variant a take 0 MiB on disk"):
        run(Variant("a", {}), max_store=100)
    wrong = {"model.layers.0.mlp.up_proj": torch.zeros(3, 4)}
    with pytest.raises(UnsupportedModelError, match=r"up_proj is \[3, 4\], needed \[64, 32\]"):
        run(Variant("a", wrong))
