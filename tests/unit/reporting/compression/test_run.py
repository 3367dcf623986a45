"""The page of a compressed folder as a whole: complete, self-contained, harmless, the same every time."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from layerlens.reporting.run import build_report
from layerlens.workflow.report import report
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import write_folder
from tests.unit.reporting.compression.synthetic_curves import curves
from tests.unit.reporting.page_reading import Page, read_page

SECTIONS = [
    "short",
    "pareto",
    "texts",
    "sizes",
    "plan",
    "curves",
    "predictions",
    "quality",
    "travel",
    "layers",
    "provenance",
]
CHARTS = {"chart-quality", "chart-sizes", "chart-matrix", "chart-probes", "chart-plans", "chart-alone", "chart-together"}
HOSTILE = '</script><img src="http://evil.example/x" onerror=alert(1)>&{{"'


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "compressed"
    return write_folder(place, beside=curves(), evaluated=artifacts.evaluation())


@pytest.fixture(scope="module")
def full_html(full_folder: Path) -> str:
    return build_report(full_folder)


@pytest.fixture(scope="module")
def full_page(full_html: str) -> Page:
    return read_page(full_html)


def test_the_page_has_every_section_and_a_link_to_each(full_page: Page) -> None:
    assert [section.attributes["id"] for section in full_page.all("section")] == SECTIONS
    assert {link.attributes["href"] for link in full_page.all("a")} == {f"#{name}" for name in [*SECTIONS[1:], "main"]}
    assert not full_page.all("aside")


def test_nothing_is_loaded_from_anywhere(full_page: Page) -> None:
    for element in full_page.elements:
        assert not {"src", "srcset", "data", "action", "poster", "background"} & element.attributes.keys(), element
        assert element.tag not in {"link", "iframe", "img", "object", "embed", "base", "form"}


def test_every_matrix_every_runner_and_every_text_is_on_the_page(full_page: Page) -> None:
    for entry in artifacts.plan().layers:
        assert entry.layer in full_page.text
        assert entry.why in full_page.text
    for name in (*(m.name for m in artifacts.plan().measured), *(t.name for t in artifacts.evaluation().texts)):
        assert name in full_page.text


def test_every_chart_has_its_place_and_is_a_valid_plotly_figure(full_page: Page) -> None:
    boxes = {box.attributes["id"] for box in full_page.all("div", class_="chart")}
    assert boxes == full_page.charts.keys()
    assert {name for name in boxes if not name.startswith("chart-frontier")} == CHARTS
    for figure in full_page.charts.values():
        go.Figure(json.loads(re.sub(r'"@[^"]*"', '"#000"', json.dumps(figure))))


def test_every_colour_that_a_chart_names_is_defined_in_both_themes(full_page: Page) -> None:
    light, dark = full_page.one("style").text.split("@media (prefers-color-scheme: dark)")[:2]
    used = set(re.findall(r'"@([\w-]+)', json.dumps(full_page.charts))) - {"depth"}
    assert {"chosen", "uniform", "role-attention-query", "role-mlp-down", "role-embedding"} <= used
    for name in used:
        assert f"--{name}:" in light, name
        assert f"--{name}:" in dark, name


def test_headings_step_down_one_at_a_time_and_every_picture_has_a_caption(full_page: Page) -> None:
    levels = [int(element.tag[1]) for element in full_page.elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert len(full_page.all("figure")) == len(full_page.all("figcaption"))
    assert all(box.attributes["aria-label"] for box in full_page.all("div", class_="chart"))


def test_the_same_files_give_the_same_bytes(full_folder: Path, full_html: str) -> None:
    assert build_report(full_folder) == full_html


def test_the_command_writes_the_page_into_the_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "compressed")
    path = report(folder)
    assert path == folder / "report.html"
    assert "small-llama, compressed" in read_page(path.read_text(encoding="utf-8")).one("title").text


def test_a_plan_alone_makes_a_page_that_names_what_is_missing(tmp_path: Path) -> None:
    unmeasured = artifacts.plan().model_copy(update={"measured": []})
    page = read_page(build_report(write_folder(tmp_path / "compressed", made=unmeasured)))
    assert [section.attributes["id"] for section in page.all("section")] == ["short", "sizes", "plan", "layers", "provenance"]
    assert "was not measured" in page.one("h1").text
    assert all(word in page.one("aside").text for word in ("curves.json", "evaluation.json", "Candidates against baselines"))


def test_a_hostile_name_is_text_wherever_it_stands(tmp_path: Path) -> None:
    made, evaluated, beside = artifacts.plan(), artifacts.evaluation(), curves()
    content: tuple[dict[str, Any], ...] = tuple(entry.model_dump(mode="json") for entry in (made, evaluated, beside))
    for entry in content:
        _poison(entry)
    folder = write_folder(
        tmp_path / "compressed",
        made=type(made).model_validate(content[0]),
        evaluated=type(evaluated).model_validate(content[1]),
        beside=type(beside).model_validate(content[2]),
    )
    page = read_page(build_report(folder))
    assert "img" not in {element.tag for element in page.elements}
    assert all("onerror" not in element.attributes for element in page.elements)
    assert len(page.all("script")) == 3
    assert page.text.count(HOSTILE) >= len(made.layers)
    for figure in page.charts.values():
        for trace in figure["data"]:
            for text in (trace.get("name", ""), trace.get("hovertemplate", ""), *_texts(trace)):
                assert "<img" not in text


def _texts(trace: dict[str, Any]) -> list[str]:
    return [text for key in ("text", "customdata") for text in trace.get(key, []) if isinstance(text, str)]


FREE = {
    "layer",
    "why",
    "name",
    "tied",
    "input_group",
    "command",
    "notes",
    "machine",
    "model",
    "against",
    "id",
    "prompt",
    "before",
}


def _poison(value: dict[str, Any]) -> None:
    """Append markup to every free text."""
    for key, entry in value.items():
        if isinstance(entry, str) and key in FREE:
            value[key] = entry + HOSTILE
        elif isinstance(entry, dict):
            _poison(entry)
        elif isinstance(entry, list):
            value[key] = [one + HOSTILE if isinstance(one, str) and key in FREE else one for one in entry]
            for one in entry:
                if isinstance(one, dict):
                    _poison(one)
