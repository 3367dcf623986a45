from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerlens.data.labels import NO_HEAD, HeadLabels, class_labels, label_key, looks_continuous, regression_targets
from layerlens.data.table import Table
from layerlens.errors import DataError


def _classes(
    values: list[Any],
    names: list[str] | None = None,
    class_names: tuple[str, ...] | None = None,
    head: HeadLabels = NO_HEAD,
) -> tuple[list[int], list[str]]:
    table = Table(where="data", columns={"label": values}, class_names={"label": class_names} if class_names else {})
    return class_labels("label", values, table, range(len(values)), names, head)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        (" yes ", "yes"),
        (True, "True"),
        (2.5, "2.5"),
        (2**53 + 1, "9007199254740993"),
        (np.int64(2**53 + 1), "9007199254740993"),
        (10**400, f"1{'0' * 400}"),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_label_is_written_the_same_however_it_is_stored(value: Any, key: str | None) -> None:
    assert label_key(value) == key


def test_numbers_sort_by_size_and_names_by_alphabet() -> None:
    assert _classes(["10", "9", "10", "2"]) == ([2, 1, 2, 0], ["2", "9", "10"])
    assert _classes(["10.0", "9.0", "2.0"]) == ([2, 1, 0], ["2.0", "9.0", "10.0"])
    assert _classes(["b", "9" * 5000, "b"])[0] == [1, 0, 1]
    assert _classes(["2", "1", "001", "01"]) == ([3, 2, 0, 1], ["001", "01", "1", "2"])
    assert _classes(["no", "yes", "No"]) == ([1, 2, 0], ["No", "no", "yes"])


def test_a_plans_label_set_decides_the_order() -> None:
    assert _classes(["a", "b"], names=["c", "b", "a"]) == ([2, 1], ["c", "b", "a"])


def test_the_names_of_a_head_decide_the_order_where_they_are_the_data_s() -> None:
    config = {"id2label": {"1": "late", "0": "early", "2": "never"}}
    trained, kept = HeadLabels.of(config), HeadLabels.of(config, is_kept=True)
    names = ["early", "late", "never"]
    assert _classes(["never", "early", "late"], head=trained) == ([2, 0, 1], names)
    # A new head is made for the classes at hand, one that is kept has its own.
    assert _classes(["never", "early"], head=trained) == ([1, 0], ["early", "never"])
    assert _classes(["never", "early"], head=kept) == ([2, 0], names)
    assert _classes(["never"], head=kept, names=["never", "early"]) == ([2], names)
    assert _classes(["never", "later"], head=kept) == ([1, 0], ["later", "never"])
    for broken in ({}, {"id2label": {0: "early", 1: "early"}}, {"id2label": {0: "early", 2: "late"}}, {"id2label": None}):
        assert HeadLabels.of(broken, is_kept=True).names == ()


@pytest.mark.parametrize("names", [["early", "late", "never"], [f"LABEL_{output}" for output in range(3)]])
def test_a_kept_head_s_outputs_may_be_called_by_their_numbers_and_some_lack(names: list[str]) -> None:
    head = HeadLabels.of({"id2label": dict(enumerate(names))}, is_kept=True)
    numbers = ["0", "1", "2"]
    assert _classes([2, 0, 2], head=head) == ([2, 0, 2], numbers)
    assert _classes(["0", "0"], head=head) == ([0, 0], numbers)
    assert _classes([1, 3, 2], head=head) == ([0, 2, 1], ["1", "2", "3"])
    # Those of a rating from 1 to 3, or of two classes out of three?
    with pytest.raises(
        DataError, match=rf"labels 1, 2 in column 'label' could count the model's 3 classes .*, such as {names[0]}"
    ):
        _classes([1, 2], head=head)
    assert _classes([1, 2], head=head, names=numbers) == ([1, 2], numbers)
    # transformers leaves the names of two classes that have none out of a config.
    assert _classes([0, 0], head=HeadLabels.of({}, is_kept=True)) == ([0, 0], ["0", "1"])


def test_a_label_set_is_met_in_any_case_unless_case_tells_classes_apart() -> None:
    names = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    labels = ["entailment", "Contradiction", "neutral"]
    assert _classes(labels, head=HeadLabels.of({"id2label": dict(enumerate(names))})) == ([2, 0, 1], names)
    assert _classes(labels[:2], names=names) == ([2, 0], names)
    assert _classes(["a", "A"], names=["a", "b", "A"]) == ([0, 2], ["a", "b", "A"])
    with pytest.raises(DataError, match=r"label 'later' in row 2 is not in the plan's label set"):
        _classes(["neutral", "later"], names=names)
    with pytest.raises(DataError, match=r"label 'A' in row 2 is not in the plan's label set \(a, b\)"):
        _classes(["a", "A"], names=["a", "b"])


def test_a_label_outside_a_plans_set_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"data: label 'd' in row 2 is not in the plan's label set \(a, b\)"):
        _classes(["a", "d"], names=["a", "b"])


def test_integers_take_the_names_the_source_gives_them() -> None:
    assert _classes([1, 0, 1], class_names=("bad", "good", "unused")) == ([1, 0, 1], ["bad", "good", "unused"])


@pytest.mark.parametrize("label", [3, -1])
def test_an_integer_outside_the_sources_names_is_out_of_range(label: int) -> None:
    with pytest.raises(DataError, match=rf"label {label} in row 2 is out of range 0 … 2"):
        _classes([1, label], class_names=("bad", "good", "unused"))


def test_a_negative_class_is_out_of_range() -> None:
    with pytest.raises(DataError, match="label -1 in row 3 is out of range"):
        _classes([0, 1, -1])


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match=r"every row has the label '1'.*at least two classes"):
        _classes(["1", "1", "1"])


def test_ids_are_no_labels() -> None:
    with pytest.raises(DataError, match="30 different values in 30 rows, too many for classes"):
        _classes([f"row {number}" for number in range(30)])


def test_a_list_is_no_label() -> None:
    with pytest.raises(DataError, match="label of row 1 is list"):
        _classes([[1], [2]])


def test_a_scale_is_told_from_classes() -> None:
    assert looks_continuous([number / 10 for number in range(30)])
    assert looks_continuous([*(str(number / 10) for number in range(30)), None, ""])
    assert not looks_continuous([number / 10 for number in range(20)])
    assert not looks_continuous(list(range(100)))
    assert not looks_continuous([*(number / 10 for number in range(30)), "good"])
    assert not looks_continuous([*(number / 10 for number in range(30)), 10**400])


@pytest.mark.parametrize("value", ["high", "nan", float("inf"), 10**400, [1]])
def test_a_regression_label_must_be_a_finite_number(value: Any) -> None:
    values = [1.5, value]
    with pytest.raises(DataError, match="in row 2, column 'score', is no finite number"):
        regression_targets("score", values, Table(where="data", columns={"score": values}), [0, 1])


def test_regression_labels_are_read_from_text() -> None:
    values = ["2.500", 3]
    assert regression_targets("score", values, Table(where="data", columns={"score": values}), [0, 1]) == [2.5, 3.0]
