"""Ray, where it is installed: it is no part of ``tokmagic[all]``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.peers.servers import NotInstalledError
from tests.pool.pools import python


@pytest.fixture(scope="session")
def pool_python() -> Path:
    """The Python that runs a pool; without Ray the test is skipped, except in CI, where it fails."""
    try:
        return python()
    except NotInstalledError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
