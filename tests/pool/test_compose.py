"""The pool's compose file as podman-compose reads it, with a program in podman's place that notes what it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.servers import ROOT

COMPOSE = ROOT / "docker" / "compose.pool.yaml"
STAND_IN = """#!/bin/sh
echo "$*" >> "$PODMAN_TOLD"
case "$*" in *--version*) echo podman version 5.0.0;; *) echo "[]";; esac
"""


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_as_many_workers_as_are_asked_for_are_started(tmp_path: Path, workers: int | None) -> None:
    podman, told = tmp_path / "podman", tmp_path / "told"
    podman.write_text(STAND_IN, encoding="utf-8")
    podman.chmod(0o755)
    words = ["-p", "pool", "-f", str(COMPOSE), "--podman-path", str(podman), "up", "--detach", "--no-build"]
    environment = {name: value for name, value in os.environ.items() if name != "WORKERS"} | {"PODMAN_TOLD": str(told)}
    environment |= {} if workers is None else {"WORKERS": str(workers)}
    done = subprocess.run(
        [sys.executable, "-m", "podman_compose", *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    created = re.findall(r"^create --name=pool_(\w+) ", told.read_text(encoding="utf-8"), re.MULTILINE)
    assert created == ["head_1", *(f"worker_{number}" for number in range(1, (workers or 2) + 1))]
