"""Where a server counts otherwise than this machine, the sidebar and the doctor say by how much and since when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.probes import ON_CPU
from tests.servers import chunk, serve, streams, usage_chunk
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.health import doctor
from tokmagic.runs.session import Session
from tokmagic.tokens.reconciliation import COMPARED, Compared, disagreement

START = datetime(2026, 11, 24, 9, 15, tzinfo=UTC)
ASK = Prompt((Message("user", "Hi"),))
Make = Callable[..., Session]


def compared(*apart: int) -> list[Compared]:
    """Runs whose server counted so many tokens more than this machine, newest first."""
    return [Compared(START - timedelta(minutes=number), 100, 100 + more) for number, more in enumerate(apart)]


@pytest.mark.parametrize(
    ("apart", "says"),
    [
        ((2, 2), "2 tokens more than the tokenizer here, in each run since"),
        ((1,), "1 token more"),
        ((-3, 0, -1), "1 to 3 tokens fewer than the tokenizer here, in 2 of 3 runs since"),
        ((2, -3), "up to 3 tokens fewer and 2 more"),
    ],
)
def test_a_difference_is_told_with_its_size_and_how_often(apart: tuple[int, ...], says: str) -> None:
    found = disagreement(compared(*apart))
    assert found is not None
    assert says in found
    oldest = START - timedelta(minutes=max(number for number, more in enumerate(apart) if more))
    assert found.endswith(f" since {oldest.astimezone():%Y-%m-%d %H:%M}")


def test_where_all_agree_there_is_nothing_to_tell() -> None:
    assert disagreement(compared(0, 0)) is None
    assert disagreement([]) is None


@pytest.mark.slow
@pytest.mark.model
def test_the_sidebar_and_the_doctor_tell(make_session: Make, model_home: Path, sqlite_url: str) -> None:
    session = make_session(home=str(model_home))
    own = session.models.engine("smollm2").count(ASK)

    def ask(tokens: int) -> str | None:
        usage = {"prompt_tokens": tokens, "completion_tokens": 1}
        with serve(streams([chunk("Hi"), chunk(reason="stop"), usage_chunk(usage)])) as server:
            session.models.add("m", ModelSpec("org/m", api_base=server.url, tokenizer="smollm2"))
            session.generate(ASK, "m")
        model = session.changes().model
        assert model is not None
        return model.notice

    def told() -> list[str]:
        found = doctor(TokMagic(home=str(model_home), ledger=sqlite_url), ON_CPU).findings
        return [it.message for it in found if it.name == "tokens of org/m"]

    assert ask(own) is None
    assert told() == []
    notice = ask(own + 2)
    assert notice is not None
    assert "2 tokens more" in notice
    assert "in 1 of 2 runs" in notice
    assert told() == [notice]
    assert COMPARED == 100


@pytest.mark.model
def test_estimates_are_not_compared(make_session: Make) -> None:
    session = make_session()
    with serve(streams([chunk("Hi"), chunk(reason="stop"), usage_chunk()])) as server:
        session.models.add("m", ModelSpec("org/m", api_base=server.url))
        record = session.generate(ASK, "m").record
    assert record.local_input_tokens is None
    assert session.ledger().compared("org/m") == []
