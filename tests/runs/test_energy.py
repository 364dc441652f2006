"""A run's energy: what its device's meter counted meanwhile, its share of it, and how surely it is known."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.nvml import GIB, Device, install
from tests.reports.test_tables import run
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EnergySum, EngineInfo, RunRecord
from tokmagic.core.stream import Energy, Finished, Source, Started, Token, Usage
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import ContextError
from tokmagic.reports.exports import export_row
from tokmagic.runs import run as execution
from tokmagic.runs.energy import Account, Accounts, Window
from tokmagic.runs.session import Session

Make = Callable[..., Session]
WATTS = 100.0


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> int:
        return round(self.now_s * 1e9)


@dataclass
class Meter:
    """A device that draws so many watts all the time."""

    clock: Clock
    shared: bool | None = False
    source: Source = "measured"
    resolution_s: float = 0.1
    name: str = "a meter"
    offset_j: float | None = 0.0

    def joules(self) -> float | None:
        return None if self.offset_j is None else self.offset_j + WATTS * self.clock.now_s

    def is_shared(self) -> bool | None:
        return self.shared


@dataclass
class Desk:
    clock: Clock
    meter: Meter
    account: Account

    def run(self, begin_s: float, model: str = "m") -> Window:
        """Begin a run whose prefill begins now."""
        self.clock.now_s = begin_s
        window = self.account.open(model)
        window.begin(self.clock())
        return window

    def end(self, window: Window, end_s: float, device_s: float | None, seen_s: float | None = None) -> Energy | None:
        """End a run; ``seen_s`` is when that is seen."""
        self.clock.now_s = end_s if seen_s is None else seen_s
        return window.end(round(end_s * 1e9), device_s)


@pytest.fixture
def desk() -> Desk:
    clock = Clock()
    meter = Meter(clock)
    return Desk(clock, meter, Account(meter, clock))


def told(energy: Energy | None) -> tuple[float, str, str]:
    assert energy is not None
    return round(energy.joules, 6), energy.source, energy.bound


def test_a_run_alone_has_all_that_the_device_took(desk: Desk) -> None:
    window = desk.run(10.0)
    assert told(desk.end(window, 14.0, 4.0)) == (400.0, "measured", "exact")
    assert desk.end(window, 15.0, 4.0) is None, "it has ended"


def test_it_is_what_was_taken_between_the_stamps_whenever_they_are_seen(desk: Desk) -> None:
    window = desk.account.open("m")
    desk.clock.now_s = 3.0  # it waited for so long
    window.begin(round(2.0e9))
    assert told(desk.end(window, 7.0, 5.0, seen_s=20.0)) == (500.0, "measured", "exact")


@pytest.mark.parametrize("shared", [True, None])
def test_a_device_that_others_use_or_may_use_gives_an_upper_bound(desk: Desk, shared: bool | None) -> None:
    desk.meter.shared = shared
    assert told(desk.end(desk.run(0.0), 5.0, 5.0)) == (500.0, "measured", "at_most")
    # Somebody came while it ran, or left.
    for before, after in ((False, shared), (shared, False)):
        desk.meter.shared = before
        window = desk.run(10.0)
        desk.meter.shared = after
        assert told(desk.end(window, 15.0, 5.0)) == (500.0, "measured", "at_most")


def test_runs_of_one_batch_share_the_energy_by_their_device_seconds(desk: Desk) -> None:
    one, two = desk.run(0.0), desk.run(0.0)
    assert told(desk.end(one, 4.0, 1.0)) == (100.0, "estimated", "exact")
    assert told(desk.end(two, 4.0, 3.0)) == (300.0, "estimated", "exact")


def test_runs_of_a_model_one_after_another_do_not_overlap(desk: Desk) -> None:
    one = desk.run(0.0)
    waiting = desk.account.open("m")
    assert told(desk.end(one, 4.0, 4.0)) == (400.0, "measured", "exact")
    waiting.begin(round(4.0e9))
    assert told(desk.end(waiting, 6.0, 2.0)) == (200.0, "measured", "exact")


def test_another_models_runs_at_the_same_time_make_it_an_upper_bound(desk: Desk) -> None:
    one, two = desk.run(0.0, "one"), desk.run(2.0, "two")
    assert told(desk.end(one, 4.0, 4.0)) == (400.0, "measured", "at_most")
    assert told(desk.end(two, 6.0, 4.0)) == (400.0, "measured", "at_most")
    three = desk.run(7.0, "one")
    assert told(desk.end(three, 9.0, 2.0)) == (200.0, "measured", "exact")


def test_a_run_too_short_for_its_meter_has_none_and_a_short_one_is_marked(desk: Desk) -> None:
    assert desk.end(desk.run(0.0), 0.19, 0.19) is None
    assert told(desk.end(desk.run(1.0), 1.9, 0.9)) == (90.0, "estimated", "exact")
    assert told(desk.end(desk.run(2.0), 3.0, 1.0)) == (100.0, "measured", "exact")


def test_a_counter_that_stands_still_is_unknown_and_not_0(desk: Desk) -> None:
    window = desk.run(0.0)
    desk.meter.offset_j = -500.0
    assert desk.end(window, 5.0, 5.0) is None


def test_a_counter_that_cannot_be_read_or_begins_anew_gives_none(desk: Desk) -> None:
    desk.meter.offset_j = None
    assert desk.end(desk.run(0.0), 5.0, 5.0) is None
    desk.meter.offset_j = 10_000.0
    window = desk.run(10.0)
    desk.meter.offset_j = -1000.0
    assert desk.end(window, 15.0, 5.0) is None
    assert told(desk.end(desk.run(20.0), 25.0, 5.0)) == (500.0, "measured", "exact")


def test_without_device_seconds_all_of_it_is_an_upper_bound(desk: Desk) -> None:
    assert told(desk.end(desk.run(0.0), 5.0, None)) == (500.0, "measured", "at_most")


Following = Callable[[], list[threading.Thread]]


def threads() -> list[threading.Thread]:
    return [it for it in threading.enumerate() if it.name == "tokmagic-energy"]


@pytest.fixture
def following() -> Following:
    """The threads that follow a device since the test began; one of another test may be about to end."""
    before = threads()
    return lambda: [it for it in threads() if it not in before]


def test_a_device_is_followed_while_runs_go_on_alone(desk: Desk, following: Following) -> None:
    asked = threading.Event()
    joules = desk.meter.joules
    one, two = desk.run(0.0), desk.run(0.0)
    (thread,) = following()
    # The thread reads by itself.
    desk.meter.joules = lambda: (asked.set(), joules())[1]  # type: ignore[method-assign]
    assert asked.wait(60)
    desk.end(one, 2.0, 1.0)
    assert thread.is_alive()
    two.drop()
    thread.join(60)
    assert not thread.is_alive()
    assert following() == []


ASK = Prompt((Message("user", "Hi"),))


class Local(ScriptedEngine):
    """Scripts that pass for a model on a device."""

    def __init__(self, name: str, device: str, *scripts: Script) -> None:
        super().__init__(name, scripts)
        self._device = device

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(self._name, "org/model", "local", device=self._device)


def answer(device_s: float, tokens: int = 4, error: str | None = None) -> Script:
    usage = Usage.measured(7, 0)
    stamps = [round(device_s * 1e9 * (number + 1) / tokens) for number in range(tokens)]
    pieces = [Token(stamp, "a ", number) for number, stamp in enumerate(stamps)]
    ended = Finished(stamps[-1], ("length",), replace(usage, output_tokens=tokens), device_s=device_s)
    return Script((Started(0, usage, 0), *pieces, *([] if error else [ended])), pace=1.0, error=error)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU that draws 100 W by its counter, the only user of which is this process."""
    began = time.perf_counter()
    energy = lambda: round(1000 * WATTS * (time.perf_counter() - began))  # noqa: E731
    board = Device(energy=energy, processes={os.getpid(): GIB})
    install(monkeypatch, board)
    monkeypatch.delitem(sys.modules, "tokmagic.engines.local.device", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(execution, "ACCOUNTS", Accounts())
    return board


def generated(session: Session, engine: Local) -> RunRecord:
    session.models.add(engine.info.name, session.models.spec("scripted"))
    session.models._engines[engine.info.name] = engine
    session.generate(ASK, engine.info.name)
    return session.ledger().runs()[-1]


def test_the_row_and_its_export_have_the_energy_of_the_run(board: Device, make_session: Make) -> None:
    session = make_session()
    row = generated(session, Local("m", "cuda:0", answer(0.6)))
    assert row.energy_j == pytest.approx(60, rel=0.2)
    assert (row.energy_source, row.energy_bound) == ("estimated", "exact"), "a short run"
    exported = export_row(row)
    assert exported["energy_j"] == row.energy_j
    assert exported["env"]["energy"] == {
        "meter": "NVML energy counter",
        "source": "estimated",
        "bound": "exact",
        "per_output_token_j": pytest.approx(row.energy_j / 4),
    }
    json.dumps(exported)


def test_a_shared_gpu_and_a_run_that_fails(board: Device, make_session: Make) -> None:
    board.processes = {os.getpid(): GIB, 17: GIB}
    session = make_session()
    row = generated(session, Local("m", "cuda:0", answer(0.5, error="it broke")))
    assert (row.status, row.energy_bound) == ("failed", "at_most")
    assert row.energy_j is not None
    assert row.energy_j > 0


@pytest.mark.parametrize(("device", "engine"), [("cuda:1", Local), ("none", Local), ("cuda:0", ScriptedEngine)])
def test_a_run_that_has_no_meter_has_no_energy(
    board: Device, make_session: Make, device: str, engine: Any, following: Following
) -> None:
    made = Local("m", device, answer(0.3))
    if engine is ScriptedEngine:
        made = ScriptedEngine("m", [answer(0.3)])  # type: ignore[assignment]
    row = generated(make_session(), made)
    assert row.status == "ok"
    assert (row.energy_j, row.energy_source, row.energy_bound) == (None, None, None)
    assert "energy" not in row.env
    assert following() == []


def test_what_another_machine_measured_is_the_runs(board: Device, make_session: Make) -> None:
    whole = answer(0.3)
    last = whole.events[-1]
    assert isinstance(last, Finished)
    there = Energy(2.5, "measured", "at_most", "RAPL")
    engine = ScriptedEngine("m", [replace(whole, events=(*whole.events[:-1], replace(last, energy=there)))])
    row = generated(make_session(), engine)  # type: ignore[arg-type]
    assert (row.energy_j, row.energy_source, row.energy_bound) == (2.5, "measured", "at_most")
    assert row.env["energy"]["meter"] == "RAPL"


class Refusing(Local):
    def stream(self, prompt: Prompt) -> Any:
        raise ContextError(f"{len(prompt.messages)} message is too long")


def test_a_refused_run_took_nothing_and_leaves_nothing_behind(
    board: Device, make_session: Make, following: Following
) -> None:
    row = generated(make_session(), Refusing("m", "cuda:0", answer(0.5)))
    assert (row.status, row.energy_j, row.energy_bound) == ("refused", None, None)
    for thread in following():
        thread.join(60)
    assert following() == []


def test_sums_of_energy_are_as_sure_as_their_parts() -> None:
    def took(joules: float | None, source: Source | None, bound: Any, output_tokens: int | None = 4) -> RunRecord:
        made = run("r", energy_j=joules, energy_source=source, energy_bound=bound)
        usage = replace(made.reading.usage, output_tokens=output_tokens)
        return replace(made, reading=replace(made.reading, usage=usage))

    runs = [took(8.0, "measured", "exact"), took(None, None, None), took(2.0, "measured", "exact", None)]
    exact = EnergySum.of(runs)
    assert (exact.runs, exact.joules, exact.per_output_token_j, exact.precision) == (2, 10.0, 2.0, (False, "exact"))
    assert EnergySum.of([*runs, took(1.0, "measured", "at_most")]).precision == (False, "at_most")
    assert EnergySum.of([*runs, took(1.0, "estimated", "exact")]).precision == (True, "exact")
    assert EnergySum.of([]).per_output_token_j is None
