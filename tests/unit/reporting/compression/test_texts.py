from __future__ import annotations

from layerlens.artifacts.compression_evaluation import Metric, Spread, TextQuality
from layerlens.reporting.compression.texts import texts_section
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.sections.reading import read_section, rows


def test_each_text_s_figures_stand_in_its_row() -> None:
    table = rows(read_section(texts_section(a_folder())))
    first = dict(zip(table[0], table[1], strict=True))
    assert first == {
        "Text": "stdlib-docs",
        "Kind": "calibration's kind",
        "Perplexity before": "7.125",
        "after": "7.250",
        "KL mean, nats": "0.0123",
        "median": "0.0045",
        "99 %": "0.134",
        "maximum": "1.37",
        "Same top token": "95.12\u00a0%",
        "Cosine of logits": "0.9987",
        "Predictions": "16,384",
    }
    assert table[2][:2] == ["encyclopaedia", "other"]


def test_how_the_text_was_cut_is_said_once_for_all_that_share_it() -> None:
    body = texts_section(a_folder()).body  # type: ignore[union-attr]
    assert body.count("Windows of 512 tokens, stride 512, each begun by a begin-of-text token (stdlib-docs, encyclopaedia)") == 1


def test_only_columns_that_some_text_has_are_shown() -> None:
    texts = [
        TextQuality(name="sts-b", num_positions=10, embedding_distance=Spread(mean=0.01, median=0.009, p99=0.02, max=0.03)),
        TextQuality(name="mrpc", num_positions=20, metric=Metric(name="accuracy", before=0.81, after=0.79)),
    ]
    evaluation = artifacts.evaluation().model_copy(update={"texts": texts})
    table = rows(read_section(texts_section(a_folder(evaluation=evaluation))))
    assert table[0] == [
        "Text",
        "Kind",
        "Accuracy before",
        "after",
        "Embeddings, 1 − cosine: mean",
        "Embeddings: maximum",
        "Predictions",
    ]
    assert table[1][2:] == ["–", "–", "0.01", "0.03", "10"]
    assert table[2][2:] == ["0.8100", "0.7900", "–", "–", "20"]


def test_what_the_compressed_model_writes_differently_is_marked_and_nothing_else() -> None:
    page = read_section(texts_section(a_folder()))
    marks = page.all("mark")
    assert [mark.text for mark in marks] == ["(open(path))"]
    written = [block.text for block in page.all("pre")]
    for pair in artifacts.evaluation().generated:
        assert {pair.prompt, pair.before, pair.after} <= set(written)
    assert "the same throughout" in page.all("div", class_="written")[1].text


def test_speed_and_memory_are_told_before_and_after() -> None:
    text = read_section(texts_section(a_folder())).one("dl").text
    assert "41.0 → 63.5, 1.55 × tokens per second" in text
    assert "first run22.9\u00a0MiB → 4.77\u00a0MiB" in text
    assert "mapped files in that21.0\u00a0MiB → 0\u00a0B" in text
    bare = artifacts.evaluation().model_copy(update={"speed": None, "memory": None})
    assert "tokens per second" not in read_section(texts_section(a_folder(evaluation=bare))).one("dl").text


def test_memory_that_was_read_before_the_models_ran_is_not_told() -> None:
    held = artifacts.evaluation().memory
    assert held is not None
    sides = {side: getattr(held, side).model_copy(update={"file_before_bytes": None}) for side in ("before", "after")}
    older = artifacts.evaluation().model_copy(update={"memory": held.model_copy(update=sides)})
    text = read_section(texts_section(a_folder(evaluation=older))).one("dl").text
    assert "Weights in memory" in text
    assert "Resident" not in text


def test_without_an_evaluation_there_is_no_section() -> None:
    assert texts_section(a_folder(evaluation=None)) is None
