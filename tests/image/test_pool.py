"""The pool's compose file: really up, a head, workers that join it, and a metered answer."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import store
from tests.image.containers import Container, wait_for
from tests.image.test_compose import free_port

pytestmark = pytest.mark.image

COMPOSE = store.ROOT / "docker" / "compose.pool.yaml"
START_S = 300.0


class Compose:
    """The project, by podman-compose."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.project = f"tokmagic-test-{secrets.token_hex(3)}"
        self.settings = settings

    def __call__(self, *words: str) -> str:
        command = [sys.executable, "-m", "podman_compose", "-p", self.project, "-f", str(COMPOSE), *words]
        environment = {**store.environment(), **self.settings, "COMPOSE_PROJECT_NAME": self.project}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


@pytest.fixture(scope="session")
def pool_image(image: str) -> str:
    """The image with Ray in it, whose other layers are those of the first one."""
    return store.pool_image()


@pytest.fixture
def pool(pool_image: str, tmp_path: Path) -> Iterator[tuple[Compose, str]]:
    """The pool, up, and a key for it."""
    token = tmp_path / "ray_token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    token.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:2]):  # the containers' users read the file in it
        folder.chmod(0o755)
    settings = {
        "TOKMAGIC_IMAGE_NAME": pool_image,
        "PORT": str(free_port()),
        "RAY_TOKEN_FILE": str(token),
        "MODELS": "scripted",
        "REPLICAS": "2:2",
        "WORKERS": "2",
    }
    compose = Compose(settings)
    try:
        said = compose("run", "--rm", "--no-deps", "head", "tokmagic", "key", "add", "team", "--user", "ada")
        key = next(word for line in said.splitlines() for word in line.split() if word.startswith("tm-"))
        compose("up", "--detach")
        yield compose, key
    finally:
        compose("down", "--volumes", "--timeout", "60")


def test_workers_answer_by_the_head_and_the_gateway_bills(pool: tuple[Compose, str]) -> None:
    compose, key = pool
    url = f"http://127.0.0.1:{compose.settings['PORT']}"
    head = Container(f"{compose.project}_head_1", key)

    def ask(secret: str) -> tuple[int, dict[str, object]]:
        body = json.dumps({"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}).encode()
        headers = {"authorization": f"Bearer {secret}"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{url}/v1/chat/completions", body, headers), timeout=60
            ) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_up() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    wait_for(is_up, head, seconds=START_S)
    assert ask("wrong")[0] == 401
    status, answer = ask(key)
    assert status == 200
    usage = answer["usage"]
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == 4
    rows = [json.loads(line) for line in head.exec("tokmagic", "export").splitlines()]
    assert [(row["run_id"], row["output_tokens"]) for row in rows] == [(usage["tokmagic"]["run_id"], 4)]

    def cpus() -> list[float] | None:
        """Those of all nodes, once as many have joined as there are workers beside the head."""
        nodes: list[float] = head.python(
            "import json, ray; ray.init('auto', logging_level='ERROR'); "
            "print(json.dumps([it['Resources'].get('CPU', 0) for it in ray.nodes() if it['Alive']]))"
        )
        return nodes if len(nodes) == 1 + int(compose.settings["WORKERS"]) else None

    # A worker that came before the head's port did is started anew, and joins then.
    nodes = wait_for(cpus, head, seconds=START_S)
    # Replicas are on workers: the head has no CPU for them.
    assert [it == 0 for it in sorted(nodes)] == [True, False, False]
