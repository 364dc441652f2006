"""The folders that outlive the container: what is amiss with them, and where to go instead."""

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
_DATA_MENDS = {
    "is full": "free some space",
    "is read-only": "mount it without :ro",
    "is not there": "docker run -v tokmagic:/data",
}


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
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    roots = {str(path) for path in (folder, *folder.parents) if path != Path("/")}
    return any(point in roots for point in points)


def settle_data(data: Path, *, ledger_elsewhere: bool) -> tuple[Path, list[str]]:
    """The folder that models and the ledger go into, ``data`` if it can be written, and what is amiss with it."""
    kept = "models" if ledger_elsewhere else "runs and models"
    reason = fault(data, DATA_BYTES)
    if reason is None:
        if mounted(data):
            return data, []
        return data, [f"data: no volume at {data}; {kept} are lost with the container; docker run -v tokmagic:{data}"]
    instead = Path(tempfile.gettempdir(), f"tokmagic-data-{os.getuid()}")
    instead.mkdir(parents=True, exist_ok=True)
    mend = _DATA_MENDS.get(reason, "give the volume to that user, or add --group-add 0")
    if reason == "is read-only" and not mounted(data):  # the container's own root is
        mend = f"docker run -v tokmagic:{data}"
    return instead, [f"data: {data} {reason}; {kept} go into {instead} and are lost with the container; {mend}"]


def notebook_faults(folder: Path) -> list[str]:
    """What is amiss with the folder that notebooks are saved in."""
    reason = fault(folder, NOTEBOOK_BYTES)
    if reason:
        mend = {"is full": "free some space", "is read-only": "mount it without :ro"}.get(reason, "check its owner")
        if reason == "is read-only" and not mounted(folder):
            mend = f"docker run -v ./notebooks:{folder}"
        return [f"notebooks: {folder} {reason}; notebooks open and run but cannot be saved; {mend}"]
    if not mounted(folder):
        lost = "what is saved there is lost with the container"
        return [f"notebooks: no volume at {folder}; {lost}; docker run -v ./notebooks:{folder}"]
    return []


def copy_notebooks(source: Path, folder: Path) -> None:
    """Copy the notebooks of ``source`` into ``folder`` if nothing is in it."""
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        return
    for notebook in sorted(source.glob("*.ipynb")):
        with contextlib.suppress(OSError):  # no space, or another container was quicker
            content = notebook.read_bytes()
            with (folder / notebook.name).open("xb") as copy:
                copy.write(content)


def link_models(source: Path, home: Path) -> None:
    """Let ``home`` have the models of ``source`` by links, and lose links whose model is gone.

    A volume's own models win. Both tokmagic's folder and the Hugging Face cache are looked at.
    """
    for part in ("models", "hf/hub"):
        with contextlib.suppress(OSError):  # what cannot be linked is fetched
            for link in (home / part).glob("*--*"):
                if link.is_symlink() and not link.exists():
                    link.unlink()
            for folder in sorted((source / part).glob("*--*")):
                target = home / part / folder.name
                if folder.is_dir() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(folder)
