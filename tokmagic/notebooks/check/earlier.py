"""A notebook's earlier version: another file, or what git has of the same path."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tokmagic.core.files import read_file
from tokmagic.errors import UsageError
from tokmagic.notebooks.check.figures import Notebook, read

_GIT = "git:"
_OF_A_REPOSITORY = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"}


def earlier(against: str, path: str) -> Notebook | None:
    """The version of the notebook at ``path`` that ``against`` names: a file, or ``git:REV``.

    None where the revision does not have that path. Raises UsageError and NotebookError.
    """
    if not against.startswith(_GIT):
        return read(read_file(against), against)
    revision = against.removeprefix(_GIT)
    if not revision or revision.startswith("-"):
        raise UsageError(f"--against {against} names no revision; give one such as git:HEAD or git:main")
    file = Path(path).resolve()
    inside = _git(file.parent, "rev-parse", "--git-dir")
    if inside.returncode != 0:
        message = inside.stderr.decode("utf-8", "replace").strip().split("\n")[0]
        raise UsageError(f"--against {against}: git cannot read {path}: {message}; give an earlier file instead")
    if _git(file.parent, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode != 0:
        raise UsageError(f"--against {against}: git knows no revision {revision!r} here; fetch it, or name another")
    entry = f"{revision}:./{file.name}"
    if _git(file.parent, "rev-parse", "--verify", "--quiet", entry).returncode != 0:
        return None
    return read(_git(file.parent, "cat-file", "blob", entry).stdout, f"{path} in {revision}")


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    # A hook's environment points at the repository of the hook, which need not be the notebook's.
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, env={**environment, "LC_ALL": "C"}, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("--against git:REV needs git, which is not installed; give an earlier file instead") from None
