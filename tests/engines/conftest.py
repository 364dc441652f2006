"""A scripted server on loopback, a session whose model ``m`` is there, and a question to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines.endpoints import ASK, RATES, Ask, Make
from tests.servers import ANSWER, Endpoint, Script, serve, streams
from tokmagic.core.prompt import Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(streams(ANSWER)) as endpoint:
        yield endpoint


@pytest.fixture
def session(make_session: Make, server: Endpoint) -> Session:
    session = make_session(first_token_timeout_s=5.0, silence_timeout_s=5.0, connect_timeout_s=5.0)
    session.models.add("m", ModelSpec("org/m", api_base=server.url))
    session.prices.set("m", RATES)
    return session


@pytest.fixture
def ask(session: Session, server: Endpoint) -> Ask:
    def run(script: Script | None = None, prompt: Prompt = ASK, **options: Any) -> Generation:
        if script is not None:
            server.script = script
        generation = session.generate(prompt, "m", **options)
        # What is given back is what the ledger holds.
        (row,) = (row for row in session.ledger().runs() if row.run_id == generation.run_id)
        assert row.reading.usage == generation.usage
        assert row.reading.cost.usd == generation.cost.usd
        assert row.status == generation.status
        return generation

    return run
