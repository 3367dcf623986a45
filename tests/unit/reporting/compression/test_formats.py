from __future__ import annotations

from layerlens.reporting.compression.formats import format_counts, formats_section, matrices_section
from layerlens.reporting.quantities import memory, nats
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.compression.synthetic_curves import BLOCKS, SHAPES
from tests.unit.reporting.sections.reading import read_section, rows


def test_the_map_shows_bits_per_weight_of_each_block_and_role() -> None:
    page = read_section(formats_section(a_folder()))
    table = rows(page)[2 : 2 + BLOCKS]
    columns = list(SHAPES)
    # Roles stand in the order of the schema: up before gate.
    columns.sort(key=list(type(columns[0])).index)
    for block, row in enumerate(table):
        assert row[0] == str(block)
        for role, shown in zip(columns, row[1 : 1 + len(columns)], strict=True):
            (entry,) = [e for e in artifacts.plan().layers if e.block == block and e.role is role]
            assert float(shown) == round(8 * entry.size_bytes / (entry.out_features * entry.in_features), 2)


def test_more_bits_are_shaded_more_and_a_hint_names_the_format() -> None:
    page = read_section(formats_section(a_folder()))
    cells = [cell for cell in page.all("td") if "bits per weight" in cell.attributes.get("title", "")]
    assert len(cells) == len(artifacts.plan().layers)
    shaded = sorted((float(cell.text), float(cell.attributes["style"].removeprefix("--t:"))) for cell in cells)
    assert [share for _, share in shaded] == sorted(share for _, share in shaded)
    assert shaded[0][1] < shaded[-1][1] == 1.0
    for entry in artifacts.plan().layers:
        assert any(f"{entry.layer}: {entry.format}," in cell.attributes["title"] for cell in cells)


def test_shares_of_the_predicted_loss_are_of_the_plan_s_total() -> None:
    made = artifacts.plan()
    total = sum(entry.predicted_loss for entry in made.layers)
    page = read_section(formats_section(a_folder()))
    shown = {cell.attributes["title"]: cell.text for cell in page.all("td") if " nats" in cell.attributes.get("title", "")}
    entry = max(made.layers, key=lambda e: e.predicted_loss)
    text = shown[f"{entry.layer}: {entry.format}, {nats(entry.predicted_loss)} nats"]
    assert abs(float(text) - 100 * entry.predicted_loss / total) < 0.51


def test_every_matrix_has_a_row_with_its_format_its_bytes_and_the_reason() -> None:
    table = rows(read_section(matrices_section(a_folder())))[1:]
    assert len(table) == len(artifacts.plan().layers)
    for entry, row in zip(artifacts.plan().layers, table, strict=True):
        assert row[0].startswith(entry.layer)
        assert row[3] == f"{entry.format} {entry.rounding}"
        assert row[6] == memory(entry.size_bytes)
        assert row[8] == nats(entry.predicted_loss)
        assert row[9] == entry.why
    assert "(tied: lm_head)" in table[0][0]


def test_formats_are_counted_most_frequent_first() -> None:
    layers = [
        entry.model_copy(update={"format": name})
        for entry, name in zip(artifacts.plan().layers[:4], ("int3", "int4", "int4", "keep"), strict=True)
    ]
    assert format_counts(layers) == "int4 on 2, int3 on 1, keep on 1"
