"""Options of a run against those of a record that an older version wrote."""

from __future__ import annotations

from layerlens.adapting.recorded import without_newer
from layerlens.config import TuneConfig

USUAL = TuneConfig().model_dump(mode="json")


def test_an_option_that_came_later_is_left_out_where_it_does_what_was_done_before() -> None:
    recorded = {name: value for name, value in USUAL.items() if name not in {"loraplus_lr_ratio", "dropout"}}
    assert without_newer(USUAL | {"dropout": True}, recorded, USUAL) == recorded


def test_what_is_no_longer_done_by_default_tells_a_run_from_its_record() -> None:
    recorded = {name: value for name, value in USUAL.items() if name != "dropout"}
    assert without_newer(USUAL, recorded, USUAL) == recorded | {"dropout": False}
