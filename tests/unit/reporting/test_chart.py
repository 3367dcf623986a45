from __future__ import annotations

import json

from layerlens.reporting.chart import Chart, charts_json, plain, rounded


def test_tags_and_entities_are_shown_as_they_are() -> None:
    assert plain('<a href="x">&lt;') == '&lt;a href="x"&gt;&amp;lt;'


def test_values_keep_five_digits() -> None:
    assert rounded([1 / 3, 123456.7, 1.23456789e-9]) == [0.33333, 123460.0, 1.2346e-09]


def test_json_cannot_end_its_script_and_reads_back_the_same() -> None:
    chart = Chart("c", [{"name": "</script><!--&"}], {"title": "π"}, 100, "label")
    text = charts_json([chart])
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"c": {"data": [{"name": "</script><!--&"}], "layout": {"title": "π"}}}
