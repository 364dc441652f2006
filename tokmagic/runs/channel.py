"""Kernel ↔ sidebar: messages, coalesced to at most 20 a second, the last reading always sent.

Data goes out on a comm that the kernel opens; the sidebar asks on a control comm that it opens itself
and that only its own handler answers, since a message is routed to whichever loop last sent on a comm.
Snapshots are cumulative, so a lost one does no harm. What it shows is asked for when there is something to show, so
that opening it imports next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tokmagic.core.forks import in_child
from tokmagic.errors import TokmagicError

if TYPE_CHECKING:
    from tokmagic.runs.live import View
    from tokmagic.runs.session import Session

VERSION = 1
DATA_TARGET = "tokmagic.data"
CONTROL_TARGET = "tokmagic.control"
INTERVAL_S = 0.1
"""The pause after each message: ten a second, half of what is allowed a kernel, is quick enough for the eye."""
RUNNING_S = 1.0
"""How long a run may go on without a word: until its first token nothing changes but what its device costs."""


class Channel:
    """The kernel's end. ``touch`` is what the pipeline calls, from the thread that generates: it only sets a flag."""

    def __init__(self, session_id: str, session: Callable[[], Session]) -> None:
        self.session_id = session_id
        self._session = session
        self._seq = 0
        self._looking = threading.Lock()
        self._state = threading.Condition()
        self._changed = self._sending = False
        self._next_at = 0.0
        self._open = False
        self._thread: threading.Thread | None = None
        self._data: Any = None
        self._controls: list[Any] = []
        in_child(self._renew)

    def _renew(self) -> None:
        # In a forked child there is no sidebar: the sockets are its parent's.
        self._looking, self._state = threading.Lock(), threading.Condition()
        self._open, self._thread, self._data, self._controls = False, None, None, []

    @property
    def listens(self) -> bool:
        """Whether views are asked for: outside a kernel there is nobody to send them to."""
        return self._open

    def open(self, *, heard: bool = True) -> None:
        """Answer sidebars, and where they may be ``heard`` send to them. Does nothing outside a kernel."""
        import comm

        if self._open or comm.create_comm is comm._create_comm:
            return
        comm.get_comm_manager().register_target(CONTROL_TARGET, self._on_control_open)
        self._open = True
        if heard:
            self.announce()
        self._thread = threading.Thread(target=self._pump, name="tokmagic-live", daemon=True)
        self._thread.start()

    def announce(self) -> None:
        """Open the data comm, if it is not open yet: a front end may be there to hear it.

        Not before: nbconvert and papermill warn of each comm that they do not know.
        """
        import comm

        with self._state:
            if self._open and self._data is None:
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
        comm.get_comm_manager().unregister_target(CONTROL_TARGET, self._on_control_open)
        for it in (*self._controls, *([self._data] if self._data is not None else [])):
            it.close()
        self._controls, self._data = [], None

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
            if self._data is not None:
                self._data.send(message)
            running = any(row["status"] == "running" for row in message.get("rows", ()))
            patience_s = RUNNING_S if running else None
            with self._state:
                self._next_at = time.monotonic() + INTERVAL_S
                self._sending = False
                self._state.notify_all()

    def _wait_for_change(self, patience_s: float | None) -> bool:
        """Wait for a change, not longer than ``patience_s``, and for the interval to be over; False at the end."""
        with self._state:
            self._state.wait_for(lambda: self._changed or not self._open, patience_s)
            while self._open and (left := self._next_at - time.monotonic()) > 0:
                self._state.wait(left)
            # Taken down before the look: a change during the look makes one more message, never one less.
            self._sending, self._changed = self._open, False
            return self._open

    def _message(self, look: Callable[[], View], *, complete: bool) -> dict[str, Any]:
        # One look at a time: of two messages, the one with the higher number never shows an older state.
        with self._looking:
            self._seq += 1
            return look().wire(session=self.session_id, seq=self._seq, complete=complete)

    def _on_control_open(self, control: Any, _message: Any) -> None:
        self.announce()
        self._controls.append(control)
        control.on_close(lambda _message: self._controls.remove(control))
        control.on_msg(lambda message: self._on_control(control, message["content"]["data"]))

    def _on_control(self, control: Any, request: Any) -> None:
        try:
            reply = self._answer(control, request)
        except TokmagicError as error:
            reply = _error_wire(str(error))
        if reply is not None:
            control.send(reply)

    def _answer(self, control: Any, request: Any) -> dict[str, Any] | None:
        kind = request.get("type") if isinstance(request, dict) and request.get("v") == VERSION else None
        if kind == "hello":
            path = request.get("path") if isinstance(request.get("path"), str) else None
            widgets = request.get("widgets") is True
            return self._message(lambda: self._session().everything(path, widgets), complete=True)
        if kind == "stop":
            self._session().stop(str(request.get("run_id")))
            return None
        if kind == "draft":
            self._session().draft(control.comm_id, request, control.send)
            return None
        return _error_wire(f"this kernel's tokmagic does not know {kind!r}; reload the page")


def _error_wire(message: str) -> dict[str, Any]:
    return {"v": VERSION, "type": "error", "message": message}
