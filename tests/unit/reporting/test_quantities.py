from __future__ import annotations

import pytest

from layerlens.reporting import quantities
from layerlens.words import BudgetName


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.00012, "0.00012"),
        (1.0, "1.00"),
        (999, "999"),
        (999.9, "1.00 k"),
        (49_152, "49.2 k"),
        (22_716_296, "22.7 M"),
        (7e10, "70.0 G"),
    ],
)
def test_scaled_keeps_three_digits_and_never_shows_1000_of_a_unit(value: float, shown: str) -> None:
    assert quantities.scaled(value) == shown.replace(" ", quantities.NO_BREAK)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (1023, "1023 B"), (1023.9, "1.00 KiB"), (2**20, "1.00 MiB"), (1.62 * 2**30, "1.62 GiB")]
)
def test_memory_is_in_binary_units(value: float, shown: str) -> None:
    assert quantities.memory(value) == shown.replace(" ", quantities.NO_BREAK)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (119.6, "2 min 0 s"),
        (200, "3 min 20 s"),
        (7199.6, "2 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_carry_over(value: float, shown: str) -> None:
    assert quantities.duration(value) == shown.replace(" ", quantities.NO_BREAK)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.117, "12 %"), (0.0117, "1.2 %"), (0.00219, "0.22 %"), (0.0000042, "0.00042 %")],
)
def test_a_small_share_is_never_rounded_to_zero(value: float, shown: str) -> None:
    assert quantities.percent(value) == shown.replace(" ", quantities.NO_BREAK)


def test_accuracy_is_in_percent_and_its_differences_in_points() -> None:
    assert quantities.score("accuracy", 0.8364) == f"83.6{quantities.NO_BREAK}%"
    assert quantities.score("matthews", 0.8364) == "0.836"
    assert quantities.difference("accuracy", -0.004) == f"0.4{quantities.NO_BREAK}points"
    assert quantities.difference("matthews", -0.004) == "0.004"


def test_every_budget_has_a_label_and_a_unit() -> None:
    for name in BudgetName:
        assert quantities.BUDGET_LABELS[name]
        assert any(letter.isalpha() for letter in quantities.spend(name, 1.5))


def test_one_unit_suits_the_largest_of_many_amounts() -> None:
    assert quantities.binary_unit(1023) == (1, "B")
    assert quantities.binary_unit(1024) == (1024, "KiB")
    assert quantities.binary_unit(5 * 1024**3) == (1024**3, "GiB")


def test_nats_keep_three_digits_and_a_short_exponent() -> None:
    assert [quantities.nats(value) for value in (0.0, 0.0123456, 6.1234e-5, 1.5)] == ["0", "0.0123", "6.12e-5", "1.5"]
