"""How this machine reaches its package registries, handed to a build as secrets and read-only folders.

Nothing of it is written into the repository or the image: what pip and npm say of their settings goes into
files under the cache, which the Dockerfile's ``--mount=type=secret`` shows to single steps.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BUNDLE = "/run/secrets/ca"
"""Where the steps of a build find the certificates that this machine trusts."""
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_PIP_KEYS = {"cert", "constraint", "extra-index-url", "find-links", "index-url", "trusted-host"}


def build_options(folder: Path) -> list[str]:
    """Options of ``buildah build`` that give its steps this machine's settings; their files go into ``folder``."""
    pip = pip_settings()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # an index's address can hold a password
    (folder / "pip.conf").write_text(_pip_file(pip), encoding="utf-8")
    (folder / "npmrc").write_text(_npm_file(), encoding="utf-8")
    options = [f"--secret=id=pip,src={folder / 'pip.conf'}", f"--secret=id=npm,src={folder / 'npmrc'}"]
    bundle = next((path for path in _BUNDLES if Path(path).is_file()), None)
    if bundle:
        options.append(f"--secret=id=ca,src={bundle}")
    return options + [f"--volume={path}:{path}:ro" for path in local_folders(pip)]


def pip_settings() -> dict[str, list[str]]:
    """What pip is told on this machine, by files and by the environment; the environment's word comes last."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, cwd="/"
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rsplit(".", 1)[-1].replace("_", "-")
        if key in _PIP_KEYS:
            found[key] = value.strip("'\"").replace("\\n", " ").split()
    return found


def local_folders(pip: dict[str, list[str]]) -> list[Path]:
    """The folders of this machine that pip takes packages from."""
    named = (
        word.removeprefix("file://")
        for key in ("find-links", "extra-index-url", "index-url")
        for word in pip.get(key, [])
    )
    folders = {Path(word) for word in named if word.startswith("/")}
    # An index in files links to files beside its pages.
    return sorted({path.parent if path.name == "simple" else path for path in folders if path.is_dir()})


def _pip_file(pip: dict[str, list[str]]) -> str:
    # A constraint file of this machine's is for its own environments; the image has its own pins.
    lines = [f"{key} = {' '.join(words)}" for key, words in pip.items() if key not in {"cert", "constraint"}]
    return "\n".join(["[global]", f"cert = {BUNDLE}", *lines, ""])


def _npm_file() -> str:
    files = (Path.home() / ".npmrc", Path("/etc/npmrc"), Path("/usr/etc/npmrc"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file() and os.access(path, os.R_OK))
    kept = [line for line in text.splitlines() if not re.match(r"\s*(cafile|nodedir|prefix|cache)\s*=", line)]
    return "\n".join([*kept, f"cafile={BUNDLE}", ""])
