from __future__ import annotations

from layerlens.reporting.sections.layers import layers_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_every_site_has_a_row_with_what_it_gets_and_why() -> None:
    plan = artifacts.plan()
    page = read_section(layers_section(a_run(plan=plan)))
    found = rows(page)[1:]
    assert len(found) == len(plan.layers)
    for row, entry in zip(found, plan.layers, strict=True):
        gets = f"LoRA, rank {entry.size}" if entry.size else "none"
        assert row == [
            entry.layer,
            str(entry.block),
            entry.role,
            gets,
            f"{entry.utility:.3f}",
            f"{entry.value:.5f}",
            f"{entry.params:,}",
            entry.why,
        ]


def test_adapted_layers_are_tinted_and_columns_sort_by_exact_numbers() -> None:
    plan = artifacts.plan()
    page = read_section(layers_section(a_run(plan=plan)))
    assert len(page.all("tr", class_="marked")) == len(plan.adapted)
    keys = [element.attributes["data-key"] for element in page.all("td") if "data-key" in element.attributes]
    assert str(plan.layers[0].utility) in keys
    assert len(page.all("button")) == 8


def test_without_a_plan_the_profile_s_metrics_are_listed() -> None:
    head, *body = rows(read_section(layers_section(a_run(plan=None))))
    assert head[4:] == ["gradient energy", "gradient norm squared", "fisher", "proxy eval"]
    assert len(body) == 36
    assert layers_section(a_run(plan=None, profile=None)) is None
