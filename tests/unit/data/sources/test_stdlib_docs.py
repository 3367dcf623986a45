from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from layerlens.data.sources.stdlib_docs import (
    MASK,
    MAX_PER_MODULE,
    MAX_PER_PART,
    MIN_WORDS,
    Docstring,
    mask_name,
    read_stdlib_docs,
    stdlib_docstrings,
)
from layerlens.data.sources.stdlib_parts import PART_OF_MODULE, PARTS
from layerlens.errors import DataError


@pytest.fixture(scope="module")
def docs() -> tuple[Docstring, ...]:
    return stdlib_docstrings(Path(sysconfig.get_paths()["stdlib"]))


def test_there_are_at_least_eight_classes_and_each_has_its_share_of_every_split(docs: tuple[Docstring, ...]) -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for doc in docs:
        counts[doc.part][doc.split] += 1
    assert len(counts) >= 8
    for part, splits in counts.items():
        total = splits.total()
        assert splits["train"] >= 40, part
        assert 0.6 <= splits["train"] / total <= 0.8, part
        assert min(splits["validation"], splits["test"]) >= 0.1 * total, part


def test_no_module_stands_in_two_splits(docs: tuple[Docstring, ...]) -> None:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for doc in docs:
        splits[doc.module].add(doc.split)
    assert len(splits) > 100
    assert all(len(found) == 1 for found in splits.values())


def test_no_text_stands_twice(docs: tuple[Docstring, ...]) -> None:
    texts = Counter(" ".join(doc.text.split()).casefold() for doc in docs)
    assert texts.most_common(1)[0][1] == 1


def test_texts_have_words_and_no_module_or_part_swamps_the_rest(docs: tuple[Docstring, ...]) -> None:
    assert min(len(doc.text.split()) for doc in docs) >= MIN_WORDS - 1
    assert Counter(doc.module for doc in docs).most_common(1)[0][1] <= MAX_PER_MODULE
    assert Counter(doc.part for doc in docs).most_common(1)[0][1] <= MAX_PER_PART


def test_modules_that_are_tests_or_no_part_of_the_library_are_left_out(docs: tuple[Docstring, ...]) -> None:
    folders = {folder for doc in docs for folder in doc.module.split("/")[:-1]}
    assert not folders & {"site-packages", "test", "tests", "idle_test"}
    assert {doc.module.split("/")[0].removesuffix(".py") for doc in docs} <= set(PART_OF_MODULE)


def test_another_process_reads_the_same_rows_in_the_same_order(docs: tuple[Docstring, ...]) -> None:
    code = (
        "import hashlib, sysconfig; from pathlib import Path\n"
        "from layerlens.data.sources.stdlib_docs import stdlib_docstrings\n"
        "docs = stdlib_docstrings(Path(sysconfig.get_paths()['stdlib']))\n"
        "rows = repr([(doc.text, doc.module, doc.part, doc.split) for doc in docs])\n"
        "print(hashlib.sha256(rows.encode()).hexdigest())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1", "PATH": ""}, capture_output=True, text=True, check=True
    ).stdout.split()
    rows = repr([(doc.text, doc.module, doc.part, doc.split) for doc in docs])
    # Python orders the sets of the two processes differently; the rows are the same all the same.
    assert output == [hashlib.sha256(rows.encode()).hexdigest()]


def test_the_table_names_its_columns_and_classes(docs: tuple[Docstring, ...]) -> None:
    table = read_stdlib_docs()
    names = table.class_names["part"]
    assert list(names) == sorted(names)
    assert [names[label] for label in table.columns["part"]] == [doc.part for doc in docs]
    assert table.splits == tuple(doc.split for doc in docs)
    assert table.text_columns == ("docstring",)


def test_no_module_belongs_to_two_parts() -> None:
    assert len(PART_OF_MODULE) == sum(len(modules) for modules in PARTS.values())


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("dumps(obj) -> text. Dumps calls dumps, not dumpsy.", "dumps", "NAME(obj) -> text. NAME calls NAME, not dumpsy."),
        ("See __init__ and x__init__.", "__init__", "See NAME and x__init__."),
        ("A queue.Queue of QUEUEs", "Queue", "A NAME.NAME of QUEUEs"),
        ("a.b is not axb", "a.b", "NAME is not axb"),
    ],
)
def test_a_name_is_masked_as_a_whole_word_in_any_case(text: str, name: str, expected: str) -> None:
    assert mask_name(text, name) == expected


def _library(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def _functions(module: str, num: int) -> str:
    lines = (
        f'def {module}_{n}():\n    """{module}_{n}() counts item {n} of {module} and tells you all about it."""\n'
        for n in range(num)
    )
    return "".join(lines)


def test_own_names_are_masked_equal_texts_dropped_and_shared_ones_too(tmp_path: Path) -> None:
    shared = '    """Return what every part of any library has to say here."""\n'
    twice = '    """Say this once more although it was said before already."""\n'
    mail = "".join(f"def a{n}():\n{text}" for n, text in enumerate((shared, twice, twice)))
    root = _library(
        tmp_path,
        mailbox=mail + _functions("mailbox", 30),
        poplib=_functions("poplib", 30),
        smtplib=_functions("smtplib", 30),
        html=f"class B:\n{shared}" + _functions("html", 30),
        plistlib=_functions("plistlib", 30),
        xml=_functions("xml", 30),
        email__tests__case=_functions("case", 90),
        unheard_of=_functions("unheard", 90),
    )
    docs = stdlib_docstrings(root)
    texts = [doc.text for doc in docs]
    assert Counter(doc.part for doc in docs) == {"mail": 91, "markup": 90}
    assert sum("although it was said" in text for text in texts) == 1
    assert not any("every part of any library" in text for text in texts)
    assert f"{MASK}() counts item 7 of xml and tells you all about it." in texts
    assert not any("xml_" in text for text in texts)
    assert {doc.module for doc in docs if doc.split == "train"} & {"mailbox.py", "poplib.py", "smtplib.py"}


def test_a_part_that_cannot_fill_three_splits_is_left_out(tmp_path: Path) -> None:
    root = _library(
        tmp_path,
        poplib=_functions("poplib", 30),
        smtplib=_functions("smtplib", 30),
        imaplib=_functions("imaplib", 30),
        html=_functions("html", 50),
        plistlib=_functions("plistlib", 50),
    )
    assert {doc.part for doc in stdlib_docstrings(root)} == {"mail"}


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no library sources with docstrings"):
        stdlib_docstrings(tmp_path)
