"""One version, wherever it stands, and the command that changes it."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokmagic
from tests.conftest import ROOT
from tools.version import CHANGELOG, LOCK, NPM, PYTHON, notes, versions


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that state the version, at 0.1.0 with two entries in the changelog."""
    for name in (PYTHON, NPM, LOCK):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    sections = [
        "# Changelog",
        "## [Unreleased]",
        "### Added",
        "- A thing.\n- Another.",
        "## [0.0.1] - 2026-01-02",
        "- It.",
    ]
    (tmp_path / CHANGELOG).write_text("\n\n".join(sections) + "\n")
    command(tmp_path, "0.1.0")
    return tmp_path


def command(checkout: Path, *words: str) -> str:
    """What the command says on standard error; nothing where it succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.version", "--root", str(checkout), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr.strip()


def append_entry(checkout: Path) -> None:
    changelog = checkout / CHANGELOG
    changelog.write_text(changelog.read_text().replace("## [Unreleased]\n", "## [Unreleased]\n\n- New.\n", 1))


def test_every_place_states_the_same_version() -> None:
    assert set(versions(ROOT).values()) == {tokmagic.__version__}


def test_the_command_says_it() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tokmagic.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"tokmagic {tokmagic.__version__}\n"


def test_the_built_extension_says_it() -> None:
    built = ROOT / "tokmagic" / "labextension" / "package.json"
    if not built.is_file() and os.environ.get("CI") != "true":
        pytest.skip("the extension is not built; run `make build`")
    assert json.loads(built.read_text())["version"] == tokmagic.__version__


def test_the_changelog_has_notes_for_it() -> None:
    """Under its own heading once it is being released, before that under Unreleased."""
    changelog = (ROOT / CHANGELOG).read_text(encoding="utf-8")
    assert notes(changelog, f"## [{tokmagic.__version__}] - ") or notes(changelog, "## [Unreleased]")


def test_setting_a_version_writes_it_everywhere(checkout: Path) -> None:
    append_entry(checkout)
    assert command(checkout, "0.2.0") == ""
    assert set(versions(checkout).values()) == {"0.2.0"}
    changelog = (checkout / CHANGELOG).read_text()
    assert notes(changelog, "## [Unreleased]") == ""
    assert notes(changelog, f"## [0.2.0] - {datetime.datetime.now(datetime.UTC).date()}") == "- New."
    assert notes(changelog, "## [0.1.0] - ") == "### Added\n\n- A thing.\n- Another."


def test_only_the_versions_of_this_package_change(checkout: Path) -> None:
    """Dependencies in the lock file have versions too, and some may be the same."""
    append_entry(checkout)
    command(checkout, "0.2.0")
    for name, places in ((NPM, 1), (LOCK, 2)):
        before, after = (ROOT / name).read_text(), (checkout / name).read_text()
        pairs = zip(before.splitlines(), after.splitlines(), strict=True)
        changed = [new for old, new in pairs if old != new]
        assert [line.strip() for line in changed] == ['"version": "0.2.0",'] * places


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.2", "'0.2' is no version; write three numbers, as 0.2.0"),
        ("0.2.0rc1", "'0.2.0rc1' is no version; write three numbers, as 0.2.0"),
        ("v0.2.0", "'v0.2.0' is no version; write three numbers, as 0.2.0"),
        ("0.0.9", "0.0.9 comes before 0.1.0, which is here already"),
        ("0.1.0", "CHANGELOG.md has a section for 0.1.0 already"),
        ("0.2.0", "CHANGELOG.md has nothing under ## [Unreleased]; write what is new there first"),
    ],
)
def test_what_cannot_be_set_changes_nothing(checkout: Path, version: str, says: str) -> None:
    before = {name: (checkout / name).read_bytes() for name in (PYTHON, NPM, LOCK, CHANGELOG)}
    assert command(checkout, version) == says
    assert {name: (checkout / name).read_bytes() for name in before} == before


def test_a_tag_must_name_what_is_here(checkout: Path) -> None:
    assert command(checkout, "--tag", "v0.1.0") == ""
    assert command(checkout, "--tag", "0.1.0") == "the tag is 0.1.0; a release's tag is v and its version, as v0.1.0"
    assert command(checkout, "--tag", "v0.2.0").startswith("the tag is v0.2.0, but tokmagic/core/version.py says 0.1.0")
    (checkout / PYTHON).write_text('__version__ = "0.2.0"\n')
    assert command(checkout, "--tag", "v0.2.0").startswith(
        "the tag is v0.2.0, but labextension/package.json says 0.1.0"
    )


def test_a_tag_needs_notes(checkout: Path) -> None:
    changelog = checkout / CHANGELOG
    changelog.write_text(changelog.read_text().replace("## [0.1.0] - ", "## [0.1.0 soon] - "))
    assert command(checkout, "--tag", "v0.1.0").startswith("CHANGELOG.md says nothing of 0.1.0")
