"""The sidebar's view in a cell's output, where a front end has no sidebar: a widget by the package anywidget.

Its messages are the sidebar's (docs/wire.md), on the widget's own comm. A front end that has several pages open on a
notebook sends each answer to all of them, so a question names its page, and the answer does, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokmagic.errors import UsageError
from tokmagic.runs.channel import VERSION, Channel, Send

BUILT = Path(__file__).resolve().parent.parent / "widget"
"""What ``npm run build`` made of labextension/src/widget.tsx."""


class Panel:
    """What one panel is asked, and who looks at it; for any thread. It is fed until its last view says goodbye."""

    def __init__(self, channel: Channel, send: Send) -> None:
        self._channel = channel
        self._send = send
        self._lock = threading.Lock()
        self._pages: set[str] = set()
        self.left = False
        """Whether somebody looked at it, and nobody does any more."""
        channel.add_listener(send)

    def receive(self, message: Any) -> None:
        """Take in what a view sent."""
        fields = message if isinstance(message, dict) else {}
        kind, page = fields.get("type"), str(fields.get("page"))
        if kind == "goodbye":
            self._leave(page)
            return
        if kind == "hello":
            self._join(page)
        self._channel.answer(page, message, lambda reply: self._send({**reply, "page": page}))

    def _join(self, page: str) -> None:
        with self._lock:
            self._pages.add(page)
            self.left = False
            self._channel.add_listener(self._send)

    def _leave(self, page: str) -> None:
        with self._lock:
            self._pages.discard(page)
            self.left = not self._pages
            if self.left:
                self._channel.remove_listener(self._send)

    def close(self) -> None:
        """Send nothing more."""
        self._channel.remove_listener(self._send)


class Panels:
    """The panels of one session."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._open: list[tuple[str | None, Any]] = []

    def open(self, cell_id: str | None, *, magics: bool = True) -> Any:
        """A new panel's widget, in place of the one that the cell ``cell_id`` showed before.

        ``magics`` says whether cells may begin with some here, so that the panel does not advise what nobody can do.
        Raises UsageError.
        """
        widget_class = _widget_class()
        for it in list(self._open):
            if it[1].panel.left or (it[0] is not None and it[0] == cell_id):
                self._close(it)
        widget = widget_class(self._channel, magics)
        entry = (cell_id, widget)
        self._open.append(entry)
        widget.on_closed(lambda: self._close(entry))
        return widget

    def close(self) -> None:
        """Close all of them."""
        for it in list(self._open):
            self._close(it)

    def _close(self, it: tuple[str | None, Any]) -> None:
        with self._lock:
            if it not in self._open:
                return
            self._open.remove(it)
        it[1].panel.close()
        it[1].close()


@cache
def _widget_class() -> Any:
    try:
        from anywidget import AnyWidget
    except ImportError as error:
        raise UsageError(f"a panel needs the package {error.name}; run: pip install 'tokmagic[panel]'") from None
    from traitlets import Bool, Dict

    try:
        script, style = ((BUILT / name).read_text(encoding="utf-8") for name in ("panel.js", "panel.css"))
    except FileNotFoundError:
        raise UsageError(
            "this tokmagic was built without node, so it has no panel; run: pip install --force-reinstall tokmagic"
        ) from None

    class PanelWidget(AnyWidget):  # type: ignore[misc]  # is read as of no type where it is not installed
        _esm, _css = script, style
        first = Dict(help="all that is known when it is made, as a message").tag(sync=True)
        magics = Bool(help="whether cells may begin with a magic").tag(sync=True)

        def __init__(self, channel: Channel, magics: bool) -> None:
            hello = {"v": VERSION, "type": "hello", "path": None, "widgets": True}
            known: list[dict[str, Any]] = []
            channel.answer("", hello, known.append)
            super().__init__(first=known[0], magics=magics)
            # ipykernel 7.4 hands a message to the loop that last sent on its comm: here the one that runs cells,
            # and a run would not hear that it is to stop. Without this it goes where the front end wants it.
            self.comm._reply_subshell_for = None
            self._told: Callable[[], None] = lambda: None
            self.panel = Panel(channel, self._deliver)
            self.on_msg(lambda _widget, message, _buffers: self.panel.receive(message))

        def on_closed(self, told: Callable[[], None]) -> None:
            """Call ``told`` when the front end has closed it."""
            self._told = told
            self.comm.on_close(lambda _message: told())

        def _deliver(self, message: dict[str, Any]) -> None:
            # marimo closes the comm of a cell that runs again, and tells nobody.
            comm = self.comm
            if comm is not None and getattr(comm, "_closed", False):
                self._told()
            else:
                self.send(message)

        def __repr__(self) -> str:
            return "tokmagic panel: what this notebook's prompts cost, live while its kernel runs; %cost prints it"

    return PanelWidget
