"""What two runs differ in is said by name, old and new."""

from __future__ import annotations

from layerlens.artifacts.differences import differing_paths, flat, told


def test_nested_mappings_become_dotted_paths_and_empty_ones_stay_values() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_paths_that_differ_are_named_from_either_side_and_equal_ones_are_not() -> None:
    found, wanted = {"a": {"b": 1, "same": 2}, "gone": 3}, {"a": {"b": 2, "same": 2}, "new": 4}
    assert differing_paths(found, wanted) == ["a.b", "gone", "new"]
    sentence = told(found, wanted, ["a.b", "gone", "new"])
    assert sentence == "a.b was 1, now 2, gone was 3, now the default, new was the default, now 4"
    assert told(found, found, differing_paths(found, found)) == ""


def test_only_the_first_differences_are_told_and_long_values_are_cut() -> None:
    found, wanted = {f"k{at}": at for at in range(8)}, {f"k{at}": "x" * 500 for at in range(8)}
    sentence = told(found, wanted, differing_paths(found, wanted))
    assert sentence.count(" was ") == 5
    assert sentence.endswith(" and 3 more")
    assert "x" * 60 + "…" in sentence
    assert "x" * 61 not in sentence


def test_an_option_that_an_older_description_lacks_is_told_as_what_was_done_before_there_was_one() -> None:
    assert told({"config": {"seed": 0}}, {"config": {"seed": 0, "dropout": False}}) == "config.dropout was True, now False"
