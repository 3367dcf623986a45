"""The page of a suite: everything on it can be read, and it claims what `bench.json` claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.artifacts.bench import Bench, PlanCost, PlanFacts, RateChoice, RateTrial
from layerlens.artifacts.store import write_json
from layerlens.benching.findings import findings_of
from layerlens.benching.summary import overall
from layerlens.errors import ManifestError
from layerlens.reporting.bench.run import build_bench_report
from layerlens.reporting.run import build_report
from tests.unit.benching.suites import bench, run
from tests.unit.benching.test_findings import results
from tests.unit.reporting.page_reading import Page, read_page

MEANS = {"full": 0.8, "head": 0.5, "uniform": 0.6, "layerlens": 0.7, "no-depth-cut": 0.69, "<b>odd</b>": 0.4}


def with_costs(made: Bench) -> Bench:
    """The same with trained parameters, seconds and memory of each arm, and everything that a cell can hold."""
    params = {"full": 22_000_000, "head": 0}
    seconds = {"full": 60.0}
    (cell,) = made.cells
    arms = [
        arm.model_copy(
            update={
                "trainable_params": params.get(arm.arm, 50_000),
                "train_seconds": seconds.get(arm.arm, 20.0),
                "peak_memory_bytes": 2**30 if arm.arm == "full" else 2**29,
            }
        )
        for arm in cell.arms
    ]
    rate = RateChoice(
        arm="uniform", rate=3e-3, seed=0, tuned_on="uniform", is_at_edge=True,
        trials=[RateTrial(rate=1e-3, metrics={"accuracy": 0.61}), RateTrial(rate=3e-3)],
    )  # fmt: skip
    spent = {"profile_seconds": 5, "plan_seconds": 0.5, "race_seconds": 10, "race_steps_share": 0.1}
    cost = PlanCost.model_validate({"arm": "layerlens", "run": "full", "share_of_run": 0.25, "share_of_5000_steps": 0.02} | spent)
    plan = PlanFacts(arm="layerlens", seed=None, chosen="mlp@1", params=49_000, is_blind=False, verdict="mlp@1 leads by 0.1 nats")
    return made.model_copy(
        update={"cells": [cell.model_copy(update={"arms": arms, "rates": [rate], "costs": [cost], "plans": [plan]})]}
    )


def page_of(made: Bench, folder: Path) -> Page:
    write_json(folder / "bench.json", made.model_copy(update={"findings": findings_of(made)}))
    return read_page(build_bench_report(folder))


def test_the_three_charts_hold_every_arm_that_has_the_cost(tmp_path: Path) -> None:
    page = page_of(with_costs(results(MEANS, wiggle={"layerlens": 0.1})), tmp_path)
    assert set(page.charts) == {"chart-params-0", "chart-seconds-0", "chart-memory-0"}
    for name, chart in page.charts.items():
        dots = {trace["name"]: trace for trace in chart["data"] if trace.get("mode") == "markers+text"}
        # The head alone trains no adapter parameter and has no place on a logarithmic axis: it is a line.
        assert ("head" in dots) == (name != "chart-params-0")
        assert dots["layerlens"]["y"] == pytest.approx([0.7])
        assert dots["layerlens"]["error_y"]["value"] > 0
        assert "&lt;b&gt;odd&lt;/b&gt;" in dots
    assert page.charts["chart-params-0"]["layout"]["shapes"][0]["y0"] == pytest.approx(0.5)
    assert page.charts["chart-seconds-0"]["data"][-1]["x"] == pytest.approx([20.0])


def test_numbers_in_the_charts_are_rows_of_the_table(tmp_path: Path) -> None:
    page = page_of(with_costs(results(MEANS, wiggle={"layerlens": 0.1})), tmp_path)
    dots = {trace["name"]: trace["text"] for trace in page.charts["chart-seconds-0"]["data"] if "text" in trace}
    assert (dots["full"], dots["layerlens"], dots["no-depth-cut"]) == (["1"], ["2"], ["3"])
    heads = [found.text for found in page.all("th", scope="row")]
    assert heads[:3] == ["full", "layerlens", "no-depth-cut"]


def test_the_page_says_what_the_findings_say(tmp_path: Path) -> None:
    made = with_costs(results(MEANS, wiggle={"layerlens": 0.1}))
    page = page_of(made, tmp_path)
    for found in findings_of(made):
        assert found.text in page.text
    assert page.one("h1").text == "LayerLens is better than uniform LoRA over 5 seeds."
    assert "the sign-flip test cannot give less than p = 0.0625" in page.text


def test_rates_plans_and_costs_are_all_told(tmp_path: Path) -> None:
    text = page_of(with_costs(results(MEANS, wiggle={"layerlens": 0.1})), tmp_path).text
    for words in (
        "0.001: 0.6100, 0.003: diverged",
        "at the edge of its grid",
        "mlp@1 leads by 0.1 nats",
        "25\u00a0%",
        "2.0\u00a0%",
    ):
        assert words in text, words


def test_one_of_a_kind_is_told_in_the_singular(tmp_path: Path) -> None:
    shown = page_of(results({"full": 0.8, "layerlens": 0.7}), tmp_path).one("h1").text
    assert shown == "2 arms, 2 seeds, 1 cell: 10 runs."


def test_several_cells_are_shown_together_and_each(tmp_path: Path) -> None:
    parts = [results({"full": 0.8, "uniform": 0.6, "layerlens": 0.7}, wiggle={"layerlens": 0.1}) for _ in range(2)]
    runs = [one.model_copy(update={"task": f"t{number}"}) for number, part in enumerate(parts) for one in part.runs]
    cells = [part.cells[0].model_copy(update={"task": f"t{number}"}) for number, part in enumerate(parts)]
    made = bench(cells=cells, runs=runs, overall=overall(cells, runs, ["full", "uniform", "layerlens"]))
    page = page_of(made, tmp_path)
    assert [found.text for found in page.all("h2")][1:4] == ["All cells together", "tiny on t0", "tiny on t1"]
    assert "better in 2, worse in 0, not told apart in 0 of 2 cells" in page.one("h1").text
    assert "+12.50%" in page.one("section", id="overall").text


def test_runs_that_died_stand_on_the_page_with_their_reason(tmp_path: Path) -> None:
    page = page_of(bench(runs=[run("uniform", 0, None), run("full", 1, None)]), tmp_path)
    assert "No run of small came to an end." in page.one("h1").text
    failed = page.one("section", id="failed").text
    assert failed.count("killed by signal 9") == 2


def test_the_page_loads_nothing_and_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    page_of(with_costs(results(MEANS)), tmp_path)
    first = build_report(tmp_path)
    assert first == build_bench_report(tmp_path)
    page = read_page(first)
    assert "default-src 'none'" in page.all("meta")[1].attributes["content"]
    places = [found.attributes.get(name, "#") for found in page.elements for name in ("src", "href")]
    assert all(place.startswith("#") for place in places)


def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"bench\.json"):
        build_bench_report(tmp_path)
    write_json(tmp_path / "bench.json", bench(schema_version=99))
    with pytest.raises(ManifestError, match="schema version 99"):
        build_bench_report(tmp_path)
