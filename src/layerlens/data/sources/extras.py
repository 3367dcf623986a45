"""Optional packages: one clear line where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from layerlens.errors import DataError


def need(package: str, extra: str, why: str) -> None:
    """Check that an optional package is installed.

    Raises:
        DataError: it is not; names the extra that brings it.
    """
    if find_spec(package) is None:
        raise DataError(f'{why}, which needs {package}; install it with: pip install "layerlens-plan[{extra}]"')
