"""`stdlib-code`: the reader's own Python standard library as code alone, docstrings and comments taken out.

The counterpart of `stdlib-docs`, which is prose alone: what was calibrated on one is evaluated on the other. Only module files of
`stdlib-docs`' test split, so that neither text holds what the other trained on.
"""

from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
import warnings
from pathlib import Path

from layerlens.data.sources.stdlib_docs import stdlib_docstrings
from layerlens.errors import DataError

NAME = "stdlib-code"


def read_stdlib_code(max_chars: int, root: Path | None = None) -> str:
    """Code of the standard library, module after module, up to so many characters.

    Args:
        max_chars: Where to stop.
        root: Folder of the library; none for the running Python's own.

    Raises:
        DataError: the folder holds no Python sources.
    """
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    modules = sorted({doc.module for doc in stdlib_docstrings(folder) if doc.split == "test"})
    pieces: list[str] = []
    length = 0
    for module in modules:
        code = code_alone((folder / module).read_bytes())
        pieces.append(code[: max_chars - length])
        length += len(pieces[-1])
        if length >= max_chars:
            break
    if not length:
        raise DataError(f"{NAME}: no library sources in {folder}; use a Python that ships its .py files")
    return "".join(pieces)


def read_stdlib_prose(max_chars: int, root: Path | None = None) -> str:
    """Docstrings of the same modules, one after the other, up to so many characters; raises as `read_stdlib_code`."""
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    return "\n\n".join(doc.text for doc in stdlib_docstrings(folder) if doc.split == "test")[:max_chars]


def code_alone(source: bytes) -> str:
    """A module without docstrings, comments and empty lines; nothing where it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return ""
    lines = io.BytesIO(source).read().decode(tokens[0].string).splitlines()
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            doc = node.body[0]
            lines[doc.lineno - 1 : doc.end_lineno] = [""] * ((doc.end_lineno or doc.lineno) - doc.lineno + 1)
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())
