"""Code without its words, and words without code, from modules that calibration does not train on."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from layerlens.data.sources.stdlib_code import code_alone, read_stdlib_code, read_stdlib_prose
from layerlens.data.sources.stdlib_docs import stdlib_docstrings
from layerlens.errors import DataError

SOURCE = '''"""Module words."""
# a comment
x = "# no comment"  # a comment

class A:
    """Class
    words."""

    def f(self):
        "Words."
        return """no docstring"""
'''


def test_docstrings_and_comments_go_and_strings_stay() -> None:
    expected = 'x = "# no comment"\nclass A:\n    def f(self):\n        return """no docstring"""\n'
    assert code_alone(SOURCE.encode()) == expected
    assert code_alone(b"def f(:\n") == ""
    assert code_alone("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1")) == "name = 'é'\n"


def test_both_texts_come_from_the_modules_set_apart_for_testing() -> None:
    docs = stdlib_docstrings(Path(sysconfig.get_paths()["stdlib"]))
    prose, code = read_stdlib_prose(20_000), read_stdlib_code(20_000)
    assert (len(prose), len(code)) == (20_000, 20_000)
    assert prose.startswith(next(doc.text for doc in docs if doc.split == "test"))
    assert not any(doc.text in prose for doc in docs if doc.split == "train" and len(doc.text) > 80)
    assert "import " in code
    assert '"""' not in code.splitlines()[0]
    assert code == read_stdlib_code(30_000)[:20_000]


def test_a_python_without_sources_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_stdlib_code(100, tmp_path)
