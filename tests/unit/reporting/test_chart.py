from __future__ import annotations

import json
import math

from layerlens.reporting.chart import Chart, charts_json, log_axis, plain, rounded


def test_tags_and_entities_are_shown_as_they_are() -> None:
    assert plain('<a href="x">&lt;') == '&lt;a href="x"&gt;&amp;lt;'


def test_values_keep_five_digits() -> None:
    assert rounded([1 / 3, 123456.7, 1.23456789e-9]) == [0.33333, 123460.0, 1.2346e-09]


def test_json_cannot_end_its_script_and_reads_back_the_same() -> None:
    chart = Chart("c", [{"name": "</script><!--&"}], {"title": "π"}, 100, "label")
    text = charts_json([chart])
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"c": {"data": [{"name": "</script><!--&"}], "layout": {"title": "π"}}}


def test_ticks_of_a_logarithmic_axis_are_round_written_out_and_inside_it() -> None:
    for low, high in ((3e-5, 4e-3), (0.011, 0.013), (1e-9, 50.0)):
        axis = log_axis("loss", [low, 0.0, high])
        ends = axis["range"]
        assert ends[0] < math.log10(low) < math.log10(high) < ends[1]
        assert all(ends[0] <= math.log10(tick) <= ends[1] for tick in axis["tickvals"])
        assert len(axis["ticktext"]) == len(axis["tickvals"])
        assert len(axis["tickvals"]) >= 2
    assert log_axis("loss", [6e-5, 9e-4])["ticktext"] == ["5·10⁻⁵", "10⁻⁴", "2·10⁻⁴", "5·10⁻⁴", "0.001"]
    assert log_axis("loss", [1.3e-5, 1.4e-5])["ticktext"] == ["1.2·10⁻⁵", "1.5·10⁻⁵"]
    assert log_axis("loss", [1e-9, 50.0])["tickvals"] == [1e-8, 1e-6, 1e-4, 0.01, 1.0, 100.0]


def test_an_axis_without_a_value_above_zero_still_stands() -> None:
    assert log_axis("loss", [0.0])["range"] == [-0.1, 0.1]
