"""How what a person types becomes a value: `a,b` a list, `a=1,b=2` a mapping, `1.5GB` a number of bytes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def split_commas(value: Any) -> Any:
    """`a,b` from the command line is the list [a, b]."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def split_columns(value: Any) -> Any:
    """Columns may be numbers: `0` alone in a YAML file is the list [0]."""
    return [value] if isinstance(value, int) else split_commas(value)


def split_pairs(value: Any) -> Any:
    """`a=1,b=2` from the command line is the mapping {a: 1, b: 2}."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if bad := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"write NAME=NUMBER,NAME=NUMBER; {', '.join(bad)} has no =")
    return {name.strip(): number.strip() for name, _, number in pairs}


_BYTE_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}{rest}": 1 << 10 * (1 + at) for at, letter in enumerate("KMGT") for rest in ("", "B", "IB")},
}


def bytes_of(value: Any) -> Any:
    """`1.5GB` is a number of bytes; units are powers of 1,024."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].upper() not in _BYTE_UNITS:
        raise ValueError("write a number of bytes such as 500MB or 1.5GB")
    number = float(found[1]) * _BYTE_UNITS[found[2].upper()]
    if not math.isfinite(number):
        raise ValueError("more bytes than any machine has; leave it out where there is no limit")
    return int(number)


def bytes_as_typed(number: int) -> str:
    """A number of bytes in the largest unit that it is a whole number of: what `bytes_of` reads as this number."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "KB")):
        if number and number % (1 << 10 * power) == 0:
            return f"{number >> 10 * power}{unit}"
    return str(number)


def off_of(value: Any) -> Any:
    """A bare `off` in a YAML file is read as false."""
    return "off" if value is False else value


def path_as_typed(value: Any) -> Any:
    """Where a file, a folder or another name is taken, Python may give a path."""
    return str(value) if isinstance(value, Path) else value


Bytes = Annotated[int, BeforeValidator(bytes_of)]
#: A file, a folder or another name.
Source = Annotated[str, BeforeValidator(path_as_typed)]
Names = Annotated[list[str], BeforeValidator(split_commas)]
#: Every library's generator takes seeds below it.
SEED_LIMIT = 2**32
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]
Seeds = Annotated[list[Seed], BeforeValidator(split_commas)]
Integers = Annotated[list[int], BeforeValidator(split_commas)]
Numbers = Annotated[dict[str, float], BeforeValidator(split_pairs)]
HowMany = Annotated[Literal["auto", "all", "few", "off"], BeforeValidator(off_of)]
Column = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
Columns = Annotated[list[Column], BeforeValidator(split_columns)]


def output_path(path: str | Path) -> Path:
    """Turn what a user typed into a path, with `~` expanded."""
    return Path(path).expanduser()


def path_beside(folder: Path, suffix: str) -> Path:
    """The path beside a folder that bears its name and a suffix; `.` and `..` are called by their names first."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(f"{named.name}{suffix}")
