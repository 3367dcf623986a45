from __future__ import annotations

from layerlens.reporting.compression.provenance import provenance_section
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import COMMAND, EVALUATE, a_folder
from tests.unit.reporting.sections.reading import read_section


def test_model_texts_commands_seeds_and_versions_are_told() -> None:
    page = read_section(provenance_section(a_folder()))
    facts = dict(zip([e.text for e in page.all("dt")], [e.text for e in page.all("dd")], strict=True))
    assert facts["Model"] == "tests/small-llama"
    assert facts["Hash of the model"] == "a" * 64
    assert facts["Text: calibration"] == "samples 128, tokens 65,536"
    assert facts["Text: is mixed"] == "true"
    assert facts["Seeds"] == "plan 3; curves 3"
    assert "torch 2.13.0" in facts["Versions"]
    assert "transformers 5.23.0" in facts["Versions"]
    assert [code.text for code in page.all("code")][1:3] == [COMMAND, EVALUATE]


def test_metadata_of_any_shape_is_shown_as_it_is() -> None:
    made = artifacts.plan().model_copy(update={"metadata": {"command": 5, "config": "odd", "versions": [1], "race_seconds": 7}})
    page = read_section(provenance_section(a_folder(plan=made, curves=None, evaluation=None)))
    assert '"race_seconds": 7' in page.one("pre").text
