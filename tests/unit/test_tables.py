"""What is printed when a command is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.compression_evaluation import Windows
from layerlens.errors import ManifestError
from layerlens.tables import show_compress, show_evaluate
from layerlens.workflow.compress import CompressResult
from tests.unit.reporting import artifacts as tuned
from tests.unit.reporting.compression import artifacts


def test_compress_names_the_pillars_that_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    trial = artifacts.evaluation().leave_one_out
    assert trial is not None
    for layers, told in (
        (trial.layers, f"pillars: {', '.join(trial.pillars)}"),
        (trial.layers[2:], f"pillars: none of {len(trial.layers) - 2} layers stands out"),
    ):
        found = {"leave_one_out": trial.model_copy(update={"layers": layers}).model_dump(mode="json")}
        assert show_compress(CompressResult(Path("out"), artifacts.plan().model_copy(update={"metadata": found})))
        assert told in " ".join(capsys.readouterr().out.split())
    assert show_compress(CompressResult(Path("out"), artifacts.plan()))
    assert "pillars" not in capsys.readouterr().out
    damaged = artifacts.plan().model_copy(update={"metadata": {"leave_one_out": {"layers": 3}}})
    with pytest.raises(ManifestError, match=r"metadata\.leave_one_out: kl_nats"):
        show_compress(CompressResult(Path("out"), damaged))


def test_brackets_and_colons_in_a_name_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = tuned.evaluation((0,))
    names = ["runs/[new]", "a[/b]", "x:100:"]
    arms = [evaluation.arms[0].model_copy(update={"name": name}) for name in names]
    assert show_evaluate(evaluation.model_copy(update={"arms": arms, "machine": "[cpu]"}))
    told = capsys.readouterr().out
    assert all(name in told for name in [*names, "[cpu]"])


def test_perplexity_states_its_windows(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = artifacts.evaluation()
    windows = Windows(window=64, stride=32, has_bos=True, num_tokens=640)
    texts = [text.model_copy(update={"windows": windows}) for text in evaluation.texts]
    assert show_evaluate(evaluation.model_copy(update={"texts": texts}))
    told = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert " ".join(["windows", *["64 tokens, 32 apart"] * len(texts)]) in told
    assert " ".join(["begin with BOS", *["yes"] * len(texts)]) in told
