"""Kernel ↔ sidebar: messages, coalesced to at most 20 a second, the last reading always sent.

Data goes out on a comm that the kernel opens; the sidebar asks on a control comm that it opens itself
and that only its own handler answers, since a message is routed to whichever loop last sent on a comm.
A panel in a cell's output has a way of its own: what it is sent is what the sidebar is.
Snapshots are cumulative, so a lost one does no harm. What it shows is asked for when there is something to show, so
that opening it imports next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

from tokmagic.core.forks import in_child
from tokmagic.errors import TokmagicError

if TYPE_CHECKING:
    from tokmagic.runs.live import View
    from tokmagic.runs.session import Session

VERSION = 1
DATA_TARGET = "tokmagic.data"
CONTROL_TARGET = "tokmagic.control"
Send = Callable[[dict[str, Any]], None]
_QUESTIONS = ("draft", "detail", "forecast", "totals")
INTERVAL_S = 0.1
"""The pause after each message: ten a second, half of what is allowed a kernel, is quick enough for the eye."""
RUNNING_S = 1.0
"""How long a run may go on without a word: until its first token nothing changes but what its device costs."""
MINUTE_S = 60.0
"""How long after midnight a sidebar may still show the sums of the day before, where nothing runs."""


def local_day() -> date:
    """The day that it is here."""
    return date.today()


class Channel:
    """The kernel's end. ``touch`` is what the pipeline calls, from the thread that generates: it only sets a flag."""

    def __init__(self, session_id: str, session: Callable[[], Session]) -> None:
        self.session_id = session_id
        self._session = session
        self._seq = 0
        self._looking = threading.Lock()
        self._state = threading.Condition()
        self._changed = self._sending = False
        self._next_at, self._day = 0.0, local_day()
        self._open = False  # whether the thread runs
        self._answers = False  # whether sidebars can ask
        self._thread: threading.Thread | None = None
        self._data: Any = None
        self._controls: list[Any] = []
        self._listeners: list[Send] = []
        in_child(self._renew)

    def _renew(self) -> None:
        # In a forked child there is no sidebar: the sockets are its parent's.
        self._looking, self._state = threading.Lock(), threading.Condition()
        self._open, self._answers, self._thread = False, False, None
        self._data, self._controls, self._listeners = None, [], []

    @property
    def listens(self) -> bool:
        """Whether views are asked for: where there is neither a kernel nor a panel nobody is sent any."""
        return self._open

    def open(self, *, heard: bool = True) -> None:
        """Answer sidebars, and where they may be ``heard`` send to them. Does nothing outside a kernel."""
        import comm

        if self._answers or comm.create_comm is comm._create_comm:
            return
        comm.get_comm_manager().register_target(CONTROL_TARGET, self._on_control_open)
        self._answers = True
        if heard:
            self.announce()
        self._start()

    def _start(self) -> None:
        with self._state:
            if not self._open:
                self._open = True
                self._thread = threading.Thread(target=self._pump, name="tokmagic-live", daemon=True)
                self._thread.start()

    def add_listener(self, send: Send) -> None:
        """Send what sidebars are sent to ``send`` too, from a thread of the channel's own."""
        with self._state:
            if send not in self._listeners:
                self._listeners = [*self._listeners, send]
        self._start()

    def remove_listener(self, send: Send) -> None:
        """Send nothing more to ``send``; one that is not listened to is left alone."""
        with self._state:
            self._listeners = [it for it in self._listeners if it != send]

    def announce(self) -> None:
        """Open the data comm, if it is not open yet: a front end may be there to hear it.

        Not before: nbconvert and papermill warn of each comm that they do not know.
        """
        import comm

        with self._state:
            if self._answers and self._data is None:
                about = {"v": VERSION, "type": "open", "session": self.session_id}
                self._data = comm.create_comm(target_name=DATA_TARGET, data=about)

    def close(self) -> None:
        """Send what is left and stop."""
        import comm

        if not self._open or self._thread is None:
            return
        self.flush()
        with self._state:
            self._open = False
            self._state.notify_all()
        self._thread.join()
        if self._answers:
            comm.get_comm_manager().unregister_target(CONTROL_TARGET, self._on_control_open)
        for it in (*self._controls, *([self._data] if self._data is not None else [])):
            it.close()
        self._answers, self._controls, self._data, self._listeners = False, [], None, []

    def touch(self) -> None:
        """Something changed: a message goes out within the interval."""
        # Seen without the lock: a flag that is still up belongs to a look that has yet to come.
        if self._open and not self._changed:
            with self._state:
                self._changed = True
                self._state.notify_all()

    def flush(self, timeout_s: float = 1.0) -> None:
        """Wait until the last change has been sent."""
        with self._state:
            self._state.wait_for(lambda: not self._open or not (self._changed or self._sending), timeout_s)

    def _pump(self) -> None:
        patience_s: float | None = None
        while self._wait_for_change(patience_s):
            try:
                message = self._message(lambda: self._session().changes(), complete=False)
            except Exception as error:
                # The next look may well succeed; a sidebar that stands still must say why.
                message = _error_wire(f"{type(error).__name__}: {error}")
            for send in (*([self._data.send] if self._data is not None else ()), *self._listeners):
                send(message)
            running = any(row["status"] == "running" for row in message.get("rows", ()))
            patience_s = RUNNING_S if running else None
            with self._state:
                self._next_at = time.monotonic() + INTERVAL_S
                self._sending = False
                self._state.notify_all()

    def _wait_for_change(self, patience_s: float | None) -> bool:
        """Wait for a change, not longer than ``patience_s``, and for the interval to be over; False at the end.

        A new day is a change: today's sums begin anew. It is looked for and not waited for, since computers sleep.
        """
        with self._state:
            while not self._state.wait_for(lambda: self._changed or not self._open, patience_s or MINUTE_S):
                if patience_s is not None or self._day != local_day():
                    break
            while self._open and (left := self._next_at - time.monotonic()) > 0:
                self._state.wait(left)
            # Taken down before the look: a change during the look makes one more message, never one less. One that is
            # closed before it could say so still says it.
            self._sending, self._changed = self._open or self._changed, False
            return self._sending

    def _message(self, look: Callable[[], View], *, complete: bool) -> dict[str, Any]:
        # One look at a time: of two messages, the one with the higher number never shows an older state.
        with self._looking:
            self._seq, self._day = self._seq + 1, local_day()
            return look().wire(session=self.session_id, seq=self._seq, complete=complete)

    def _on_control_open(self, control: Any, _message: Any) -> None:
        self.announce()
        self._controls.append(control)
        control.on_close(lambda _message: self._controls.remove(control))
        control.on_msg(lambda message: self.answer(control.comm_id, message["content"]["data"], control.send))

    def answer(self, page: str, request: Any, send: Send) -> None:
        """Do what a page asks, and ``send`` it the answer; a question that is none is answered with an error."""
        try:
            reply = self._answer(page, request, send)
        except TokmagicError as error:
            reply = _error_wire(str(error), to=request)
        except Exception as error:
            # Who asked waits for an answer all the same.
            reply = _error_wire(f"{type(error).__name__}: {' '.join(str(error).split())}", to=request)
        if reply is not None:
            send(reply)

    def _answer(self, page: str, request: Any, send: Send) -> dict[str, Any] | None:
        kind = request.get("type") if isinstance(request, dict) and request.get("v") == VERSION else None
        if kind == "hello":
            path = request.get("path") if isinstance(request.get("path"), str) else None
            widgets = request.get("widgets") is True
            return self._message(lambda: self._session().everything(path, widgets), complete=True)
        if kind == "stop":
            self._session().stop(str(request.get("run_id")))
            return None
        if kind == "draft":
            self._session().draft(page, request, send)
            return None
        if kind == "forecast":
            self._session().forecast(page, request, send)
            return None
        if kind == "totals":
            return self._session().totals(request)
        if kind == "detail":
            return self._session().detail(request)
        return _error_wire(f"this kernel's tokmagic does not know {kind!r}; reload the page")


def _error_wire(message: str, to: Any = None) -> dict[str, Any]:
    """An error, with the kind of question ``to`` which it is the answer, where that one is about one thing."""
    told = {"v": VERSION, "type": "error", "message": message}
    kind = to.get("type") if isinstance(to, dict) else None
    return told | ({"to": kind} if kind in _QUESTIONS else {})
