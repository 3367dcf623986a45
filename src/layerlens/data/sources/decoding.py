"""Text files as text: UTF-8, with or without a byte-order mark, never binary, never empty."""

from __future__ import annotations

import codecs
from pathlib import Path

from layerlens.errors import DataError


def read_text(path: Path) -> str:
    """Read a UTF-8 file; line ends become a line feed, and a byte-order mark is dropped.

    Raises:
        DataError: the file cannot be read, is empty, is binary or is no UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise DataError(f"{path} is empty; give a file with rows or text")
    if b"\0" in content[:65536]:
        raise DataError(
            f"{path} is a binary file of no known kind; known endings are .jsonl .json .csv .tsv .parquet .npz, or UTF-8 text"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
