"""Makes the image's environment: the requirements of tokmagic's extras, pinned, over the base image's own torch.

    python3 environment.py FOLDER EXTRA[,EXTRA …]

Reads ``pyproject.toml``, ``constraints.txt`` and ``requirements.txt`` in the working directory. The environment
sees the base's packages, so that torch is taken from there; it fails if torch is not what it was afterwards.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any


def main(folder: Path, extras: str) -> None:
    """Make the environment in ``folder`` for these extras of the project, with commas between them."""
    torch = importlib.metadata.version("torch")
    venv.EnvBuilder(system_site_packages=True, with_pip=True, symlinks=True).create(folder)
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = held(Path("constraints.txt").read_text(encoding="utf-8").splitlines(), torch)
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        python = str(folder / "bin" / "python")
        install = [python, "-m", "pip", "install", "-q", "-c", str(constraints)]
        subprocess.run([*install, "pip"], check=True)
        subprocess.run([*install, "-r", "requirements.txt", *requirements(project, extras)], check=True)
    look = "import importlib.metadata, torch; print(importlib.metadata.version('torch'), torch.__file__)"
    found = subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    if found[0] != torch or Path(found[1]).is_relative_to(folder):
        raise SystemExit(f"torch was {torch} in the base image and is {found[0]} in {found[1]} now")


def held(constraints: list[str], torch: str) -> list[str]:
    """The constraints, with torch at the base image's own version."""
    return [line for line in constraints if not line.startswith("torch==")] + [f"torch=={torch}"]


def requirements(project: dict[str, Any], extras: str) -> list[str]:
    """What the project and its extras ask for; an extra may name the project's other extras."""
    known: dict[str, list[str]] = project["optional-dependencies"]
    found = list(project["dependencies"])
    for requirement in [it for extra in extras.split(",") for it in known[extra]]:
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
        found += [asked for name in own[1].split(",") for asked in known[name]] if own else [requirement]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
