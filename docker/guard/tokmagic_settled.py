"""What ``start.py`` settled, for the Python processes that it did not start, such as those of ``docker exec``.

These have the environment that the container was given: a data folder that cannot be used still stands in it, and the
database's password only as a file. A ``.pth`` file lets every Python of the image's import this module.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

NAMES = ("TOKMAGIC_HOME", "HF_HOME", "HOME", "USER")


def temporary() -> Path:
    """The folder for what ends with the container."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def keep(given: Mapping[str, str], settled: Mapping[str, str]) -> None:
    """Write down which settings became other than they were given; none of them is secret."""
    changed = {name: (given.get(name), settled[name]) for name in NAMES if settled.get(name) != given.get(name)}
    _file().unlink(missing_ok=True)
    with _file().open("x", encoding="utf-8") as file:  # through nobody's link
        json.dump(changed, file)


def take(environ: MutableMapping[str, str]) -> None:
    """Change the settings that still are as they were given, and read the password's file."""
    with contextlib.suppress(OSError, ValueError):
        with _file().open(encoding="utf-8") as file:
            mine = os.fstat(file.fileno()).st_uid == os.getuid()
            changed = json.load(file) if mine else {}
        environ.update({name: now for name, (was, now) in changed.items() if environ.get(name) == was})
    if (secret := environ.get("PGPASSWORD_FILE")) and not environ.get("PGPASSWORD"):
        with contextlib.suppress(OSError, ValueError):
            environ["PGPASSWORD"] = Path(secret).read_text(encoding="utf-8").strip()


def _file() -> Path:
    return temporary() / f"tokmagic-settled-{os.getuid()}.json"
