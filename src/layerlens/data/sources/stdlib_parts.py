"""Which part of the Python standard library a top-level module belongs to.

A listed module exists from Python 3.11 through 3.14, save for the private twins that come and go with its
implementation (`_compression`, `_pydatetime`, …). What is not listed is left out: modules that are removed by 3.14,
`encodings` (a hundred files that differ in one word), and grab-bags that no reader could tell apart.
"""

from __future__ import annotations

PARTS: dict[str, tuple[str, ...]] = {
    "collections and types": (
        *("_collections_abc", "_py_abc", "_weakrefset", "abc", "bisect", "collections", "contextlib", "copy", "copyreg"),
        *("dataclasses", "enum", "functools", "graphlib", "heapq", "operator", "reprlib", "types", "typing", "weakref"),
    ),
    "concurrency": (
        *("_threading_local", "asyncio", "concurrent", "multiprocessing", "queue", "sched", "selectors", "threading"),
    ),
    "files and archives": (
        *("_compression", "_pyio", "bz2", "compression", "dbm", "filecmp", "fileinput", "fnmatch", "genericpath", "glob"),
        *("gzip", "io", "linecache", "lzma", "ntpath", "pathlib", "pickle", "pickletools", "posixpath", "shelve", "shutil"),
        *("stat", "tarfile", "tempfile", "wave", "zipapp", "zipfile"),
    ),
    "graphical interfaces": ("idlelib", "tkinter", "turtle"),
    "internet protocols": (
        *("ftplib", "http", "ipaddress", "netrc", "socket", "socketserver", "ssl", "urllib", "webbrowser", "wsgiref", "xmlrpc"),
    ),
    "language and import": (
        *("__future__", "ast", "code", "codeop", "compileall", "dis", "importlib", "inspect", "modulefinder", "opcode"),
        *("pkgutil", "py_compile", "pyclbr", "runpy", "symtable", "tabnanny", "tokenize", "zipimport"),
    ),
    "mail": ("base64", "email", "imaplib", "mailbox", "mimetypes", "poplib", "quopri", "smtplib"),
    "markup": ("_markupbase", "html", "plistlib", "xml"),
    "numbers and dates": (
        *("_pydatetime", "_pydecimal", "_strptime", "calendar", "colorsys", "datetime", "decimal", "fractions", "numbers"),
        *("random", "statistics", "zoneinfo"),
    ),
    "testing and debugging": (
        *("bdb", "cProfile", "doctest", "pdb", "profile", "pstats", "pydoc", "rlcompleter", "timeit", "trace", "traceback"),
        *("tracemalloc", "unittest", "warnings"),
    ),
}
"""Name of a part, and its top-level modules and packages."""

PART_OF_MODULE: dict[str, str] = {module: part for part, modules in PARTS.items() for module in modules}
