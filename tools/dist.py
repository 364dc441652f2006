"""Look at what ``make dist`` packed: ``python -m tools.dist dist`` fails on anything missing, unwanted or too big.

The sdist may hold what git tracks and the built extension, the wheel what the sdist holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import InvalidMetadata, Metadata
from trove_classifiers import classifiers as known_classifiers

from tools.version import current

WHEEL_LIMIT_BYTES = 1_000_000
EXTENSION = "tokmagic/labextension/"
WIDGET = "tokmagic/widget/"
SHARE = "share/jupyter/labextensions/tokmagic/"
UNWANTED = ("node_modules/", "__pycache__/", ".pyc", ".map", ".tsbuildinfo", ".DS_Store")
IN_SDIST = {"PKG-INFO", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md"}
IN_EXTENSION = {"package.json", "static/style.js", "static/third-party-licenses.json", "schemas/tokmagic/sidebar.json"}
IN_WIDGET = {"panel.js", "panel.css", "licenses.txt"}


@dataclass(frozen=True)
class Packed:
    """One sdist or wheel: its files by their names in it, without the folder that an sdist puts around them."""

    path: Path
    files: dict[str, bytes]


def read_sdist(path: Path) -> Packed:
    """Read an sdist's files."""
    with tarfile.open(path) as archive:
        members = ((member.name.split("/", 1)[1], archive.extractfile(member)) for member in archive)
        return Packed(path, {name: file.read() for name, file in members if file is not None})


def read_wheel(path: Path) -> Packed:
    """Read a wheel's files."""
    with zipfile.ZipFile(path) as archive:
        return Packed(path, {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")})


def tracked(root: Path) -> set[str]:
    """The files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return set(listed.stdout.split("\0")) - {""}


def sdist_problems(sdist: Packed, ours: Set[str], version: str) -> Iterator[str]:
    """What is wrong with an sdist, given the files that git tracks."""
    built = {name.removeprefix(EXTENSION) for name in sdist.files if name.startswith(EXTENSION)}
    for name in sorted(IN_SDIST - sdist.files.keys()):
        yield f"lacks {name}"
    for name in sorted({name for name in ours if name.startswith("tokmagic/")} - sdist.files.keys()):
        yield f"lacks {name}"
    made = {"PKG-INFO"} | {EXTENSION + name for name in built} | {WIDGET + name for name in IN_WIDGET}
    for name in sorted({WIDGET + name for name in IN_WIDGET} - sdist.files.keys()):
        yield f"lacks {name}"
    for name in sorted(sdist.files.keys() - ours - made):
        yield f"holds {name}, which git does not track"
    yield from _extension_problems(built, sdist.files.get(f"{EXTENSION}package.json"), version)
    yield from _metadata_problems(sdist.files.get("PKG-INFO", b""), sdist, version)
    yield from _unwanted(sdist)


def wheel_problems(wheel: Packed, sdist: Packed, version: str) -> Iterator[str]:
    """What is wrong with a wheel, given the sdist that it was built from."""
    info, data = f"tokmagic-{version}.dist-info/", f"tokmagic-{version}.data/data/{SHARE}"
    built = {name.removeprefix(data) for name in wheel.files if name.startswith(data)}
    modules = {name for name in sdist.files if name.startswith("tokmagic/") and not name.startswith(EXTENSION)}
    wanted = modules | {f"{info}licenses/LICENSE", f"{info}entry_points.txt", f"{data}install.json"}
    for name in sorted(wanted - wheel.files.keys()):
        yield f"lacks {name}"
    for name in sorted(wheel.files.keys() - modules):
        if not name.startswith((info, data)):
            yield f"holds {name}, which the sdist does not"
    yield from _extension_problems(built, wheel.files.get(f"{data}package.json"), version)
    yield from _metadata_problems(wheel.files.get(f"{info}METADATA", b""), sdist, version)
    yield from _unwanted(wheel)
    size = wheel.path.stat().st_size
    if size > WHEEL_LIMIT_BYTES:
        yield f"has {size} bytes, more than {WHEEL_LIMIT_BYTES}"


def _extension_problems(built: Set[str], package: bytes | None, version: str) -> Iterator[str]:
    for name in sorted(IN_EXTENSION - built):
        yield f"lacks the extension's {name}"
    if package is not None:
        stated = json.loads(package)
        if stated["version"] != version:
            yield f"holds the extension of {stated['version']}; the package is {version}"
        if stated["jupyterlab"]["_build"]["load"] not in built:
            yield f"lacks the extension's {stated['jupyterlab']['_build']['load']}"


def _metadata_problems(text: bytes, sdist: Packed, version: str) -> Iterator[str]:
    try:
        metadata = Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        yield from (f"has bad metadata: {error}" for error in group.exceptions if isinstance(error, InvalidMetadata))
        return
    if str(metadata.version) != version:
        yield f"says version {metadata.version}; the package is {version}"
    if metadata.description_content_type != "text/markdown" or metadata.description is None:
        yield "has no description in Markdown"
    elif metadata.description.strip() != sdist.files["README.md"].decode().strip():
        yield "has a description that is not README.md"
    if not (metadata.summary and metadata.license_expression and metadata.license_files and metadata.requires_python):
        yield "lacks a summary, a licence or the Python it needs"
    for name in sorted(set(metadata.classifiers or ()) - known_classifiers):
        yield f"has the unknown classifier {name!r}"


def _unwanted(packed: Packed) -> Iterator[str]:
    for name in sorted(packed.files):
        if any(part in name if part.endswith("/") else name.endswith(part) for part in UNWANTED):
            yield f"holds {name}"


def main(words: list[str] | None = None) -> int:
    """Print what was packed and return 0, or say what is wrong with it and return 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.dist")
    parser.add_argument("folder", type=Path, help="holds one sdist and the wheel that was built from it")
    folder: Path = parser.parse_args(words).folder
    root = Path()
    version = current(root)
    sdist = read_sdist(folder / f"tokmagic-{version}.tar.gz")
    wheel = read_wheel(folder / f"tokmagic-{version}-py3-none-any.whl")
    problems = [f"{sdist.path.name} {problem}" for problem in sdist_problems(sdist, tracked(root), version)]
    problems += [f"{wheel.path.name} {problem}" for problem in wheel_problems(wheel, sdist, version)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    for packed in (sdist, wheel):
        content = packed.path.read_bytes()
        print(f"{hashlib.sha256(content).hexdigest()}  {packed.path}  {len(content):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
