"""Builds the JupyterLab extension into the wheel.

In a checkout with node at hand the extension is built when it is missing or older than its sources. An sdist
carries it built and is taken as it is. A checkout without node gives the magics alone, and says so.
``TOKMAGIC_SKIP_LABEXTENSION=1`` leaves it out on purpose, as an editable install does: ``make build`` builds and
links it there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WIDGET = Path("tokmagic", "widget", "panel.js")
"""The same view for an output, which is part of the package."""
NOT_SOURCES = {"node_modules", "lib"}


class LabExtension(BuildHookInterface):  # type: ignore[misc]  # hatchling carries no types
    """Adds the built extension to the wheel, and to the sdist."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extension where that is needed and possible."""
        if version == "editable" or os.environ.get("TOKMAGIC_SKIP_LABEXTENSION"):
            return
        root = Path(self.root)
        sources, built = root / "labextension", root / "tokmagic" / "labextension"
        if _is_checkout(root) and (_stale(sources, built) or not (root / WIDGET).is_file()):
            if shutil.which("npm") is not None:
                _build(sources)
            elif built.is_dir():
                self.app.display_warning("tokmagic: no npm here; this build holds a sidebar older than its sources")
        if not built.is_dir():
            self.app.display_warning("tokmagic: no npm here; this build holds the magics without the sidebar")
        elif self.target_name == "wheel":
            share = "share/jupyter/labextensions/tokmagic"
            build_data["shared_data"] |= {str(built): share, str(sources / "install.json"): f"{share}/install.json"}


def _is_checkout(root: Path) -> bool:
    # Unpacking an sdist need not keep its files' times, so they say nothing there.
    return not (root / "PKG-INFO").is_file()


def _stale(sources: Path, built: Path) -> bool:
    made = built / "package.json"
    if not made.is_file():
        return True
    files = (path for path in sources.rglob("*") if path.is_file() and not NOT_SOURCES & set(path.parts))
    return max(path.stat().st_mtime for path in files) > made.stat().st_mtime


def _build(sources: Path) -> None:
    # jupyter-builder comes with the build requirements, beside the interpreter that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for command in (["npm", "ci", "--ignore-scripts"], ["npm", "run", "build:prod"]):
        subprocess.run(command, cwd=sources, check=True, env={**os.environ, "PATH": path})
