"""The folders that outlive the container: what is wrong with them, and where to go instead."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

DATA_BYTES = 16 * 2**20
"""Free space below which the data volume counts as full: the ledger grows and writes a log beside itself."""
NOTEBOOK_BYTES = 4 * 2**20
"""The same for notebooks, which are written anew beside the old file at each save."""
_PROBE = bytes(64 * 2**10)
_REASONS = {
    errno.EROFS: "is read-only",
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full",
    errno.ENOENT: "is not there",
}
_ROOTS = {"is read-only", "is not there"}
"""What the container's own root can have wrong with it."""
_FIXES = {"is full": "free some space", "is read-only": "mount it without :ro"}


def fault(folder: Path, least_bytes: int = 0) -> str | None:
    """Why ``folder`` cannot be written, or None if it can, with ``least_bytes`` to spare."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
        if shutil.disk_usage(folder).free < least_bytes:
            return "is full"
    except OSError as error:
        return _REASONS.get(error.errno or 0, f"cannot be written by uid {os.getuid()}, gid {os.getgid()}")
    return None


def mounted(folder: Path) -> bool:
    """Whether ``folder`` is, or lies in, something mounted into the container."""
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    points = (os.fsdecode(line.split()[4]) for line in mounts)
    roots = {str(path) for path in (folder, *folder.parents) if path != Path("/")}
    return any(point in roots for point in points)


def temporary_fault(folder: Path) -> str | None:
    """Why nothing can run: ``folder``, for temporary files, cannot be written. None if it can."""
    reason = fault(folder)
    fix = "free some space" if reason == "is full" else f"docker run --tmpfs {folder}"
    return reason and f"tmp: {folder} {reason}, and nothing runs without it; {fix}"


def settle_data(data: Path, temporary: Path, *, ledger_elsewhere: bool) -> tuple[Path, list[str]]:
    """The folder that models and the ledger go into, ``data`` if it can be written, and what is wrong with it."""
    with contextlib.suppress(OSError):  # a folder in a volume, say, that is new
        data.mkdir(parents=True, exist_ok=True)
    kept = "models" if ledger_elsewhere else "runs and models"
    reason = fault(data, DATA_BYTES)
    if reason is None:
        if mounted(data):
            return data, []
        return data, [f"data: no volume at {data}; {kept} are lost with the container; docker run -v tokmagic:{data}"]
    instead = temporary / f"tokmagic-data-{os.getuid()}"
    instead.mkdir(mode=0o700, exist_ok=True)
    fix = _FIXES.get(reason, "give the volume to that user, or add --group-add 0")
    if reason in _ROOTS and not mounted(data):
        fix = f"docker run -v tokmagic:{data}"
    return instead, [f"data: {data} {reason}; {kept} go into {instead} and are lost with the container; {fix}"]


def notebook_faults(folder: Path) -> list[str]:
    """What is wrong with the folder that notebooks are saved in."""
    reason = fault(folder, NOTEBOOK_BYTES)
    if reason:
        fix = _FIXES.get(reason, "check its owner")
        if reason in _ROOTS and not mounted(folder):
            fix = f"docker run -v ./notebooks:{folder}"
        return [f"notebooks: {folder} {reason}; notebooks open and run but cannot be saved; {fix}"]
    if not mounted(folder):
        lost = "what is saved there is lost with the container"
        return [f"notebooks: no volume at {folder}; {lost}; docker run -v ./notebooks:{folder}"]
    return []


def copy_notebooks(source: Path, folder: Path) -> None:
    """Copy the notebooks of ``source`` into ``folder`` if nothing is in it but what a new disk has."""
    if any(not entry.name.startswith(".") and entry.name != "lost+found" for entry in folder.iterdir()):
        return
    for notebook in sorted(source.glob("*.ipynb")):
        with contextlib.suppress(OSError):  # no space, or another container was quicker
            content = notebook.read_bytes()
            with (folder / notebook.name).open("xb") as copy:
                copy.write(content)


def link_models(source: Path, home: Path, hub: Path) -> None:
    """Let ``home`` and the Hugging Face cache ``hub`` have the models of ``source`` by links.

    A volume's own models win. Links into ``source`` whose model is gone are removed.
    """
    for models, into in ((source / "models", home / "models"), (source / "hf" / "hub", hub / "hub")):
        with contextlib.suppress(OSError):  # what cannot be linked is fetched
            for link in into.glob("*--*"):
                if link.is_symlink() and link.readlink().is_relative_to(source) and not link.exists():
                    link.unlink()
            for folder in sorted(models.glob("*--*")):
                target = into / folder.name
                if folder.is_dir() and not target.exists() and not target.is_symlink():
                    into.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(folder)
