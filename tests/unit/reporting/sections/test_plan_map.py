from __future__ import annotations

from layerlens.artifacts.plan import Plan
from layerlens.reporting.sections.plan_map import plan_map_section
from layerlens.words import Method, Role, Site
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_every_layer_has_its_utility_and_its_rank_in_its_place() -> None:
    plan = artifacts.plan()
    found = rows(read_section(plan_map_section(a_run(plan=plan))))
    half = len(found) // 2
    assert found[1] == ["query", "key", "value", "output", "up", "down"]
    for table, shown in (
        (found[:half], lambda e: f"{e.utility:.2f}"[1:]),
        (found[half:], lambda e: str(e.size) if e.size else "·"),
    ):
        for block in range(6):
            expected = [shown(entry) for entry in plan.layers if entry.block == block]
            assert table[2 + block] == [str(block), *expected]


def test_without_a_plan_the_profile_s_utilities_are_shown_alone() -> None:
    page = read_section(plan_map_section(a_run(plan=None)))
    assert len(page.all("table")) == 1
    assert plan_map_section(a_run(plan=None, profile=None)) is None


def test_shades_are_in_proportion_and_what_gets_nothing_has_none() -> None:
    page = read_section(plan_map_section(a_run(plan=artifacts.plan())))
    largest = max(entry.size for entry in artifacts.plan().layers)
    cells = [element for element in page.elements if element.tag == "td"][36:]
    for cell, entry in zip(cells, artifacts.plan().layers, strict=True):
        if entry.size:
            assert cell.attributes["style"] == f"--t:{entry.size / largest:.3f}"
        else:
            assert cell.attributes["class"] == "none"
        assert entry.layer in cell.attributes["title"]


def test_layers_that_share_a_place_are_all_told_of() -> None:
    plan = artifacts.plan()
    layers = [entry.model_copy(update={"role": Role.OTHER.value}) for entry in plan.layers]
    page = read_section(plan_map_section(a_run(plan=plan.model_copy(update={"layers": layers}))))
    titles = " ".join(element.attributes.get("title", "") for element in page.elements)
    assert all(entry.layer in titles for entry in layers)
    sizes = [entry.size for entry in layers if entry.block == 5]
    assert rows(page)[-1] == ["5", f"{min(sizes)}–{max(sizes)}"]
    largest = max(entry.size for entry in layers)
    assert page.all("td")[-1].attributes["style"] == f"--t:{max(sizes) / largest:.3f}"


def test_adapters_and_prefixes_have_columns_of_their_own() -> None:
    plan = _mixed(artifacts.plan())
    found = rows(read_section(plan_map_section(a_run(plan=plan))))
    half = next(place for place, row in enumerate(found) if place and row[0] == "Block")
    sizes = found[half:]
    assert sizes[0] == ["Block", "attention", "mlp", "adapter after", "prefix on"]
    assert sizes[1][-2:] == ["mlp down", "attention"]
    assert sizes[2 + 5][-2:] == ["a16", "p8"]
    assert sizes[2 + 4][-2:] == ["·", ""]


def test_layers_outside_the_blocks_come_last() -> None:
    plan = artifacts.plan()
    layers = [plan.layers[0].model_copy(update={"block": None}), *plan.layers[1:]]
    found = rows(read_section(plan_map_section(a_run(plan=plan.model_copy(update={"layers": layers})))))
    assert [row[0] for row in found[2:9]] == ["0", "1", "2", "3", "4", "5", "–"]


def _mixed(plan: Plan) -> Plan:
    downs = [entry for entry in plan.layers if entry.role == "mlp.down"]
    adapters = [
        entry.model_copy(
            update={
                "site": Site.SUBLAYER,
                "method": Method.ADAPTER if entry.block == 5 else Method.NONE,
                "size": 16 if entry.block == 5 else 0,
            }
        )
        for entry in downs
    ]
    prefix = downs[-1].model_copy(
        update={
            "site": Site.ATTENTION,
            "role": "attention",
            "layer": "bert.encoder.layer.5.attention",
            "method": Method.PREFIX,
            "size": 8,
        }
    )
    return plan.model_copy(update={"layers": [*plan.layers, *adapters, prefix]})
