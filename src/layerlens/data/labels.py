"""Labels as a source writes them, as the class indices or numbers that a model learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from layerlens.data.table import Table
from layerlens.errors import DataError

MAX_NAMELESS_CLASSES = 20
"""More classes than this, and than half the rows, are no classes but ids or prose."""
DEFAULT_OUTPUTS = 2
"""Of a head with classes, where a config names none: so transformers has it."""
MIN_CONTINUOUS_VALUES = 20
"""More different numbers than this, not all of them whole, are a scale rather than classes."""


@dataclass(frozen=True)
class HeadLabels:
    """Classes of the head that a checkpoint has already, in the order of its outputs; none where it names none."""

    names: tuple[str, ...] = ()
    is_kept: bool = False
    """Whether that head is used as it is, so that its classes count even where the data lack some."""
    num_outputs: int = 0
    """Its outputs, named or not; 0 where nothing tells."""

    @classmethod
    def of(cls, checkpoint_config: Mapping[str, Any], *, is_kept: bool = False) -> HeadLabels:
        """Read `id2label` of a `config.json`; names that are missing or stand twice name nothing."""
        found = checkpoint_config.get("id2label")
        by_index = {str(index): name for index, name in found.items()} if isinstance(found, dict) else {}
        names = [by_index.get(str(index)) for index in range(len(by_index))]
        named = tuple(name for name in names if isinstance(name, str))
        return cls(named if 1 < len(set(named)) == len(names) else (), is_kept, len(by_index))

    @property
    def is_named(self) -> bool:
        """Whether a class has a name of its own, other than those that transformers makes up: `LABEL_0`, `LABEL_1`, …"""
        return any(name != f"LABEL_{index}" for index, name in enumerate(self.names))

    def places(self, found: set[str]) -> dict[str, int] | None:
        """Index of each label that the data hold, where they are this head's; None where they are not."""
        is_whole = self.is_kept or len(found) == len(self.names)
        return places_among(self.names, found) if found and is_whole else None

    @property
    def numbers(self) -> list[str]:
        """What data may call a kept head's classes beside their names: the numbers of its outputs, two where nothing tells."""
        num_outputs = (self.num_outputs or DEFAULT_OUTPUTS) if self.is_kept else 0
        return [str(output) for output in range(num_outputs)] if num_outputs > 1 else []


NO_HEAD = HeadLabels()


def places_among(names: Sequence[str], found: set[str]) -> dict[str, int] | None:
    """Index in a label set of each label found, as it is spelt there or else in any case; None where one is not among them."""
    place_of = {name: place for place, name in enumerate(names)}
    if place_of.keys() >= found:
        return {key: place_of[key] for key in found}
    folded = {name.casefold(): place for name, place in place_of.items()}
    places = {key: folded[key.casefold()] for key in found if key.casefold() in folded}
    # Names that differ by case alone are two classes.
    is_clear = len(folded) == len(place_of) and len(set(places.values())) == len(found)
    return places if is_clear else None


def label_key(value: Any) -> str | None:
    """Write a label as text: whole numbers without a decimal point, and None for a missing one."""
    if value is None:
        return None
    if isinstance(value, bool | str):
        return str(value).strip() or None
    if isinstance(value, Integral):
        # Numbers that name things are long, and a float would make one of two.
        return str(int(value))
    number = float(value)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() else str(number)


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def looks_continuous(values: Sequence[Any]) -> bool:
    """Whether labels are numbers on a scale: more than 20 different ones, not all of them whole."""
    different: set[float] = set()
    has_fraction = False
    for value in values:
        if is_missing(value):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return False
        has_fraction = has_fraction or not number.is_integer()
        different.add(number)
    return has_fraction and len(different) > MIN_CONTINUOUS_VALUES


