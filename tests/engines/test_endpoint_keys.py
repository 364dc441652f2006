"""Keys, addresses and proxies of endpoints: a key is sent to its server and kept nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.endpoints import ASK, RATES, Ask, status
from tests.servers import ANSWER, Endpoint, Script, chunk, serve, streams, usage_chunk
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import UsageError
from tokmagic.runs.session import Session

# Keys


@pytest.fixture
def with_key(session: Session, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-1234")
    session.models.add("m", ModelSpec("org/m", api_base=server.url, api_key_name="SOME_KEY"))
    session.prices.set("m", RATES)
    return session


def test_the_key_is_sent_and_kept_nowhere(with_key: Session, ask: Ask, server: Endpoint, tmp_path: Path) -> None:
    ask()
    assert server.last.headers["authorization"] == "Bearer sk-very-secret-1234"
    generation = ask(status(401, "Incorrect API key provided: sk-very-secret-1234"))
    assert "refuses the key" in str(generation.error)
    with_key.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    assert "sk-very-secret" not in str(generation.error)


def test_the_key_does_not_follow_a_redirect(with_key: Session, ask: Ask) -> None:
    with serve(streams(ANSWER)) as other:
        where = f"{other.url}/chat/completions"
        generation = ask(lambda _asked, wire: wire.answer(307, "", Location=where))
        assert generation.status == "failed"
        assert f"redirects to {where}" in str(generation.error)
        assert other.asked == []


@pytest.mark.parametrize(
    "script",
    [
        status(401, f"{'x' * 280} sk-very-secret-1234 is wrong"),
        lambda _asked, wire: wire.answer(200, {"error": {"message": "bad key sk-very-secret-1234"}}),
        streams([chunk("a"), {"error": {"message": "bad key sk-very-secret-1234"}}]),
        streams([chunk("a"), "garbage sk-very-secret-1234"]),
        lambda _asked, wire: wire.answer(307, "", Location="https://host/sk-very-secret-1234/v1"),
        streams([chunk("a"), chunk(reason="stop"), usage_chunk({"prompt_tokens": "sk-very-secret-1234"})]),
    ],
)
def test_a_key_that_the_server_repeats_is_blotted_out(with_key: Session, ask: Ask, script: Script) -> None:
    generation = ask(script)
    assert "sk-very-" not in str(generation.error)
    assert "sk-very-" not in str(generation.cost.anomaly)
    assert generation.error is not None or generation.cost.anomaly is not None


def test_a_key_in_the_place_of_its_variables_name_is_not_shown(session: Session, server: Endpoint) -> None:
    with pytest.raises(UsageError, match="not the key") as refused:
        session.models.add("bad", ModelSpec("org/m", api_base=server.url, api_key_name="sk-proj-abcdef"))
    assert "abcdef" not in str(refused.value)
    session.models.add("odd", ModelSpec("org/m", api_base=server.url, api_key_name="gsk_abcdef0123"))
    generation = session.generate(ASK, "odd")
    assert generation.status == "refused"
    assert "abcdef" not in str(generation.error)


@pytest.mark.parametrize(
    ("key", "says"),
    [(None, "not set"), ("", "empty"), ("  ", "empty"), ("sk-1\nX: y", "line break"), ("sk-1\n", "line break")],
)
def test_a_key_that_is_none_is_refused(
    with_key: Session, ask: Ask, server: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str | None, says: str
) -> None:
    if key is None:
        monkeypatch.delenv("SOME_KEY")
    else:
        monkeypatch.setenv("SOME_KEY", key)
    generation = ask()
    assert generation.status == "refused"
    assert says in str(generation.error)
    assert "sk-1" not in str(generation.error)
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://a b/v1",
        "http://host:99999/v1",
        "http://u:secret@host/v1",
        "h:8/v1?key=secret",
        "x",
    ],
)
def test_what_is_no_base_url_is_said_when_the_model_is_added(session: Session, url: str) -> None:
    with pytest.raises(UsageError, match="--api-base") as refused:
        session.models.add("bad", ModelSpec("org/m", api_base=url))
    assert "secret" not in str(refused.value)


def test_an_unknown_kind_of_server_is_refused(session: Session, server: Endpoint) -> None:
    with pytest.raises(UsageError, match="did you mean vllm"):
        session.models.add("bad", ModelSpec("org/m", api_base=server.url, server="vlm"))


def test_a_proxy_does_not_stand_before_this_machine(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask().status == "ok"


def test_a_proxy_that_is_none_is_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    session.models.add("far", ModelSpec("org/m", api_base="http://far.invalid/v1"))
    generation = session.generate(ASK, "far")
    assert generation.status == "failed"
    assert "ALL_PROXY" in str(generation.error)


def test_half_a_character_is_refused(ask: Ask) -> None:
    generation = ask(prompt=Prompt((Message("user", "a\ud800"),)))
    assert generation.status == "refused"
    assert "an incomplete character" in str(generation.error)
