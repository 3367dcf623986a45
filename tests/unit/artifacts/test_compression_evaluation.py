"""Keys that other programs rely on, and verdicts on both sides of their limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerlens.artifacts.compression_evaluation import (
    OUTPUT_ERROR_LIMITS,
    ByteChange,
    Change,
    CompressionEvaluation,
    LayerQuality,
    Spread,
    TextQuality,
    Verdict,
    verdict_of,
)
from layerlens.artifacts.store import read_json, write_json


def test_the_file_has_the_keys_of_the_contract_and_reads_back(tmp_path: Path) -> None:
    text = TextQuality(
        name="prose",
        num_positions=3,
        perplexity=Change(before=10.0, after=11.0),
        kl=Spread(mean=0.2, median=0.1, p99=0.8, max=0.9),
        same_top_token=0.9,
        logits_cosine=0.99,
    )
    layer = LayerQuality(
        layer="a.b",
        weight_cosine=0.9,
        weight_error=0.1,
        output_cosine=0.95,
        output_error=0.2,
        size_bytes=ByteChange(before=8, after=4),
        verdict=verdict_of(0.2),
    )
    evaluation = CompressionEvaluation(
        model="small",
        against="large",
        task="causal-lm",
        size_bytes=ByteChange(before=100, after=30),
        bits_per_weight=4.5,
        texts=[text],
        layers=[layer],
        command="layerlens evaluate",
    )
    write_json(tmp_path / "evaluation.json", evaluation)
    assert read_json(tmp_path / "evaluation.json", CompressionEvaluation) == evaluation
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["size_bytes"] == {"before": 100, "after": 30}
    assert content["bits_per_weight"] == 4.5
    found = content["texts"][0]
    assert found["perplexity"] == {"before": 10.0, "after": 11.0}
    assert set(found["kl"]) == {"mean", "median", "p99", "max"}
    assert {"name", "same_top_token", "logits_cosine"} <= set(found)
    keys = {"layer", "weight_cosine", "weight_error", "output_cosine", "output_error", "verdict"}
    assert keys <= set(content["layers"][0])
    assert content["layers"][0]["verdict"] == "poor"


@pytest.mark.parametrize("verdict", list(OUTPUT_ERROR_LIMITS))
def test_a_limit_belongs_to_the_better_verdict(verdict: Verdict) -> None:
    order = list(Verdict)
    limit = OUTPUT_ERROR_LIMITS[verdict]
    assert verdict_of(limit) is verdict
    assert verdict_of(limit + 1e-9) is order[order.index(verdict) + 1]
    assert verdict_of(0.0) is Verdict.GOOD
