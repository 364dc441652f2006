"""What is in the image, and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.image.containers import once
from tests.image.registries import pip_settings
from tests.image.store import ROOT, base_image, call

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    """The image's configuration."""
    found: dict[str, Any] = json.loads(call("podman", "image", "inspect", image).stdout)[0]
    return found


def look(image: str, script: str, *options: str) -> str:
    """What a shell inside prints."""
    done = once(image, "--network=none", "--entrypoint=sh", *options, command=("-c", script))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_runs_as_a_user_without_rights(image: str, config: dict[str, Any]) -> None:
    assert config["Config"]["User"] == "1000:0"
    assert look(image, "id -u; id -g; cat /proc/self/status | grep -i '^CapEff'").split() == [
        "1000",
        "0",
        "CapEff:",
        "0" * 16,
    ]


def test_it_says_what_it_is(config: dict[str, Any]) -> None:
    labels, settings = config["Labels"], dict(entry.split("=", 1) for entry in config["Config"]["Env"])
    revision = labels["org.opencontainers.image.revision"]
    assert re.fullmatch(r"[0-9a-f]{40}", revision)
    assert settings["TOKMAGIC_IMAGE"] == f"tokmagic@{revision}"
    assert settings["TOKMAGIC_IMAGE_BASE"] == labels["org.opencontainers.image.base.name"] == base_image()
    assert labels["org.opencontainers.image.licenses"] == "BSD-3-Clause"
    assert config["Config"]["Entrypoint"][0] == "tini"
    assert "health.py" in " ".join(config["Healthcheck"]["Test"])


def test_torch_is_the_bases_own(image: str) -> None:
    code = "import importlib.metadata as m, torch; print(torch.__version__, m.version('torch'), torch.__file__)"
    ours = look(image, f'/opt/tokmagic/bin/python -c "{code}"').split()
    bases = once(base_image(), "--network=none", command=("python3", "-c", code)).stdout.split()
    assert ours == bases
    assert not ours[2].startswith("/opt/tokmagic")


def test_the_other_packages_are_the_pinned_ones(image: str) -> None:
    pins = dict(
        line.split("==")
        for file in ("constraints.txt", "docker/requirements.txt")
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    site = "import importlib.metadata as m, json, sysconfig; p = sysconfig.get_path('purelib'); "
    code = "print(json.dumps({d.name: d.version for d in m.distributions(path=[p])}))"
    found = json.loads(look(image, f'/opt/tokmagic/bin/python -c "{site}{code}"'))
    plain = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    unpinned = {name for name in found if name.lower().replace("_", "-") not in plain} - {"tokmagic", "setuptools"}
    assert unpinned == set()
    differing = {
        name: version
        for name, version in found.items()
        if plain.get(name.lower().replace("_", "-"), version) != version
    }
    assert differing == {}
    assert {"tokmagic", "jupyterlab", "jupyterhub", "transformers", "bitsandbytes", "psycopg"} <= set(found)


def test_nothing_of_the_build_is_left(image: str) -> None:
    assert look(image, "command -v node; command -v npm; true") == ""
    places = "~root/.cache ~root/.npm ~tokmagic/.cache /var/lib/apt/lists/* /source /wheel /build"
    # As root, who alone may look into root's own home.
    assert look(image, "ls -A ~root", "--user=0") != ""
    assert look(image, f"ls {places} 2>/dev/null; true", "--user=0") == ""
    assert (
        look(
            image, "find / -xdev \\( -name pip.conf -o -name .npmrc \\) 2>/dev/null; ls /run/secrets 2>/dev/null; true"
        )
        == ""
    )


def test_no_address_of_a_registry_is_in_the_images_history(image: str) -> None:
    history = call("podman", "history", "--no-trunc", "--format={{.CreatedBy}}", image).stdout
    words = [word for key, words in pip_settings().items() if "url" in key or key == "find-links" for word in words]
    assert [word for word in words if word in history] == []


def test_a_command_is_run_as_it_stands(image: str) -> None:
    done = once(image, "--network=none", command=("tokmagic", "--version"))
    assert (done.returncode, done.stdout.startswith("tokmagic ")) == (0, True)
    missing = once(image, "--network=none", command=("no-such-program",))
    assert missing.returncode == 127
    assert missing.stderr.splitlines()[-1] == "tokmagic: no-such-program cannot be run: No such file or directory"
