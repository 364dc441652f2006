"""Answers that go on past their end, for measurements: from a local model, and of servers that know how."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.engines.endpoints import GREEDY
from tests.engines.test_local_engine import ask, finished
from tokmagic.core.stream import Token
from tokmagic.engines.endpoint.servers import SERVERS
from tokmagic.engines.endpoint.wire import request_of
from tokmagic.errors import UsageError


@pytest.mark.slow
@pytest.mark.model
def test_an_answer_may_be_asked_to_go_on_past_its_end(smollm: Any) -> None:
    asked = ask("Answer with the one word yes.", max_tokens=16, temperature=0)
    short, long = finished(list(smollm.stream(asked))), finished(list(smollm.stream(replace(asked, ignore_eos=True))))
    assert (short.reasons, long.reasons) == (("stop",), ("length",))
    assert (short.usage.output_tokens or 16) < 16 == long.usage.output_tokens


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("extra", [{}, {"temperature": 0.7, "n": 3, "seed": 7}, {"repetition_penalty": 1.1}])
def test_an_answer_has_so_many_tokens_at_least(smollm: Any, extra: dict[str, Any]) -> None:
    """The end may come right after them, and is counted as ever."""
    asked = ask("Answer with the one word yes.", **{"max_tokens": 40, "temperature": 0, **extra})
    done = finished(events := list(smollm.stream(replace(asked, min_tokens=14))))
    counts = Counter(it.choice for it in events if isinstance(it, Token))
    assert len(counts) == asked.sampling.n
    assert all(14 < counts[choice] <= 40 for choice in counts)
    assert done.usage.output_tokens == counts.total()
    if not extra:  # by itself it ends sooner, and past the least it ends by itself
        short = finished(list(smollm.stream(asked)))
        assert (short.usage.output_tokens or 40) < 14
        assert (done.reasons, counts[0] < 40) == (("stop",), True)


@pytest.mark.slow
@pytest.mark.model
def test_answers_in_one_batch_each_have_their_own_least(smollm: Any) -> None:
    asked = [ask(f"Answer with the one word {word}.", max_tokens=30, temperature=0) for word in ("yes", "no", "red")]
    least = [0, 9, 20]
    streams = [smollm.stream(replace(it, min_tokens=tokens)) for it, tokens in zip(asked, least, strict=True)]
    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(list, streams))
    for events, tokens in zip(heard, least, strict=True):
        ids = [it.id for it in events if isinstance(it, Token)]
        assert len(ids) == finished(events).usage.output_tokens > tokens
        # The id of the end is the last one, or none.
        assert 2 not in ids[:-1]


def test_servers_that_know_it_are_asked_to_ignore_the_end() -> None:
    asked = replace(GREEDY, ignore_eos=True)
    assert "ignore_eos" not in request_of("m", GREEDY, SERVERS["generic"])
    for name, server in SERVERS.items():
        if name in ("openai", "google", "ollama", "tgi", "mlx", "transformers"):
            with pytest.raises(UsageError, match="this server ignores --ignore-eos; leave it out"):
                request_of("m", asked, server)
        else:
            assert request_of("m", asked, server)["ignore_eos"] is True


def test_servers_that_know_it_are_asked_for_the_least() -> None:
    asked = replace(GREEDY, min_tokens=3)
    assert "min_tokens" not in request_of("m", GREEDY, SERVERS["generic"])
    for name, server in SERVERS.items():
        if name in ("openai", "google", "ollama", "tgi", "mlx", "transformers", "llama.cpp"):
            with pytest.raises(UsageError, match="this server ignores min_tokens; leave it out"):
                request_of("m", asked, server)
        else:
            assert request_of("m", asked, server)["min_tokens"] == 3
