"""The images, built once; where containers cannot run, every test here is skipped with the reason."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.image import store
from tests.image.containers import Container, running

# Each worker of the tests has its own.
NETWORK = f"tokmagic-test-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"


@pytest.fixture(scope="session")
def engine() -> None:
    """Containers can run here, or the test is skipped: a machine that gives no rights to is no failure."""
    try:
        store.require_containers()
    except store.UnavailableError as missing:
        sys.__stderr__ and sys.__stderr__.write(f"\nIMAGE NOT TESTED: {missing}\n")
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The image of the real Dockerfile, with the default model in it."""
    # The database's image takes its time too, and needs none of this one.
    with ThreadPoolExecutor() as beside:
        database = beside.submit(store.postgres_image)
        built = store.tokmagic_image()
        database.result()
    return built


@pytest.fixture(scope="session")
def network(engine: None) -> Iterator[str]:
    """A network of the tests' own, with a subnet that nothing else has."""
    store.call("podman", "network", "rm", "--force", NETWORK, check=False)
    store.call("podman", "network", "create", NETWORK)
    yield NETWORK
    store.call("podman", "network", "rm", "--force", NETWORK)


@pytest.fixture
def start(image: str, network: str) -> Iterator[Callable[..., Container]]:
    """Start containers, each with podman's options and a command; they are removed after the test."""
    with ExitStack() as stack:

        def start_one(*options: str, ready: bool = True, **keywords: object) -> Container:
            keywords = {"network": network, **keywords}
            container = stack.enter_context(running(image, *options, **keywords))  # type: ignore[arg-type]
            if ready:
                container.wait_ready()
            return container

        yield start_one


@pytest.fixture
def data(engine: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """A named volume of the test's own."""
    name = f"tokmagic-test-{abs(hash(request.node.nodeid)):x}"
    store.call("podman", "volume", "create", name)
    yield name
    store.call("podman", "volume", "rm", "--force", name)


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """An empty folder of this machine's that the image's user may write."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
