"""What pyproject.toml requires, group by group, and at which versions the tests hold it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path("pyproject.toml")
PINS = Path("constraints.txt")


def _pyproject() -> dict[str, Any]:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))


def project() -> dict[str, dict[str, str]]:
    """The lower bound of each requirement, by group: ``base``, and each extra that does not only name others.

    Raises ValueError for a requirement whose only specifier is not ``>=``: it has no lowest version to try.
    """
    table = _pyproject()["project"]
    groups = {"base": table["dependencies"], **table["optional-dependencies"]}
    return {
        group: dict(_bound(Requirement(line)) for line in lines)
        for group, lines in groups.items()
        if not any(line.startswith(table["name"]) for line in lines)
    }


def _bound(requirement: Requirement) -> tuple[str, str]:
    (specifier,) = requirement.specifier
    if specifier.operator != ">=":
        raise ValueError(f"{requirement} has no lower bound; write it as NAME>=VERSION")
    return canonicalize_name(requirement.name), specifier.version


def test_tools() -> list[str]:
    """The packages that the tests are run with."""
    return [canonicalize_name(Requirement(line).name) for line in _pyproject()["dependency-groups"]["test"]]


def held() -> dict[str, str]:
    """The versions in constraints.txt."""
    lines = (line.split("==") for line in PINS.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {canonicalize_name(name): version for name, version in lines}


def constraints(pins: Mapping[str, str]) -> str:
    """The text of a constraints file."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
