"""`.jsonl` and `.json`: rows as objects, a table as lists by column, or questions in SQuAD's form."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from layerlens.data.sources.decoding import read_text
from layerlens.data.sources.squad import is_squad, squad_table
from layerlens.data.table import Table
from layerlens.errors import DataError

MAX_FAULTS = 3
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
#: What Python reads no whole number of.
_TOO_LONG = f"a number of more than {sys.get_int_max_str_digits():,} digits"


def read_json_lines(path: Path) -> Table:
    """Read one object a line.

    Raises:
        DataError: lines that are no JSON objects; the first three are named.
    """
    return _table_of_lines(path, read_text(path))


def read_json(path: Path) -> Table:
    """Read a list of objects, an object of equally long lists (also under `data`), SQuAD's form, or JSON lines.

    Raises:
        DataError: the file is no JSON, or holds none of these.
    """
    text = read_text(path)
    try:
        content = _parsed(text)
    except json.JSONDecodeError as error:
        if "\n" in text.strip() and text.lstrip().startswith("{") and error.msg == "Extra data":
            return _table_of_lines(path, text)
        raise DataError(f"{path} is no JSON: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deep to be rows") from error
    except ValueError as error:
        raise DataError(f"{path} holds {_TOO_LONG}; write it as text, or leave it out") from error
    if is_squad(content):
        return squad_table(path, content)
    if isinstance(content, dict) and isinstance(content.get("data"), list | dict):
        content = content["data"]
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _table_of_rows(path, content, None)
    if isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        lengths = {name: len(column) for name, column in content.items()}
        if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
            shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"{path}: columns must be equally long and not empty, got {shown}")
        return Table(where=str(path), columns=content)
    raise DataError(f"{path} holds no rows; needed is a list of objects, an object of lists, SQuAD's form, or one object a line")


def _parsed(text: str) -> Any:
    """What JSON says; half of a surrogate pair, as cut text has it, is no character, and becomes U+FFFD."""
    content = json.loads(text)
    return _whole(content) if _HALF_ESCAPED.search(text) else content


def _fault(error: ValueError | RecursionError) -> str:
    """Why a line could not be parsed."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deep" if isinstance(error, RecursionError) else _TOO_LONG


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(name): _whole(item) for name, item in value.items()} if isinstance(value, dict) else value


def _table_of_lines(path: Path, text: str) -> Table:
    rows, numbers, faults = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {_fault(error)}")
            continue
        if isinstance(row, dict):
            rows.append(row)
            numbers.append(number)
        else:
            faults.append(f"line {number}: {type(row).__name__} in place of an object")
    if faults:
        more = f"; {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise DataError(f"{path}: needed is one JSON object a line; {'; '.join(faults[:MAX_FAULTS])}{more}")
    return _table_of_rows(path, rows, numbers)


def _table_of_rows(path: Path, rows: list[dict[str, Any]], numbers: list[int] | None) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        raise DataError(f"{path}: its objects have no fields")
    return Table(where=str(path), columns={name: [row.get(name) for row in rows] for name in names}, row_names=numbers)
