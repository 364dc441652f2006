"""The packages that comparing needs beside tokmagic itself."""

from __future__ import annotations

from importlib.util import find_spec

from tokmagic.errors import UsageError

NEEDED = ("numpy", "scipy", "statsmodels")


def needed(package: str) -> UsageError:
    """What to raise where a package of the extra is missing."""
    return UsageError(f"comparing needs the package {package}; run: pip install 'tokmagic[compare]'")


def check() -> None:
    """Raise UsageError where one of them is missing."""
    for package in NEEDED:
        if find_spec(package) is None:
            raise needed(package)
