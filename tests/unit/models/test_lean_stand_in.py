"""A stand-in is the real thing to all who use it, and makes it no sooner."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from layerlens.models.lean_stand_in import StandIn, real


class Maker:
    """Gives an object, and counts how often it was asked to."""

    def __init__(self, value: Any) -> None:
        self.value, self.num_made = value, 0

    def __call__(self) -> Any:
        self.num_made += 1
        return self.value


@dataclass
class Pair:
    """A plain value with a method and an operator."""

    first: int
    second: int = 0

    def total(self) -> int:
        return self.first + self.second

    def __or__(self, other: Any) -> Any:
        return Pair(self.first | other.first, self.second | other.second)

    def __enter__(self) -> str:
        return "inside"

    def __exit__(self, *_: object) -> bool:
        return True


USES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda value: value.first,
    "method": lambda value: value.total(),
    "class": lambda value: value.__class__,
    "name of its class": lambda value: value.__class__.__name__,
    "equality": lambda value: (value == Pair(3, 4), Pair(3, 4) == value, value != Pair(3, 4)),
    "printed": lambda value: (repr(value), str(value), f"{value}"),
    "copied": lambda value: copy.deepcopy(value) == Pair(3, 4),
    "of a class": lambda value: (isinstance(value, Pair), isinstance(value, int)),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_is_asked_is_answered_by_the_real_object_made_once(use: Callable[[Any], Any]) -> None:
    maker = Maker(Pair(3, 4))
    stand_in = StandIn(maker)
    assert maker.num_made == 0
    assert use(stand_in) == use(Pair(3, 4))
    assert use(stand_in) == use(Pair(3, 4))
    assert maker.num_made == 1


ARITHMETIC: dict[str, Callable[[Any], Any]] = {
    "added": lambda value: (value + 2, 2 + value),
    "divided": lambda value: (value // 2, 20 // value, value / 2, value % 4, 20 % value),
    "compared": lambda value: (value < 8, value >= 7, value > 7),
    "counted with": lambda value: (list(range(value)), int(value), float(value), hash(value), -value, ~value, abs(value)),
    "truth": lambda value: (bool(value), not value),
    "shifted": lambda value: (value << 1, 1 << value, value & 3, 3 & value, value ^ 1),
}


@pytest.mark.parametrize("use", ARITHMETIC.values(), ids=ARITHMETIC)
def test_a_number_that_is_put_off_counts_like_the_number(use: Callable[[Any], Any]) -> None:
    assert use(StandIn(lambda: 7)) == use(7)


def test_containers_contexts_and_functions_behave() -> None:
    shelf = StandIn(lambda: {"a": 1})
    shelf["b"] = 2
    del shelf["a"]
    assert (len(shelf), list(shelf), "b" in shelf, shelf["b"]) == (1, ["b"], True, 2)
    with StandIn(lambda: Pair(1)) as word:
        assert word == "inside"
        raise RuntimeError
    assert StandIn(lambda: sorted)([2, 1], reverse=True) == [2, 1]
    changed = Pair(1)
    StandIn(lambda: changed).first = 5
    assert changed.first == 5


def test_a_class_can_be_called_and_inherited_from() -> None:
    maker = Maker(Pair)
    late = StandIn(maker)

    class Child(late):  # type: ignore[misc, valid-type]
        pass

    assert Child.__mro__[1] is Pair
    assert late(1, 2) == Pair(1, 2)
    assert issubclass(Child, late)
    assert not issubclass(int, late)
    assert maker.num_made == 1


def test_nothing_is_an_instance_of_a_class_that_does_not_exist_yet() -> None:
    maker, exists = Maker(Pair), False
    late = StandIn(maker, lambda: not exists)
    assert not isinstance(Pair(1), late)
    assert not isinstance(3, (str, late))
    assert maker.num_made == 0
    exists = True
    assert isinstance(Pair(1), late)
    assert not isinstance(3, late)


def test_without_that_knowledge_the_real_class_is_asked() -> None:
    assert isinstance(Pair(1), StandIn(lambda: Pair))


def test_a_value_of_a_late_class_is_as_late_and_true() -> None:
    maker = Maker(Pair)
    late = StandIn(maker, lambda: maker.num_made == 0, is_value_class=True)
    value = late(3, second=4)
    assert value
    assert maker.num_made == 0
    assert isinstance(value, late)
    assert value == Pair(3, 4)
    assert maker.num_made == 1


def test_an_annotation_makes_nothing_until_it_is_looked_at() -> None:
    maker = Maker(int)
    late = StandIn(maker)

    def function(value: str | late | None = None) -> late | None:  # type: ignore[valid-type]
        return None

    eager = str | late | None, None | late
    assert maker.num_made == 0
    assert real(eager[0]) == str | int | None
    assert real(eager[1]) == int | None
    assert isinstance(3, eager[0])
    assert isinstance("", eager[0])
    assert not isinstance(3.0, eager[0])
    assert function() is None


def test_what_is_no_stand_in_is_real_already() -> None:
    value = Pair(1)
    assert real(value) is value
    assert real(StandIn(lambda: StandIn(lambda: value))) is value


def test_an_error_of_the_maker_is_told_at_each_use() -> None:
    def broken() -> Any:
        raise ImportError("not here")

    late = StandIn(broken)
    for _ in range(2):
        with pytest.raises(ImportError, match="not here"):
            late.anything  # noqa: B018
