"""The compose file: really up, with the team's ledger on PostgreSQL."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import store
from tests.image.containers import Container, wait_for

pytestmark = pytest.mark.image

COMPOSE = store.ROOT / "docker" / "compose.yaml"
TEAM = store.ROOT / "docker" / "team.env"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compose(project: str, settings: dict[str, str], *words: str) -> None:
    """Run podman-compose; what it says is in the error if it fails."""
    command = [sys.executable, "-m", "podman_compose", "-p", project, "-f", str(COMPOSE), *words]
    environment = {**store.environment(), **settings, "COMPOSE_PROJECT_NAME": project}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture
def team(image: str, tmp_path: Path) -> Iterator[tuple[Container, str]]:
    """The profile `team`, up; its notebook and the name of its database's container."""
    project, token = f"tokmagic-test-{secrets.token_hex(3)}", secrets.token_hex(16)
    settings = {
        "TOKMAGIC_IMAGE_NAME": image,
        "POSTGRES_IMAGE": store.postgres_image(),
        "PORT": str(free_port()),
        "LEDGER_PASSWORD_FILE": str(tmp_path / "password"),
        "TOKEN_FILE": str(tmp_path / "token"),
    }
    for name, text in {"password": secrets.token_urlsafe(16), "token": token}.items():
        (tmp_path / name).write_text(f"{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:2]):  # the containers' users read the files in it
        folder.chmod(0o755)
    try:
        compose(project, settings, "--env-file", str(TEAM), "--profile", "team", "up", "--detach")
        yield Container(f"{project}_notebook_1", token), f"{project}_ledger_1"
    finally:
        compose(project, settings, "--env-file", str(TEAM), "--profile", "team", "down", "--volumes", "--timeout", "5")


def test_a_run_lands_in_the_teams_ledger(team: tuple[Container, str], tmp_path: Path) -> None:
    notebook, ledger = team
    notebook.wait_ready()
    assert notebook.get("/api/contents")[0] == 403
    assert notebook.get("/api/contents", notebook.token)[0] == 200
    database = Container(ledger, "")
    wait_for(lambda: store.call("podman", "healthcheck", "run", ledger, check=False).returncode == 0, database)
    said = notebook.exec("sh", "-c", "echo Hello. | tokmagic run --max-tokens 3 && tokmagic export")
    run = json.loads(said.splitlines()[-1])
    password = (tmp_path / "password").read_text(encoding="utf-8").strip()
    query = "select run_id, output_tokens from runs"
    rows = store.call(
        "podman",
        "exec",
        f"--env=PGPASSWORD={password}",
        ledger,
        "psql",
        "-h127.0.0.1",
        "-Utokmagic",
        "-Atc",
        query,
        "tokmagic",
    ).stdout
    assert rows.strip() == f"{run['run_id']}|3"
    state = store.call("podman", "inspect", notebook.name, "--format={{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}}")
    assert state.stdout.split()[0] == "true"


def test_the_ledger_does_not_start_without_a_password(engine: None) -> None:
    done = store.call("podman", "run", "--rm", "--env=POSTGRES_USER=tokmagic", store.postgres_image(), check=False)
    assert done.returncode == 1
    assert "no superuser password" in done.stderr
