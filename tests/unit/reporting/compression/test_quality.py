from __future__ import annotations

from layerlens.artifacts.compression_evaluation import Verdict
from layerlens.reporting.compression.quality import quality_section
from layerlens.reporting.compression.verdict import statements
from layerlens.reporting.quantities import memory, nats, percent
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.sections.reading import read_section, rows


def test_every_layer_has_its_row_of_figures_and_its_verdict_in_words() -> None:
    table = rows(read_section(quality_section(a_folder())))[1 : 1 + len(artifacts.evaluation().layers)]
    planned = {entry.layer: entry for entry in artifacts.plan().layers}
    for layer, row in zip(artifacts.evaluation().layers, table, strict=True):
        assert row[0] == layer.layer
        assert row[2] == planned[layer.layer].format
        assert layer.verdict.value in row[3]
        assert row[4:8] == [
            f"{layer.output_error:.4f}",
            f"{layer.output_cosine:.5f}",
            f"{layer.weight_error:.4f}",
            f"{layer.weight_cosine:.5f}",
        ]
        assert row[8:] == [memory(layer.size_bytes.before), memory(layer.size_bytes.after)]


def test_verdicts_sort_from_good_to_critical_and_are_counted() -> None:
    evaluation = artifacts.evaluation()
    layers = [
        layer.model_copy(update={"verdict": verdict})
        for layer, verdict in zip(evaluation.layers, reversed(Verdict), strict=False)
    ]
    page = read_section(quality_section(a_folder(evaluation=evaluation.model_copy(update={"layers": layers}))))
    badges = {span.text.split()[-1] for span in page.all("span") if "badge" in span.attributes.get("class", "")}
    assert badges == {verdict.value for verdict in Verdict}
    cells = {cell.text.split()[-1]: cell.attributes["data-key"] for cell in page.all("td") if cell.text.split()[-1] in badges}
    assert sorted(cells, key=lambda name: int(cells[name])) == [verdict.value for verdict in Verdict]
    assert all(f"{verdict} 1" in page.one("p", class_="tally").text for verdict in Verdict)


def test_a_layer_that_no_sample_ran_through_is_called_unseen_and_has_no_figures() -> None:
    evaluation = artifacts.evaluation()
    first, *rest = evaluation.layers
    unseen = first.model_copy(update={"output_error": None, "output_cosine": None, "verdict": Verdict.UNSEEN})
    folder = a_folder(evaluation=evaluation.model_copy(update={"layers": [unseen, *rest]}))
    row = rows(read_section(quality_section(folder)))[1]
    assert row[0] == first.layer
    assert "unseen" in row[3]
    assert row[4:6] == ["–", "–"]
    assert any("1 unseen" in statement.text for statement in statements(folder) if statement.topic == "Layers")


def test_pillars_are_tinted_in_both_tables_and_named() -> None:
    page = read_section(quality_section(a_folder()))
    trial = artifacts.evaluation().leave_one_out
    assert trial is not None
    marked = [row.text for row in page.all("tr", class_="marked")]
    assert len(marked) == 2 * len(trial.pillars)
    assert all(any(text.startswith(name) for text in marked) for name in trial.pillars)
    first = trial.layers[0]
    row = next(row for row in rows(page) if row[0] == first.layer and row[1] == "pillar")
    assert row[2:] == [
        nats(first.gain_nats),
        f"{nats(first.low)} to {nats(first.high)}",
        percent(first.share),
        nats(first.kl_nats),
    ]


def test_pillars_are_shown_as_soon_as_the_plan_tells_of_them() -> None:
    trial = artifacts.evaluation().leave_one_out
    assert trial is not None
    plan = artifacts.plan()
    plan = plan.model_copy(update={"metadata": {**plan.metadata, "leave_one_out": trial.model_dump(mode="json")}})
    folder = a_folder(plan=plan, evaluation=None)
    page = read_section(quality_section(folder))
    marked = [row.text for row in page.all("tr", class_="marked")]
    assert len(marked) == len(trial.pillars)
    assert all(any(text.startswith(name) for text in marked) for name in trial.pillars)
    assert any(statement.topic == "Pillars" and trial.pillars[0] in statement.text for statement in statements(folder))


def test_without_an_evaluation_of_layers_there_is_no_section() -> None:
    assert quality_section(a_folder(evaluation=None)) is None
    bare = artifacts.evaluation().model_copy(update={"layers": [], "leave_one_out": None})
    assert quality_section(a_folder(evaluation=bare)) is None
    no_trial = artifacts.evaluation().model_copy(update={"leave_one_out": None})
    assert not read_section(quality_section(a_folder(evaluation=no_trial))).all("tr", class_="marked")
