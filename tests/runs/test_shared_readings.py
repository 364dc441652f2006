"""The shared engine in the sidebar's head: a thread asks, every two seconds at most, while runs go on and once then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.serve.gateways import serving
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec, ServedModel, Share
from tokmagic.engines.registry import Models
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import EndpointError
from tokmagic.runs.session import Session
from tokmagic.runs.shared_readings import SharedReadings

PATIENCE_S = 30.0


class Remote(ScriptedEngine):
    """A model at an engine that answers when it is let."""

    rates = None

    def __init__(self, name: str) -> None:
        super().__init__(name, [Script.of_text(["Yes."])])
        self.asked = 0
        self.answer = threading.Semaphore(0)
        self.fails: Exception | None = None

    def served(self) -> list[ServedModel]:
        return []

    def share(self) -> Share:
        self.asked += 1
        assert self.answer.acquire(timeout=PATIENCE_S)
        if self.fails is not None:
            raise self.fails
        return Share(ServedModel("m", "ready", {"ada": self.asked}), running=self.asked)


class Desk:
    """Readings over one such model, by a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 50.0
        self.changes = threading.Semaphore(0)
        self.engine = Remote("m")
        self.models = Models(TokMagic(home=str(folder)))
        self.models.register(self.engine, ModelSpec("scripted"))
        self.slept: list[float] = []
        self.readings = SharedReadings(self.models, self.changes.release, lambda: self.now_s, self.slept.append)

    def running(self) -> int | None:
        reading = self.readings.of("m")
        return None if reading is None else reading.share.running

    def answered(self) -> None:
        """Let the server answer, and wait until that was told."""
        self.engine.answer.release()
        assert self.changes.acquire(timeout=PATIENCE_S)


def until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.engine.answer.release(10)


def test_a_look_waits_for_nobody_and_the_answer_is_told(desk: Desk) -> None:
    assert desk.running() is None
    assert desk.running() is None, "one question at a time"
    desk.answered()
    assert desk.running() == 1
    assert desk.engine.asked == 1


def test_a_server_is_asked_every_two_seconds_at_most(desk: Desk) -> None:
    desk.running()
    desk.now_s += 4  # it is slow: the message that tells of its answer asks no other question
    desk.answered()
    assert desk.running() == 1
    desk.now_s += 1.9
    assert (desk.running(), desk.engine.asked) == (1, 1)
    desk.now_s += 0.2
    assert desk.running() == 1, "until the next answer"
    desk.answered()
    assert desk.running() == 2


def test_after_a_run_it_is_asked_once_more_though_no_message_is_sent(desk: Desk) -> None:
    desk.running()
    desk.answered()
    desk.now_s += 0.5
    desk.readings.ended("m")
    desk.answered()
    assert (desk.running(), desk.engine.asked, desk.slept) == (2, 2, [1.5])
    desk.now_s += 30
    desk.readings.ended("m")
    desk.answered()
    assert (desk.running(), desk.engine.asked, desk.slept) == (3, 3, [1.5])


def test_a_run_that_ends_while_the_server_is_asked_is_asked_about_once_more(desk: Desk) -> None:
    desk.running()
    assert until(lambda: desk.engine.asked == 1)
    desk.readings.ended("m")
    desk.answered()
    desk.answered()
    assert (desk.running(), desk.engine.asked, desk.slept) == (2, 2, [2.0])


def test_a_run_of_a_model_that_is_not_shown_asks_nothing(desk: Desk) -> None:
    desk.readings.ended("m")
    desk.readings.ended("smollm2")
    assert desk.engine.asked == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [EndpointError("it is gone"), RuntimeError("nobody foresaw this")])
def test_one_that_fails_leaves_the_earlier_reading_tells_nothing_and_is_asked_again(
    desk: Desk, error: Exception
) -> None:
    desk.running()
    desk.answered()
    desk.engine.fails = error
    desk.now_s += 3
    desk.running()
    desk.engine.answer.release()
    assert until(lambda: not desk.readings._asking), "it has failed"
    assert not desk.changes.acquire(timeout=0.2)
    assert desk.running() == 1
    desk.engine.fails = None
    desk.now_s += 3
    assert until(lambda: desk.running() == 1 and desk.engine.asked == 3)
    desk.answered()
    assert desk.running() == 3


def test_another_model_has_no_reading_of_this_one(desk: Desk) -> None:
    desk.running()
    desk.answered()
    other = Remote("other")
    other.answer.release()
    desk.models.register(other, ModelSpec("scripted"))
    assert desk.readings.of("other") is None
    assert desk.readings.of("smollm2") is None


def test_a_session_tells_how_its_model_stands_at_a_gateway(
    tmp_path: Path, make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "served", usd=Decimal("0.5")) as served:
        monkeypatch.setenv("TOKMAGIC_ENGINE_KEY", served.secret)
        session = make_session(model="tiny", engine_url=served.url, cache=False)
        ran = session.generate(Prompt((Message("user", "Count."),), Sampling(max_tokens=5)))
        until = time.monotonic() + PATIENCE_S
        while (model := session.changes().model) is None or model.shared is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        share = model.shared.share
        assert (share.model.state, share.running, share.waiting, dict(share.model.users)) == ("ready", 0, 0, {})
        assert (share.key, share.team, share.cap_usd) == (served.key.name, served.key.team, Decimal("0.5"))
        assert ran.cost.usd is not None
        assert share.left_usd == Decimal("0.5") - ran.cost.usd
