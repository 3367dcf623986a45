"""The page as a whole: complete, self-contained, harmless, the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.store import write_json
from layerlens.errors import ManifestError
from layerlens.reporting.run import build_report
from layerlens.validation.run import validate
from tests.unit.reporting import artifacts
from tests.unit.reporting.page_reading import Page, read_page

SECTIONS = ["short", "results", "plan", "budgets", "race", "pareto", "gains", "losses", "checks", "layers", "provenance"]
HOSTILE = '</script><img src="http://evil.example/x" onerror=alert(1)>&{{"'


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = artifacts.raced_plan()
    checks = validate(plan, artifacts.profile())
    return artifacts.write_run(tmp_path_factory.mktemp("run"), made=plan, evaluated=artifacts.evaluation(), checked=checks)


@pytest.fixture(scope="module")
def full_html(full_run: Path) -> str:
    return build_report(full_run)


@pytest.fixture(scope="module")
def full_page(full_html: str) -> Page:
    return read_page(full_html)


def test_the_page_has_every_section_and_a_link_to_each(full_page: Page) -> None:
    assert [section.attributes["id"] for section in full_page.all("section")] == SECTIONS
    links = {link.attributes["href"].removeprefix("#") for link in full_page.all("a")}
    assert links == {*SECTIONS[1:], "main"}
    assert not full_page.all("aside")


def test_nothing_is_loaded_from_anywhere(full_page: Page) -> None:
    for element in full_page.elements:
        assert not {"src", "srcset", "data", "action", "poster", "background"} & element.attributes.keys(), element
        assert element.tag not in {"link", "iframe", "img", "object", "embed", "base", "form"}
        assert element.attributes.get("href", "#").startswith("#")
        assert "url(" not in element.attributes.get("style", "")
    for style in full_page.all("style"):
        assert not re.search(r"url\(|@import|https?:|expression\(", style.text)
    own_script = full_page.all("script")[-1].text
    assert not re.search(r"https?:|\bimport\b|fetch\(|XMLHttpRequest|new Image", own_script)


def test_the_policy_admits_the_page_s_own_scripts_and_nothing_else(full_page: Page) -> None:
    (meta,) = [found for found in full_page.all("meta") if found.attributes.get("http-equiv") == "Content-Security-Policy"]
    policy = meta.attributes["content"]
    assert policy.startswith("default-src 'none'")
    allowed = re.search(r"script-src ([^;]*)", policy)
    assert allowed
    scripts = [script.text for script in full_page.all("script") if "type" not in script.attributes]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    assert allowed[1].split() == hashes
    assert "connect-src" not in policy


def test_plotly_stands_in_the_page_once(full_html: str) -> None:
    assert full_html.count("plotly.js v") == 1


def test_every_layer_every_arm_and_every_candidate_is_on_the_page(full_page: Page) -> None:
    for layer in artifacts.profile().layers:
        assert layer.layer in full_page.text
    for name in [*artifacts.SCORES, *artifacts.candidate_sizes()]:
        assert name in full_page.text


def test_every_chart_has_its_place_and_is_a_valid_plotly_figure(full_page: Page) -> None:
    boxes = {box.attributes["id"] for box in full_page.all("div", class_="chart")}
    assert boxes == full_page.charts.keys()
    assert {name for name in boxes if not name.startswith("chart-gain")} == {
        "chart-results",
        "chart-race",
        "chart-pareto",
        "chart-losses",
    }
    for figure in full_page.charts.values():
        # Colours are names of the page's own; any colour stands in for them.
        text = re.sub(r'"@[^"]*"', '"#000"', json.dumps(figure))
        go.Figure(json.loads(text))


def test_every_colour_that_a_chart_names_is_defined_in_both_themes(full_page: Page) -> None:
    css = full_page.one("style").text
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    used = set(re.findall(r'"@([\w-]+)', json.dumps(full_page.charts)))
    assert {"chosen", "uniform", "full", "depth"} <= used
    for name in (used - {"depth"}) | {"depth-low", "depth-high"}:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark


def test_headings_step_down_one_at_a_time_and_every_picture_has_a_caption(full_page: Page) -> None:
    levels = [int(element.tag[1]) for element in full_page.elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert len(full_page.all("figure")) == len(full_page.all("figcaption"))
    assert all(box.attributes["aria-label"] for box in full_page.all("div", class_="chart"))


def test_the_same_files_give_the_same_bytes(full_run: Path, full_html: str) -> None:
    assert build_report(full_run) == full_html


def test_a_hostile_name_is_text_wherever_it_stands(tmp_path: Path) -> None:
    plan, evaluation = _poisoned(artifacts.raced_plan()), artifacts.evaluation()
    arms = [arm.model_copy(update={"name": f"{arm.name}{HOSTILE}"}) for arm in evaluation.arms]
    evaluation = evaluation.model_copy(update={"arms": arms, "machine": HOSTILE, "command": HOSTILE})
    artifacts.write_run(
        tmp_path, made=plan, evaluated=evaluation, checked=validate(plan, None), has_profile=False, has_candidates=False
    )
    html = build_report(tmp_path)
    page = read_page(html)
    assert re.search(r"<title>[^<]*&lt;b&gt;</title>", html)
    assert "img" not in {element.tag for element in page.elements}
    assert all("onerror" not in element.attributes for element in page.elements)
    assert len(page.all("script")) == 3
    assert page.text.count(HOSTILE) >= len(plan.layers)
    names = {trace["name"] for trace in page.charts["chart-losses"]["data"]}
    assert all("<" not in name and "&lt;" in name for name in names)


def _poisoned(plan: Plan) -> Plan:
    layers = [entry.model_copy(update={"layer": f"{entry.layer}{HOSTILE}", "why": HOSTILE}) for entry in plan.layers]
    metadata = plan.metadata.model_copy(update={"command": HOSTILE, "notes": [HOSTILE], "versions": {HOSTILE: HOSTILE}})
    model = plan.model.model_copy(update={"id": f"{HOSTILE}<b>"})
    race = plan.race.model_copy(update={"verdict": HOSTILE}) if plan.race else None
    return plan.model_copy(update={"layers": layers, "metadata": metadata, "model": model, "race": race})


def test_a_plan_alone_makes_a_page_that_names_what_is_missing(tmp_path: Path) -> None:
    artifacts.write_run(tmp_path, made=artifacts.plan(), has_profile=False, has_candidates=False)
    page = read_page(build_report(tmp_path))
    assert [section.attributes["id"] for section in page.all("section")] == [
        "short",
        "plan",
        "budgets",
        "pareto",
        "layers",
        "provenance",
    ]
    missing = page.one("aside").text
    assert all(word in missing for word in ("profile", "evaluation.json", "validation.json", "race"))
    assert "Planned, not yet measured" in page.one("h1").text


def test_a_profile_alone_makes_a_page_of_its_layers(tmp_path: Path) -> None:
    artifacts.write_run(tmp_path, has_candidates=False)
    page = read_page(build_report(tmp_path))
    assert [section.attributes["id"] for section in page.all("section")] == ["plan", "gains", "layers", "provenance"]
    assert "36 layers measured on 512 samples" in page.one("h1").text


def test_an_evaluation_alone_needs_no_plan(tmp_path: Path) -> None:
    artifacts.write_run(tmp_path, evaluated=artifacts.evaluation(), has_profile=False, has_candidates=False)
    page = read_page(build_report(tmp_path))
    assert [section.attributes["id"] for section in page.all("section")] == ["short", "results", "losses", "provenance"]


def test_checks_alone_need_no_chart_library(tmp_path: Path) -> None:
    checks = validate(artifacts.plan(), None)
    artifacts.write_run(tmp_path, checked=checks, has_profile=False, has_candidates=False)
    html = build_report(tmp_path)
    assert "plotly.js" not in html
    assert len(html) < 100_000


def test_an_empty_or_missing_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ManifestError) as caught:
            build_report(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_or_edited_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"evaluation\.json"):
        build_report(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    plan = artifacts.plan()
    edited = plan.model_copy(update={"layers": [plan.layers[0].model_copy(update={"params": 5}), *plan.layers[1:]]})
    write_json(tmp_path / "plan.json", edited)
    with pytest.raises(ManifestError, match="does not add up"):
        build_report(tmp_path)


def test_a_profile_that_the_plan_was_not_made_from_is_left_out_and_named(tmp_path: Path) -> None:
    plan = artifacts.plan()
    foreign = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"profile_identity": "0" * 64})})
    artifacts.write_run(tmp_path, made=foreign, has_candidates=False)
    page = read_page(build_report(tmp_path))
    assert "gains" not in [section.attributes["id"] for section in page.all("section")]
    assert "not the one the plan was made from" in page.one("aside").text


def test_an_evaluation_of_another_plan_is_called_out(tmp_path: Path) -> None:
    artifacts.write_run(tmp_path, made=artifacts.plan(), evaluated=artifacts.evaluation(), has_candidates=False)
    assert "The results are of another plan" in read_page(build_report(tmp_path)).one("section", id="short").text


@pytest.mark.parametrize("option", [{"objective_weights": {"utility": 0.8, "cost": 0.2}}, {"method_penalties": {"lora": 0.8}}])
def test_values_that_weights_or_penalties_have_changed_are_never_called_nats(tmp_path: Path, option: dict[str, object]) -> None:
    raced = artifacts.raced_plan()
    metadata = raced.metadata.model_copy(update={"optimization": {**raced.metadata.optimization, **option}})
    artifacts.write_run(tmp_path, made=raced)
    plain = build_report(tmp_path)
    artifacts.write_run(tmp_path, made=raced.model_copy(update={"metadata": metadata}), has_candidates=False)
    weighted = build_report(tmp_path)
    for words in (
        "Value, nats",
        "Predicted value, nats",
        "predicted value, nats",
        "parameters: %{y:.4f} nats",
        "predicted to gain 0",
    ):
        assert words in plain
        assert words not in weighted
    for words in ("Weighted value", "weighted value %{y:.4f}", "has a weighted value of 0"):
        assert words in weighted
