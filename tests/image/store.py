"""podman and buildah with a store of the tests' own, and the images that the tests run, built when they change."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.image.registries import build_options

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "image"
BASE = "localhost/pytorch-standin"
IMAGE = "localhost/tokmagic"
POSTGRES = "localhost/postgres-standin"
NEEDED = ("buildah", "podman", "runc", "mmdebstrap")
BUILD = ["build", "--layers", "--isolation=chroot", "--network=host", "--format=docker"]


class UnavailableError(Exception):
    """Containers cannot run here; says why in one line."""


@cache
def _storage() -> Path:
    storage, places = CACHE / "storage.conf", f'graphroot = "{CACHE / "storage"}"\nrunroot = "{CACHE / "run"}"\n'
    with _alone("storage"):
        if not storage.is_file():
            storage.write_text(f'[storage]\ndriver = "overlay"\n{places}', encoding="utf-8")
    return storage


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Keep the other worker of the tests out meanwhile: it would build the same."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, str]:
    """The environment that podman, buildah and podman-compose run in."""
    return {
        **os.environ,
        "CONTAINERS_CONF": str(HERE / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(_storage()),
        "BUILDAH_ISOLATION": "chroot",
    }


def call(program: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman or buildah; what it says is in the error if it fails."""
    done = subprocess.run([program, *words], env=environment(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{program} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done


@cache
def require_containers() -> None:
    """Raise UnavailableError unless images can be built and run here."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise UnavailableError(
            f"{', '.join(missing)} not installed: make image-tools installs them as root, or says how"
        )
    if os.getuid():
        raise UnavailableError(
            "mmdebstrap and buildah's chroot isolation are run as root here; run make image-test as root"
        )
    try:
        tag = base_image()
        done = call("podman", "run", "--rm", tag, "/bin/true", check=False)
    except RuntimeError as error:
        raise UnavailableError(f"an image cannot be built here: {error}") from error
    if done.returncode:
        raise UnavailableError(f"podman cannot run a container here: {done.stderr.strip().splitlines()[-1]}")


def main() -> None:
    """Build what nearly all tests run; where containers cannot run, say why."""
    try:
        require_containers()
    except UnavailableError as missing:
        sys.stderr.write(f"the images are not built: {missing}\n")
        return
    tokmagic_image()
    postgres_image()


def base_image() -> str:
    """Stands in for PyTorch's image where no registry of containers is reached: Debian, its Python, our torch."""
    torch = next(line for line in _lines(ROOT / "constraints.txt") if line.startswith("torch=="))
    recipe = HERE / "standin" / "base.Dockerfile"
    packages = ["python3", "python3-pip", "python3-venv", "ca-certificates"]
    return _stand_in(BASE, recipe, packages, [f"--build-arg=TORCH={torch}"])


def postgres_image() -> str:
    """Stands in for the official image of PostgreSQL: Debian's server, which takes the same variables."""
    return _stand_in(POSTGRES, HERE / "standin" / "postgres.Dockerfile", ["postgresql", "tini"], [])


def tokmagic_image() -> str:
    """The real Dockerfile over the stand-in base, with the default model in it; TOKMAGIC_TEST_IMAGE names another."""
    return os.environ.get("TOKMAGIC_TEST_IMAGE") or _tokmagic_image("test")


def pool_image() -> str:
    """The same with Ray in it; TOKMAGIC_TEST_POOL_IMAGE names another."""
    return os.environ.get("TOKMAGIC_TEST_POOL_IMAGE") or _tokmagic_image("test-pool", EXTRAS="all,pool")


def _tokmagic_image(name: str, **more: str) -> str:
    base = base_image()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    arguments = {
        "BASE_IMAGE": base,
        "BAKE_MODEL": "smollm2",
        "MODEL_SOURCE": "package",
        "IMAGE": "tokmagic",
        "REVISION": commit.stdout.strip() or "unknown",
        **more,
    }
    options = [f"--build-arg={k}={v}" for k, v in arguments.items()]
    with _alone("tokmagic"):
        _build(f"{IMAGE}:{name}", ROOT / "docker" / "Dockerfile", ROOT, options)
        # Layers of earlier builds are the cache of the next one for a day, and then only take space.
        call("podman", "image", "prune", "--force", "--filter=until=24h", check=False)
    return f"{IMAGE}:{name}"


def _stand_in(name: str, recipe: Path, packages: list[str], arguments: list[str]) -> str:
    """Build an image over a Debian made by mmdebstrap; its tag is the recipe's digest, so a change makes it anew."""
    key = [recipe.read_text(encoding="utf-8"), packages, arguments]
    tag = f"{name}:{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}"
    with _alone(recipe.stem):
        if call("podman", "image", "exists", tag, check=False).returncode:
            context = CACHE / recipe.stem
            context.mkdir(parents=True, exist_ok=True)
            for file in (HERE / "standin").iterdir():
                shutil.copy(file, context)
            tar, debian = context / "debian.tar", f"--include={','.join(packages)}"
            _logged(recipe.stem, ["mmdebstrap", "--quiet", "--variant=apt", debian, "bookworm", str(tar)])
            _build(tag, recipe, context, arguments)
            tar.unlink()
    return tag


def _build(tag: str, recipe: Path, context: Path, arguments: list[str]) -> None:
    name = tag.rpartition("/")[2].partition(":")[0]
    options = build_options(CACHE / "registries" / name)
    started = time.monotonic()
    _logged(name, ["buildah", *BUILD, *options, *arguments, "-t", tag, "-f", str(recipe), str(context)])
    took = f"built {tag} in {time.monotonic() - started:.0f} s\n"
    sys.stderr.write(took)


def _logged(name: str, command: list[str]) -> None:
    """Run a long command with what it says in a log; its end is in the error if it fails."""
    log = CACHE / f"{name}.log"
    with log.open("ab") as file:
        done = subprocess.run(command, env=environment(), stdout=file, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
        raise RuntimeError(f"{command[0]} ended with {done.returncode}, see {log}:\n{tail}")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main()
