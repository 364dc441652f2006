"""Environments of their own for what was packed: clean of the project's, of the person's, of node and compilers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ABSENT = ("node", "npm", "npx", "gcc", "cc", "c++", "make", "git")
"""Programs that none of these environments has on its path."""
_OURS = ("PYTHON", "TOKMAGIC_", "JUPYTER", "VIRTUAL_ENV", "NODE", "npm_", "COVERAGE", "PYTEST")


@dataclass(frozen=True)
class CleanEnvironment:
    """A virtual environment whose programs see its own programs and nothing else."""

    folder: Path
    home: Path
    """The home of what runs here; the tests' data folder and ledger are in it."""

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    @property
    def variables(self) -> dict[str, str]:
        """What a program here gets to see."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {**kept, "PATH": str(self.folder / "bin"), "HOME": str(self.home), "TOKMAGIC_CONFIG": os.devnull}

    def run(self, *words: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs in its home."""
        command = [str(self.folder / "bin" / words[0]), *map(str, words[1:])]
        return _run(command, {**self.variables, **variables}, self.home, check)

    def pip_install(self, *words: str | Path) -> str:
        """Install, with pip's own settings and cache of whoever runs the tests; returns what pip said.

        Only what is used is compiled, at its first use.
        """
        settings = {**self.variables, "HOME": os.environ.get("HOME", str(self.home))}
        return _run(
            [self.python, "-m", "pip", "install", "--no-compile", *map(str, words)], settings, self.home, check=True
        ).stdout

    def traces(self, name: str) -> list[Path]:
        """Every file and folder here whose name has ``name`` in it."""
        return sorted(path for path in self.folder.rglob("*") if name in path.name.lower())


def clean_environment(folder: Path, *, sees: Path | None = None) -> CleanEnvironment:
    """Make an environment in ``folder``; ``sees`` is a folder of packages that it finds after its own."""
    home = folder / "home"
    home.mkdir(parents=True)
    made = CleanEnvironment(folder / "env", home)
    subprocess.run([sys.executable, "-m", "venv", made.folder], check=True)
    for program in ABSENT:
        assert shutil.which(program, path=made.variables["PATH"]) is None
    if sees is not None:
        (made.packages / "also.pth").write_text(f"{sees}\n", encoding="utf-8")
    return made


def _run(
    command: Sequence[str], variables: Mapping[str, str], cwd: Path, check: bool
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=variables, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    return done
