"""One version for Python, TypeScript and the changelog.

``python -m tools.version 0.2.0`` writes it everywhere and gives the changelog's unreleased entries to it;
``python -m tools.version --tag v0.2.0`` fails unless a tag names what is here. Versions are X.Y.Z and nothing more:
Python and npm spell pre-releases in different ways. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from pathlib import Path

PYTHON = "tokmagic/core/version.py"
NPM = "labextension/package.json"
LOCK = "labextension/package-lock.json"
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]"

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_PYTHON_LINE = re.compile(r'__version__ = "(?P<version>[^"]+)"\n')
_NPM_LINE = re.compile(r'(?P<key>"version": )"[^"]+"')


class VersionError(Exception):
    """A version that cannot be set or does not agree; one line that says how to fix it."""


def versions(root: Path) -> dict[str, str]:
    """Every place below ``root`` that states the version, and what it states."""
    lock = json.loads((root / LOCK).read_text(encoding="utf-8"))
    return {
        PYTHON: current(root),
        NPM: json.loads((root / NPM).read_text(encoding="utf-8"))["version"],
        LOCK: lock["version"],
        f"{LOCK}, packages": lock["packages"][""]["version"],
    }


def current(root: Path) -> str:
    """The version of the Python package, which the others follow."""
    found = _PYTHON_LINE.fullmatch((root / PYTHON).read_text(encoding="utf-8"))
    if found is None:
        raise VersionError(f'{PYTHON} must hold one line, __version__ = "X.Y.Z"')
    return found["version"]


def notes(changelog: str, heading: str) -> str | None:
    """The entries below the heading that starts with ``heading``, without blank ends; None where it is missing."""
    found = re.search(rf"^{re.escape(heading)}[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else None


def set_version(root: Path, version: str, today: datetime.date) -> None:
    """Write ``version`` everywhere; the changelog's unreleased entries become its section, dated ``today``.

    Raises VersionError, and writes nothing, where the version is malformed or earlier than the present one, or
    where the changelog has its section already or nothing to put there.
    """
    if _numbers(version) < _numbers(current(root)):
        raise VersionError(f"{version} comes before {current(root)}, which is here already")
    texts = {
        PYTHON: f'__version__ = "{version}"\n',
        NPM: _with_npm_version(root / NPM, version, places=1),
        LOCK: _with_npm_version(root / LOCK, version, places=2),
        CHANGELOG: _with_section((root / CHANGELOG).read_text(encoding="utf-8"), version, today),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")


def check_tag(root: Path, tag: str) -> None:
    """Raise VersionError unless ``tag`` is v and the version that every place states, with notes in the changelog."""
    version = tag.removeprefix("v")
    _numbers(version)
    if version == tag:
        raise VersionError(f"the tag is {tag}; a release's tag is v and its version, as v{version}")
    for place, stated in versions(root).items():
        if stated != version:
            raise VersionError(f"the tag is {tag}, but {place} says {stated}; make version V={version}, and tag that")
    if not notes((root / CHANGELOG).read_text(encoding="utf-8"), f"## [{version}] - "):
        raise VersionError(f"{CHANGELOG} says nothing of {version}; make version V={version}, and tag that")


def _numbers(version: str) -> tuple[int, ...]:
    found = _VERSION.fullmatch(version)
    if found is None:
        raise VersionError(f"{version!r} is no version; write three numbers, as 0.2.0")
    return tuple(map(int, found.groups()))


def _with_npm_version(path: Path, version: str, places: int) -> str:
    # By text: writing JSON anew would also lay it out anew. npm puts the package's own version before all others.
    return _NPM_LINE.sub(rf'\g<key>"{version}"', path.read_text(encoding="utf-8"), count=places)


def _with_section(changelog: str, version: str, today: datetime.date) -> str:
    if notes(changelog, f"## [{version}]") is not None:
        raise VersionError(f"{CHANGELOG} has a section for {version} already")
    if not notes(changelog, UNRELEASED):
        raise VersionError(f"{CHANGELOG} has nothing under {UNRELEASED}; write what is new there first")
    return changelog.replace(f"{UNRELEASED}\n", f"{UNRELEASED}\n\n## [{version}] - {today.isoformat()}\n", 1)


def main(words: list[str] | None = None) -> int:
    """Set the version or check a tag; 1 with one line on standard error where that fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.version")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (the current folder)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("version", nargs="?", help="the version to set, as 0.2.0")
    what.add_argument("--tag", help="check that this tag names the version that is here")
    given = parser.parse_args(words)
    try:
        if given.tag is not None:
            check_tag(given.root, given.tag)
        else:
            set_version(given.root, given.version, datetime.datetime.now(datetime.UTC).date())
    except VersionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
