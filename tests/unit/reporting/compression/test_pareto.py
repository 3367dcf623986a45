from __future__ import annotations

from typing import Any

import pytest

from layerlens.artifacts.compression import Measured
from layerlens.reporting.compression.pareto import pareto_section, undominated
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.sections.reading import read_section, rows

MIB = 1024**2


def points(traces: Any) -> dict[str, tuple[float, float]]:
    return {
        name: (x, y)
        for trace in traces
        if "text" in trace["mode"]
        for name, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
    }


def test_every_candidate_and_every_baseline_is_drawn_where_it_was_measured() -> None:
    section = pareto_section(a_folder())
    assert section is not None
    drawn = points(section.charts[0].traces)
    assert drawn.keys() == {entry.name for entry in artifacts.plan().measured}
    for entry in artifacts.plan().measured:
        assert drawn[entry.name] == pytest.approx((entry.size_bytes / MIB, entry.kl_nats), rel=1e-4)


def test_baselines_candidates_and_the_choice_are_told_apart() -> None:
    section = pareto_section(a_folder())
    assert section is not None
    by_name = {trace["name"]: trace for trace in section.charts[0].traces}
    assert set(by_name["baselines"]["customdata"]) == {entry.name for entry in artifacts.plan().measured if entry.is_baseline}
    assert by_name["chosen"]["customdata"] == [artifacts.OURS]
    lost = pareto_section(a_folder(plan=artifacts.baseline_plan()))
    assert lost is not None
    assert {trace["name"] for trace in lost.charts[0].traces} >= {"chosen, a baseline"}


def test_numbers_of_points_are_those_of_the_rows() -> None:
    section = pareto_section(a_folder())
    assert section is not None
    numbers = {
        name: number
        for trace in section.charts[0].traces
        if "text" in trace["mode"]
        for name, number in zip(trace["customdata"], trace["text"], strict=True)
    }
    table = rows(read_section(section))[1:]
    assert {row[0]: row[1] for row in table} == numbers
    kl = {entry.name: entry.kl_nats for entry in artifacts.plan().measured}
    assert [kl[row[0]] for row in table] == sorted(kl.values())
    chosen = kl[artifacts.OURS]
    assert {row[0]: row[7] for row in table} == {
        name: "–" if name == artifacts.OURS else f"{value / chosen:.2f} ×" for name, value in kl.items()
    }


def test_the_limit_is_drawn_and_inside_the_axis() -> None:
    section = pareto_section(a_folder())
    assert section is not None
    layout = section.charts[0].layout
    limit = (artifacts.plan().size_bytes + 1000) / MIB
    assert layout["shapes"][0]["x0"] == pytest.approx(limit)
    assert layout["xaxis"]["range"][0] < limit < layout["xaxis"]["range"][1]


def test_a_divergence_of_zero_is_left_out_of_a_logarithmic_axis_and_said() -> None:
    race = [*artifacts.plan().measured[1:], artifacts.plan().measured[0].model_copy(update={"kl_nats": 0.0})]
    section = pareto_section(a_folder(plan=artifacts.plan().model_copy(update={"measured": race})))
    assert section is not None
    assert artifacts.OURS not in points(section.charts[0].traces)
    assert "1 measured at zero or below" in section.body
    only = [entry.model_copy(update={"kl_nats": 0.0}) for entry in race]
    flat = pareto_section(a_folder(plan=artifacts.plan().model_copy(update={"measured": only})))
    assert flat is not None
    assert len(points(flat.charts[0].traces)) == len(only)


def test_the_undominated_are_those_that_nothing_beats_in_both() -> None:
    race = [
        Measured(name=name, size_bytes=size, bits_per_weight=1.0, kl_nats=kl, is_baseline=False)
        for name, size, kl in (("a", 10, 0.5), ("b", 20, 0.2), ("c", 20, 0.3), ("d", 30, 0.2), ("e", 40, 0.1), ("f", 9, 0.6))
    ]
    assert [entry.name for entry in undominated(race)] == ["f", "a", "b", "e"]


def test_who_did_not_race_and_who_may_not_be_written_is_told_with_the_reason() -> None:
    told = {
        "left_out": {"optimum-safe-ends": "no bytes < left"},
        "only_measured": {artifacts.RIVAL: "the policies leave out int4"},
    }
    made = artifacts.plan().model_copy(update={"metadata": {**artifacts.plan().metadata, **told}})
    section = pareto_section(a_folder(plan=made))
    assert section is not None
    page = read_section(section)
    assert [(e.text, d.text) for e, d in zip(page.all("dt"), page.all("dd"), strict=True)] == [
        (artifacts.RIVAL, "measured, but not to be written: the policies leave out int4"),
        ("optimum-safe-ends", "left out: no bytes < left"),
    ]
    kinds = {row[0]: row[2] for row in rows(page)[1:]}
    assert (kinds[artifacts.RIVAL], kinds[artifacts.OURS]) == ("baseline, only measured", "candidate")
    plain = pareto_section(a_folder())
    assert plain is not None
    assert not read_section(plain).all("dt")


def test_where_nothing_was_measured_there_is_no_section() -> None:
    assert pareto_section(a_folder(plan=artifacts.plan().model_copy(update={"measured": []}))) is None
