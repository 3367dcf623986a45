"""What was installed when an artifact was made, without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import layerlens


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of LayerLens, and of those of `packages` that are installed."""
    found = {"python": platform.python_version(), "layerlens": layerlens.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
