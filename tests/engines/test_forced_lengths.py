"""Answers that go on past their end, for measurements: from a local model, and of servers that know how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engines.endpoints import GREEDY
from tests.engines.test_local_engine import ask, finished
from tokmagic.engines.endpoint.servers import SERVERS
from tokmagic.engines.endpoint.wire import request_of
from tokmagic.errors import UsageError


@pytest.mark.model
def test_an_answer_may_be_asked_to_go_on_past_its_end(smollm: Any) -> None:
    asked = ask("Answer with the one word yes.", max_tokens=16, temperature=0)
    short, long = finished(list(smollm.stream(asked))), finished(list(smollm.stream(replace(asked, ignore_eos=True))))
    assert (short.reasons, long.reasons) == (("stop",), ("length",))
    assert (short.usage.output_tokens or 16) < 16 == long.usage.output_tokens


def test_servers_that_know_it_are_asked_to_ignore_the_end() -> None:
    asked = replace(GREEDY, ignore_eos=True)
    assert "ignore_eos" not in request_of("m", GREEDY, SERVERS["generic"])
    for name, server in SERVERS.items():
        if name in ("openai", "google", "ollama", "tgi", "mlx", "transformers"):
            with pytest.raises(UsageError, match="this server ignores --ignore-eos; leave it out"):
                request_of("m", asked, server)
        else:
            assert request_of("m", asked, server)["ignore_eos"] is True
