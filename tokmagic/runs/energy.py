"""The energy of a run: what its device's meter counted while the device worked for it (docs/metrics.md, "Energy").

While runs go on, a thread reads the meter ten times a second, so that the energy between any two instants is known
afterwards: an event may be seen long after it was stamped, and a meter that only tells the power has to be followed.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from tokmagic.core.forks import in_child
from tokmagic.core.metered import Metered
from tokmagic.core.money import Bound
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Energy, Source
from tokmagic.engines.energy import Meter, energy_meter

READ_EVERY_S = 0.1
_WHOLE = 0.95
"""A run that has at least this share of the time between its begin and its end had the device to itself."""
_MARKED, _TOLD = 10, 2
"""A run shorter than so many times a meter's resolution is marked as estimated, or has no energy."""


class Account:
    """One device's energy over time, for the runs that go on there."""

    def __init__(self, meter: Meter, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._meter = meter
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._times_ns, self._joules = array("q"), array("d")
        self._open: list[Window] = []
        self._idle: threading.Event | None = None

    def open(self, model: str) -> Window:
        """Begin to follow the device for a run of a model, before the engine is given the prompt."""
        shared = self._meter.is_shared()
        with self._lock:
            window = Window(self, model, self._clock_ns(), shared is not False)
            for other in self._open:
                other.beside.append(window)
                window.beside.append(other)
            self._open.append(window)
            self._read()
            if self._idle is None:
                self._idle = threading.Event()
                threading.Thread(target=self._follow, args=[self._idle], name="tokmagic-energy", daemon=True).start()
        return window

    def _follow(self, idle: threading.Event) -> None:
        while not idle.wait(READ_EVERY_S):
            with self._lock:
                if not idle.is_set():
                    self._read()

    def _read(self) -> None:
        joules = self._meter.joules()
        # A counter that goes back was set to 0: what lies before it is not comparable.
        if joules is not None and self._joules and joules < self._joules[-1]:
            del self._times_ns[:], self._joules[:]
        if joules is not None:
            self._times_ns.append(self._clock_ns())
            self._joules.append(joules)

    def close(self, window: Window, end_ns: int | None, device_s: float | None) -> Energy | None:
        """Stop to follow the device for a run, and return what it took until an instant; None: until now."""
        end_ns = self._clock_ns() if end_ns is None else end_ns
        shared = window.shared or self._meter.is_shared() is not False
        with self._lock:
            self._read()
            joules = self._between(window.begin_ns, end_ns)
            window.end_ns = end_ns
            self._leave(window)
        seconds = (end_ns - window.begin_ns) / 1e9
        if joules is None or joules <= 0 or seconds < _TOLD * self._meter.resolution_s:
            return None
        source: Source = self._meter.source if seconds >= _MARKED * self._meter.resolution_s else "estimated"
        share = 1.0 if device_s is None else min(1.0, device_s / seconds)
        if share < _WHOLE:
            joules, source = joules * share, "estimated"
        # The seconds of a run of another model are not shared out with this one's.
        beside = any(other.overlaps(window) for other in window.beside if other.model != window.model)
        window.beside.clear()  # else each would keep those before it for ever
        bound: Bound = "at_most" if shared or beside or device_s is None else "exact"
        return Energy(joules, source, bound, self._meter.name)

    def drop(self, window: Window) -> None:
        """Stop to follow the device for a run that did not come to it."""
        with self._lock:
            self._leave(window)

    def _leave(self, window: Window) -> None:
        self._open.remove(window)
        if not self._open and self._idle is not None:
            self._idle.set()
            self._idle = None
        # What lies before the begin of all that go on is of no use any more, but for the last reading of it.
        first_ns = min((it.begin_ns for it in self._open), default=None)
        old = len(self._times_ns) if first_ns is None else max(0, bisect_right(self._times_ns, first_ns) - 1)
        del self._times_ns[:old], self._joules[:old]

    def _between(self, begin_ns: int, end_ns: int) -> float | None:
        begin, end = self._at(begin_ns), self._at(end_ns)
        return None if begin is None or end is None else end - begin

    def _at(self, at_ns: int) -> float | None:
        """The counter's state at an instant, by interpolation; None before it was first read."""
        times, joules = self._times_ns, self._joules
        after = bisect_right(times, at_ns)
        if after == 0:
            return None
        if after == len(times):
            return joules[-1]
        span_ns = times[after] - times[after - 1]
        return joules[after - 1] + (joules[after] - joules[after - 1]) * (at_ns - times[after - 1]) / span_ns


class Window:
    """The time of one run on a device, between stamps of ``time.perf_counter_ns``."""

    def __init__(self, account: Account, model: str, begin_ns: int, shared: bool) -> None:
        self.model = model
        self.begin_ns = begin_ns
        self.end_ns: int | None = None
        self.shared = shared
        self.beside: list[Window] = []
        """Those that were open while this one was."""
        self._account: Account | None = account

    def begin(self, prefill_ns: int | None) -> None:
        """The device begins to work for the run at this instant, which may have passed; None: not known."""
        if prefill_ns is not None:
            self.begin_ns = max(self.begin_ns, prefill_ns)

    def end(self, end_ns: int | None, device_s: float | None) -> Energy | None:
        """Return what the run took until it ended; an end that is not known is now. A second call returns None."""
        account, self._account = self._account, None
        if account is None:
            return None
        return account.close(self, end_ns, device_s)

    def drop(self) -> None:
        """The run took nothing of the device."""
        account, self._account = self._account, None
        if account is not None:
            account.drop(self)

    def overlaps(self, other: Window) -> bool:
        """Whether both had the device at one time; one that goes on has it until now."""
        ends = [it.end_ns for it in (self, other)]
        return (ends[1] is None or self.begin_ns < ends[1]) and (ends[0] is None or other.begin_ns < ends[0])


class Accounts:
    """The devices of this process, each looked for once: whichever session runs on it, its meter counts all."""

    def __init__(self, meter_of: Callable[[str], Meter | None] = energy_meter) -> None:
        self._meter_of = meter_of
        self._lock = threading.Lock()
        self._found: dict[str, Account | None] = {}
        in_child(self._renew)

    def _renew(self) -> None:
        # The thread that follows a device is the parent's.
        self._lock, self._found = threading.Lock(), {}

    def open(self, info: EngineInfo) -> Window | None:
        """Begin to follow the device of a run; None where it is not this machine's, or has no meter."""
        device = info.device
        if not info.traits.has_weights or device is None:
            return None
        with self._lock:
            if device not in self._found:
                meter = self._meter_of(device)
                self._found[device] = None if meter is None else Account(meter)
            account = self._found[device]
        return None if account is None else account.open(info.name)


ACCOUNTS = Accounts()
"""Those of this process."""


def metered_energy(metered: Metered) -> Energy | None:
    """The energy that a shared engine tells of; its meter is one of the server's machine."""
    if metered.energy_j is None:
        return None
    return Energy(metered.energy_j, metered.energy_source or "reported", metered.energy_bound or "exact", "server")


def told_of(energy: Energy, output_tokens: int | None) -> dict[str, Any]:
    """What an export says of a run's energy, beside the joules."""
    told: dict[str, Any] = {"meter": energy.meter, "source": energy.source, "bound": energy.bound}
    return told | ({"per_output_token_j": energy.joules / output_tokens} if output_tokens else {})
