from __future__ import annotations

from layerlens.reporting.compression.picker import picker
from tests.unit.reporting.page_reading import read_page


def test_matrices_that_share_role_and_block_go_by_their_own_names() -> None:
    entries = [("mlp.up", "a.0.expert.0", 0), ("mlp.up", "a.0.expert.1", 0), ("mlp.up", "a.1.up", 1), ("head", "lm_head", None)]
    page = read_page(picker("chart", entries, "a.1.up"))
    matrices = [option for option in page.all("option") if "data-role" in option.attributes]
    assert [option.text for option in matrices] == ["a.0.expert.0", "a.0.expert.1", "block 1", "lm_head"]
    assert [option.attributes["value"] for option in page.all("option") if "selected" in option.attributes] == [
        "mlp.up",
        "a.1.up",
    ]
    assert page.one("div").attributes["data-chart"] == "chart"
