"""tokmagic at servers of other people's making: the counts are theirs, and agree with this machine's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.peers.servers import Peer
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.runs.session import Session

pytestmark = [pytest.mark.outside, pytest.mark.model]

ASK = Prompt((Message("user", "Name three colours."),), Sampling(max_tokens=6, temperature=0.0))
Make = Callable[..., Session]


@pytest.fixture(params=["transformers_serve", "litellm_proxy"])
def peer(request: pytest.FixtureRequest) -> Peer:
    peer = request.getfixturevalue(request.param)
    assert isinstance(peer, Peer)
    return peer


@pytest.fixture
def session(peer: Peer, make_session: Make, model_home: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = make_session(home=str(model_home), cache=False)
    monkeypatch.setenv("PEER_KEY", peer.key or "none")
    kind = "transformers" if peer.key is None else "litellm"
    session.models.add("m", _spec(peer, server=kind))
    session.models.add("exact", ModelSpec("smollm2", dtype="bf16"))  # in the arithmetic of the servers' transformers
    session.prices.set("m", Rates(input=Decimal(1), output=Decimal(10), source="%price"))
    return session


def _spec(peer: Peer, **changed: str | None) -> ModelSpec:
    spec = ModelSpec(
        peer.model, api_base=peer.base_url, api_key_name="PEER_KEY" if peer.key else None, tokenizer="smollm2"
    )
    return replace(spec, **changed)  # type: ignore[arg-type]


def test_the_servers_model_says_what_the_same_model_says_here(session: Session, peer: Peer) -> None:
    there = session.generate(ASK, "m")
    here = session.generate(ASK, "exact")
    assert there.text == here.text
    assert there.usage.output_tokens == here.usage.output_tokens


def test_an_end_of_sequence_is_a_token(session: Session) -> None:
    prompt = Prompt((Message("user", "Say hi."),), Sampling(max_tokens=80, temperature=0.0))
    there, here = session.generate(prompt, "m"), session.generate(prompt, "exact")
    assert (there.finish_reason, there.usage.output_tokens) == ("stop", here.usage.output_tokens)


def test_a_completion(session: Session) -> None:
    prompt = Prompt((Message("user", "The sea is"),), Sampling(max_tokens=3, temperature=0.0), completion=True)
    there, here = session.generate(prompt, "m"), session.generate(prompt, "exact")
    assert (there.text, there.status) == (here.text, "ok")
    assert there.usage.output_tokens == here.usage.output_tokens == 3


def test_an_unknown_model_fails_in_one_line(session: Session, peer: Peer) -> None:
    session.models.add("no", _spec(peer, source="no-such-model"))
    generation = session.generate(ASK, "no")
    assert generation.status == "failed"
    assert "no-such-model" in str(generation.error)
    assert "\n" not in str(generation.error)
    assert generation.cost.usd in (0, None)


def test_an_option_that_the_server_refuses_fails_in_one_line(session: Session, peer: Peer) -> None:
    session.models.add("generic", _spec(peer, server="generic"))
    generation = session.generate(replace(ASK, sampling=replace(ASK.sampling, top_k=5)), "generic")
    assert generation.status == "failed"
    assert "422" in str(generation.error)


def test_a_broken_beginning_of_a_stream_is_told(session: Session, peer: Peer) -> None:
    """The server opens its stream, names the role, and then reports that it cannot go on."""
    session.models.add("generic", _spec(peer))
    bad = replace(ASK, sampling=replace(ASK.sampling, max_tokens=1))
    object.__setattr__(bad.sampling, "max_tokens", -1)  # what tokmagic itself would refuse
    generation = session.models.engine("generic").stream(bad)
    (finished,) = [event for event in generation if hasattr(event, "reasons")]
    assert finished.reasons == ("error",)
    assert ("greater than 0" if peer.key is None else "An error occurred during streaming") in str(finished.error)


def test_a_wrong_key_fails_and_is_not_shown(
    litellm_proxy: Peer, make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    monkeypatch.setenv("PEER_KEY", "sk-wrong-key-1234567")
    session.models.add("m", _spec(litellm_proxy))
    generation = session.generate(ASK, "m")
    assert generation.status == "failed"
    assert "sk-wrong-key-1234567" not in str(generation.error)


@pytest.mark.parametrize(("model", "says"), [("limited", "429"), ("broken", "500"), ("too-long", "400")])
def test_errors_of_the_proxy(
    litellm_proxy: Peer, make_session: Make, monkeypatch: pytest.MonkeyPatch, model: str, says: str
) -> None:
    session = make_session(attempts=2)
    monkeypatch.setenv("PEER_KEY", litellm_proxy.key or "")
    session.models.add("m", _spec(litellm_proxy, source=model))
    generation = session.generate(ASK, "m")
    assert generation.status == "failed"
    assert says in str(generation.error)
    assert generation.reading.attempts == (1 if model == "too-long" else 2)
