"""What ``%model`` tells of shared engines, in words."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.serve.gateways import RATES, Served, scripted, serving
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ServedModel, Shared
from tokmagic.engines.registry import shared_spec
from tokmagic.errors import UsageError
from tokmagic.magics.magics import TokMagics
from tokmagic.magics.shared import in_words, notes, told_of
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving(tmp_path / "there", scripted(), scripted("other")) as found:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", found.secret)
        yield found


@pytest.fixture
def session(make_session: Make) -> Session:
    return make_session(model="scripted")


@pytest.fixture
def magics(session: Session) -> Iterator[TokMagics]:
    shell = InteractiveShell()
    yield TokMagics(shell, session)
    shell.history_manager.end_session()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (ServedModel("m", "ready", {}), "loaded, idle"),
        (ServedModel("m", "unloaded", {}), "unloaded, idle"),
        (ServedModel("m", "ready", {"ada": 2, "bob": 1}), "loaded, in use: ada (2 requests), bob (1 request)"),
        (ServedModel("m", "", {"": 1}), "—, in use: somebody (1 request)"),
    ],
)
def test_a_served_model_in_words(model: ServedModel, words: str) -> None:
    assert in_words(model) == words


def test_each_server_is_asked_once_and_one_that_is_away_is_said(
    tmp_path: Path, make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
    with serving(tmp_path, scripted(), scripted("other")) as served:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
        session = make_session()
        assert list(notes(session)) == []
        for name, source, url in (("a", "tiny", served.url), ("b", "other", served.url), ("c", "tiny", away)):
            session.models.add(name, shared_spec(source, url))
        here, gone = notes(session)
        assert here == f"shared engine {served.url}: tiny (loaded, idle); other (loaded, idle)"
        assert gone.startswith(f"shared engine: {away} cannot be reached: nothing listens there")
        engine = session.models.engine("b")
        assert isinstance(engine, Shared)
        assert told_of(engine, "other") == "loaded, idle"
        assert told_of(engine, "third") == "not served"


def test_a_name_that_the_engine_does_not_know_is_not_added(served: Served, magics: TokMagics, session: Session) -> None:
    magics.model(f"add far other --engine {served.url}")
    before = dict(session.models)
    for name in ("far", "near"):
        with pytest.raises(UsageError) as told:
            magics.model(f"add {name} tinny --engine {served.url}")
        assert str(told.value) == (
            f"model 'tinny' is not served at {served.url} (did you mean tiny?); served: tiny, other"
        )
    assert dict(session.models) == before


@pytest.mark.parametrize(("key", "words"), [("tm-any", "cannot be reached"), (None, "_KEY is not set")])
def test_a_model_of_an_engine_that_cannot_be_asked_is_added(
    key: str | None, words: str, magics: TokMagics, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key is not None:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", key)
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert words in magics.model(f"add far tiny --engine {away}").note
    assert session.models.spec("far").shared


def test_the_rates_that_the_engine_charges_are_shown(served: Served, magics: TokMagics, session: Session) -> None:
    magics.model(f"add far tiny --engine {served.url}")

    def rows(line: str) -> list[tuple[str, str, str]]:
        table = magics.price(line).as_dicts()
        return [(it["model"], it["input /1M"], it["source"]) for it in table if it["model"] in ("far", "  there")]

    assert rows("") == [("far", "—", "its shared engine's; %price far asks for them")]
    assert rows("far") == rows("") == [("far", "$1.00", "shared engine: test")]
    own = [("far", "$5.00", "%price"), ("  there", "$1.00", "shared engine: test")]
    assert rows("far --input 5 --output 6") == rows("far") == own
    # What is charged there was set anew, and its next answer says so.
    served.gateway.prices.set("tiny", replace(RATES, input=Decimal(3)))
    session.generate(Prompt((Message("user", "Count."),)), "far")
    assert rows("far off") == [("far", "$3.00", "shared engine: test")]
