"""`stdlib-docs`: docstrings of the reader's own Python standard library, labelled by the part they come from.

Sources are parsed, never imported. A docstring has at least eight words; its owner's name is masked wherever it
stands as a word of its own, a leading signature included; a text that stands twice is kept once, and not at all where
two parts share it. No module file stands in two splits. A huge file is cut to `MAX_PER_MODULE` docstrings and a huge
part to `MAX_PER_PART`, so that neither tkinter nor idlelib swamps the rest; which ones stay is decided by their hash.
A part that this Python lacks modules for (Debian ships tkinter and idlelib apart) is left out, with a note.

The same Python version gives the same rows in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from layerlens.data.sources.stdlib_parts import PART_OF_MODULE, PARTS
from layerlens.data.table import Table
from layerlens.errors import DataError

NAME = "stdlib-docs"
MASK = "NAME"
MIN_WORDS = 8
MAX_PER_MODULE = 60
MAX_PER_PART = 360
MIN_PER_PART = 60
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}
SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "idle_test", "_bundled", "__pycache__"})


@dataclass(frozen=True)
class Docstring:
    """One docstring: its masked text, the file it stands in, relative to the library, and the part that is."""

    text: str
    module: str
    part: str
    split: str = ""


def read_stdlib_docs() -> Table:
    """Read the docstrings of the running Python as a table with the columns `docstring`, `part` and `module`."""
    docs = list(stdlib_docstrings(Path(sysconfig.get_paths()["stdlib"])))
    present = sorted({doc.part for doc in docs})
    missing = sorted(set(PARTS) - set(present))
    note = f"{NAME}: this Python has too few modules for the part {', '.join(missing)}; it is left out"
    return Table(
        where=NAME,
        columns={
            "docstring": [doc.text for doc in docs],
            "part": [present.index(doc.part) for doc in docs],
            "module": [doc.module for doc in docs],
        },
        splits=tuple(doc.split for doc in docs),
        class_names={"part": tuple(present)},
        text_columns=("docstring",),
        label_column="part",
        notes=(note,) if missing else (),
    )


@lru_cache(maxsize=4)
def stdlib_docstrings(root: Path) -> tuple[Docstring, ...]:
    """Read, mask, deduplicate, cap and split the docstrings below `root`, ordered by module, then by position.

    Raises:
        DataError: `root` holds no Python sources (a frozen or stripped interpreter).
    """
    by_module: dict[str, list[Docstring]] = {}
    for path in _module_files(root):
        module = path.relative_to(root).as_posix()
        part = PART_OF_MODULE[module.split("/")[0].removesuffix(".py")]
        by_module[module] = [Docstring(text, module, part) for text in _docstrings_of(path)]
    kept = _capped(_deduplicated([doc for docs in by_module.values() for doc in docs]))
    split_of = _splits(kept)
    docs = tuple(replace(doc, split=split_of[doc.module]) for doc in kept if doc.module in split_of)
    if not docs:
        raise DataError(f"{NAME}: no library sources with docstrings in {root}; use a Python that ships its .py files")
    return docs


def mask_name(text: str, name: str) -> str:
    """Replace `name` by `MASK` wherever it stands as a word of its own, in any case."""
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, text, flags=re.IGNORECASE)


def _module_files(root: Path) -> Iterator[Path]:
    for top in sorted(PART_OF_MODULE):
        if (file := root / f"{top}.py").is_file():
            yield file
        for path in sorted((root / top).rglob("*.py")):
            if not SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1]):
                yield path


def _docstrings_of(path: Path) -> Iterator[str]:
    """Yield the masked docstrings of a file: of the module, then of its classes and functions from top to bottom."""
    try:
        with warnings.catch_warnings():
            # Some library files hold invalid escapes on purpose or by age; their docstrings are fine.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    module_name = path.parent.name if path.stem == "__init__" else path.stem
    for owner, name in [(tree, module_name), *((node, node.name) for node in _owners(tree))]:
        text = ast.get_docstring(owner)
        if text and len(text.split()) >= MIN_WORDS:
            yield mask_name(text, name)


def _owners(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the classes and functions below `node` from top to bottom.

    Only statements are visited: an expression defines none, and holds nine tenths of the nodes.
    """
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, name, ()):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield child
            yield from _owners(child)


def _deduplicated(docs: list[Docstring]) -> list[Docstring]:
    """Keep the first of equal texts, and none where equal texts come from two parts."""
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for doc in docs:
        parts[_normalised(doc.text)].add(doc.part)
    seen: set[str] = set()
    kept = []
    for doc in docs:
        key = _normalised(doc.text)
        if len(parts[key]) == 1 and key not in seen:
            seen.add(key)
            kept.append(doc)
    return kept


def _capped(docs: list[Docstring]) -> list[Docstring]:
    """Cut each module to `MAX_PER_MODULE` and then each part to `MAX_PER_PART`, choosing by hash, keeping the order."""
    for limit, group_of in ((MAX_PER_MODULE, lambda doc: doc.module), (MAX_PER_PART, lambda doc: doc.part)):
        groups: defaultdict[str, list[Docstring]] = defaultdict(list)
        for doc in docs:
            groups[group_of(doc)].append(doc)
        chosen = {id(doc) for group in groups.values() for doc in sorted(group, key=_rank_of_text)[:limit]}
        docs = [doc for doc in docs if id(doc) in chosen]
    return docs


def _splits(docs: list[Docstring]) -> dict[str, str]:
    """Give each module file to one split, part by part; a part that cannot fill three splits gets none.

    Files are dealt in the order of their hash, each to the split that then lacks most of its share, so every part
    comes near 70 / 15 / 15 whatever the sizes of its files.
    """
    sizes: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for doc in docs:
        sizes[doc.part][doc.module] += 1
    split_of: dict[str, str] = {}
    for modules in sizes.values():
        total = sum(modules.values())
        if total < MIN_PER_PART or len(modules) < len(SHARES):
            continue
        lacking = {split: share * total for split, share in SHARES.items()}
        for module in sorted(modules, key=lambda name: (-_size_class(modules[name]), _digest(name))):
            split = max(lacking, key=lambda name: lacking[name])
            split_of[module] = split
            lacking[split] -= modules[module]
    return split_of


def _size_class(size: int) -> int:
    """Sizes in powers of two: big files are dealt first, so that small ones can even out the shares."""
    return size.bit_length()


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rank_of_text(doc: Docstring) -> str:
    return _digest(f"{doc.module}\n{doc.text}")