def class_labels(
    column: str,
    values: Sequence[Any],
    table: Table,
    rows: Sequence[int],
    names: Sequence[str] | None,
    head: HeadLabels = NO_HEAD,
) -> tuple[list[int], list[str]]:
    """Map the labels of `rows` to class indices.

    A label set's names are met in any case: a head may call `ENTAILMENT` what data call `entailment`.

    Args:
        column: The label column.
        values: Its cells, one for each row of the table.
        table: The source.
        rows: Rows that are used; none of them lacks a label.
        names: Label set of a plan, in its order; found in the rows if None.
        head: Classes of the model's own head; where the rows' labels are these, its order holds.

    Returns:
        Index of each row's class, and the names of all classes.

    Raises:
        DataError: a label outside the label set, negative or no plain value; fewer than two classes; or so many that
            the column cannot be a label.
    """
    keys = [_key(table, column, row, values[row]) for row in rows]
    found = set(keys)
    if (places := head.places(found)) is not None:
        return [places[key] for key in keys], list(head.names)
    if names is not None:
        return _known_indices(table, rows, keys, names, "the plan's label set"), list(names)
    if found and (places := places_among(head.numbers, found)) is not None:
        _check_counted_from_zero(column, table, found, head)
        return [places[key] for key in keys], head.numbers
    if column in table.class_names:
        classes = list(table.class_names[column])
    else:
        classes = _sorted_names(found)
        negative = [name for name in classes if name.startswith("-") and name[1:].isdecimal()]
        if negative and all(_is_whole(name) for name in classes):
            row = next(row for row, key in zip(rows, keys) if key == negative[0])
            raise DataError(
                f"{table.where}: label {negative[0]} in {table.row_name(row)} is out of range, classes count from 0; "
                "leave unlabelled rows out"
            )
    if len(found) < 2:
        raise DataError(
            f"{table.where}: every row has the label {next(iter(found), None)!r} in column {column!r}; "
            "a task needs at least two classes"
        )
    if len(found) > MAX_NAMELESS_CLASSES and len(found) > len(rows) / 2:
        raise DataError(
            f"{table.where}: column {column!r} has {len(found)} different values in {len(rows)} rows, too many for classes; "
            "give --label-column, or --task regression"
        )
    return _known_indices(table, rows, keys, classes, "the source's label set"), classes


def regression_targets(column: str, values: Sequence[Any], table: Table, rows: Sequence[int]) -> list[float]:
    """Read the labels of `rows` as numbers; the arguments are those of `class_labels`.

    Raises:
        DataError: a label is no finite number.
    """
    targets = []
    for row in rows:
        value = values[row]
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{table.where}: label {str(value)[:40]!r} in {table.row_name(row)}, column {column!r}, is no finite number; "
                "regression needs numbers, give --label-column or --task classification"
            )
        targets.append(number)
    return targets


def _key(table: Table, column: str, row: int, value: Any) -> str:
    class_names = table.class_names.get(column)
    if class_names is not None and not isinstance(value, str):
        number = int(value)
        if not 0 <= number < len(class_names):
            raise DataError(
                f"{table.where}: label {number} in {table.row_name(row)} is out of range 0 … {len(class_names) - 1}; "
                "leave unlabelled rows out"
            )
        return class_names[number]
    try:
        key = label_key(value)
    except (TypeError, ValueError):
        key = None
    if key is None:
        raise DataError(
            f"{table.where}: label of {table.row_name(row)} is {type(value).__name__}, not a number or a name; "
            "give --label-column"
        )
    return key


def _known_indices(table: Table, rows: Sequence[int], keys: Sequence[str], names: Sequence[str], of_what: str) -> list[int]:
    places = places_among(names, set(keys))
    if places is None:
        folded = {name.casefold() for name in names}
        unknown = min({key for key in keys if key.casefold() not in folded} or set(keys) - set(names))
        row = next(row for row, key in zip(rows, keys) if key == unknown)
        raise DataError(
            f"{table.where}: label {unknown!r} in {table.row_name(row)} is not in {of_what} ({', '.join(list(names)[:12])}); "
            "use data with the same labels"
        )
    return [places[key] for key in keys]


def _check_counted_from_zero(column: str, table: Table, found: set[str], head: HeadLabels) -> None:
    """Raise where numbers that lack the 0 could as well count a head's outputs from 1, and lack the last."""
    if "0" not in found:
        raise DataError(
            f"{table.where}: the labels {', '.join(_sorted_names(found)[:12])} in column {column!r} could count the model's "
            f"{len(head.numbers)} classes from 0 or from 1; call them as its config.json does, such as "
            f"{head.names[0] if head.names else 'LABEL_0'}"
        )


def _sorted_names(found: set[str]) -> list[str]:
    """Numbers by size, other names by alphabet."""
    if all(_is_number(name) for name in found):
        # `1` and `01` are two names, and the order of a set is another in every process.
        return sorted(found, key=lambda name: (float(name), name))
    return sorted(found)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()
