"""A real kernel, driven as a front end drives it: cells with ids, comms, interrupts."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

TIMEOUT_S = 120.0


@dataclass
class Ran:
    """What one cell did."""

    reply: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.reply["content"]["status"] == "ok")

    @property
    def error(self) -> str:
        """The error as the cell shows it."""
        shown = [m["content"]["traceback"] for m in self.messages if m["msg_type"] == "error"]
        return "\n".join(shown[0]) if shown else ""

    @property
    def stdout(self) -> str:
        return "".join(m["content"]["text"] for m in self.messages if m["msg_type"] == "stream")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """Displayed data in order, updates included."""
        kinds = ("display_data", "update_display_data", "execute_result")
        return [m["content"] for m in self.messages if m["msg_type"] in kinds]

    @property
    def results(self) -> list[dict[str, Any]]:
        return [m["content"] for m in self.messages if m["msg_type"] == "execute_result"]

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        """Snapshots that the live channel sent."""
        data = [m["content"]["data"] for m in self.messages if m["msg_type"] == "comm_msg"]
        return [it for it in data if it.get("type") == "snapshot"]


def is_told(cell_id: str) -> Callable[[Ran], bool]:
    """For ``until`` of :meth:`Kernel.run`: the live channel has told of a cell's run that it is over."""

    def is_over(ran: Ran) -> bool:
        rows = [row for snapshot in ran.snapshots for row in snapshot["rows"] if row["cell_id"] == cell_id]
        return bool(rows) and rows[-1]["status"] != "running"

    return is_over


class Kernel:
    """One running kernel."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(
        self,
        source: str,
        *,
        cell_id: str | None = None,
        on_message: Callable[[dict[str, Any]], None] | None = None,
        until: Callable[[Ran], bool] | None = None,
        timeout_s: float = TIMEOUT_S,
        allow_stdin: bool = False,
    ) -> Ran:
        """Run a cell to its end, watching its messages; ``until``: and on, until this holds of them."""
        request = self.send(source, cell_id, allow_stdin=allow_stdin)
        ran = Ran({})
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self.client.get_iopub_msg(timeout=left)
            ran.messages.append(message)
            if on_message is not None:
                on_message(message)
            idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            if idle and message["parent_header"].get("msg_id") == request:
                break
        while until is not None and not until(ran):
            ran.messages.append(self.client.get_iopub_msg(timeout=TIMEOUT_S))
        while True:
            reply = self.client.get_shell_msg(timeout=TIMEOUT_S)
            if reply["parent_header"].get("msg_id") == request:
                ran.reply = reply
                return ran

    def send(self, source: str, cell_id: str | None = None, *, allow_stdin: bool = False) -> str:
        """Ask for an execution and return the request's id."""
        message = self.client.session.msg(
            "execute_request",
            {
                "code": source,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": allow_stdin,
            },
            metadata={"cellId": cell_id} if cell_id else {},
        )
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def drain(self, seconds: float) -> list[dict[str, Any]]:
        """Read messages for a while."""
        from queue import Empty

        messages = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                messages.append(self.client.get_iopub_msg(timeout=left))
            except Empty:
                break
        return messages

    def value(self, expression: str) -> str:
        """The ``repr`` of an expression in the kernel."""
        ran = self.run(f"print(repr(({expression})))")
        assert ran.ok, ran.error
        return ran.stdout.rstrip("\n")

    def create_subshell(self) -> str:
        """Start a thread of the kernel's that answers while a cell runs, and return its id."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        reply = self.client.control_channel.get_msg(timeout=TIMEOUT_S)
        return str(reply["content"]["subshell_id"])

    def open_comm(self, target: str, subshell: str | None = None) -> str:
        comm_id = uuid.uuid4().hex
        content = {"comm_id": comm_id, "target_name": target, "data": {}}
        self._ask("comm_open", content, subshell)
        return comm_id

    def send_comm(self, comm_id: str, data: dict[str, Any], subshell: str | None = None) -> None:
        self._ask("comm_msg", {"comm_id": comm_id, "data": data}, subshell)

    def _ask(self, kind: str, content: dict[str, Any], subshell: str | None) -> None:
        message = self.client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

    def wait_busy(self, request: str) -> None:
        """Wait until the execution of a request has begun."""
        self._wait(request, "execute_input")

    def wait_idle(self, request: str) -> Ran:
        """Wait until a request that was sent has been answered."""
        messages = self._wait(request, "status")
        reply = self.client.get_shell_msg(timeout=TIMEOUT_S)
        while reply["parent_header"].get("msg_id") != request:
            reply = self.client.get_shell_msg(timeout=TIMEOUT_S)
        return Ran(reply, messages)

    def _wait(self, request: str, kind: str) -> list[dict[str, Any]]:
        """Read messages until one of this kind answers a request; of its states, idle."""
        messages: list[dict[str, Any]] = []
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=TIMEOUT_S)
            if message["parent_header"].get("msg_id") == request:
                messages.append(message)
                if message["msg_type"] == kind and message["content"].get("execution_state") != "busy":
                    return messages
        raise TimeoutError(request)

    def wait_comm(self, comm_id: str) -> dict[str, Any]:
        """The next message on a comm."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=TIMEOUT_S)
            if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == comm_id:
                return dict(message["content"]["data"])
        raise TimeoutError(comm_id)


@contextmanager
def running_kernel(**env: str) -> Iterator[Kernel]:
    """Start a kernel with these environment variables and end it afterwards."""
    manager = KernelManager()
    # The history of the person who runs the tests is theirs.
    manager.start_kernel(extra_arguments=["--HistoryManager.hist_file=:memory:"], env={**os.environ, **env})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
