"""One gateway for tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.gateways import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found
