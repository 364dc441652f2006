"""One request from its body to its last byte: its turn, its stream, and a client that may leave at any moment."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from tokmagic.core.keys import Key
from tokmagic.core.metered import RUN_ID_HEADER, SERVER_RUN_ID_HEADER
from tokmagic.errors import BudgetError
from tokmagic.runs.generation import Generation
from tokmagic.serve import spans
from tokmagic.serve.asking import Asked
from tokmagic.serve.calls import Call, Caller
from tokmagic.serve.failures import ApiError, api_error
from tokmagic.serve.gateway import Gateway
from tokmagic.serve.writers import Writer, error_with_usage, sse

_log = logging.getLogger("tokmagic.serve")
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Told to proxies that buffer otherwise.
    (b"x-accel-buffering", b"no"),
]
MakeWriter = Callable[[Asked, str, str], Writer]
Rejected = Callable[[int, str | None], None]
"""Told the status and the code of a request that was answered with an error before a run began."""


class _NoAnswer(Exception):
    """A run has ended and nothing of its answer was sent."""

    def __init__(self, generation: Generation, waited_s: float) -> None:
        super().__init__(str(generation.error))
        self.generation = generation
        self.waited_s = waited_s


class Answering:
    """Answers one request that has been read; an ASGI response."""

    def __init__(
        self, gateway: Gateway, caller: Caller, asked: Asked, make_writer: MakeWriter, rejected: Rejected
    ) -> None:
        self._gateway = gateway
        self._caller = caller
        self._asked = asked
        self._make_writer = make_writer
        self._rejected = rejected
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_gone(receive))
        work = asyncio.create_task(self._answer(scope, receive, send))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            # A client that left stops its generation, wherever it is: in the queue, before its first token, or later.
            work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def timely(message: Message) -> None:
            # Not asyncio.wait_for: in Python 3.11 a client's leaving that comes as the message is sent is lost in it.
            try:
                async with asyncio.timeout(self._gateway.bounds.send_timeout_s):
                    await send(message)
            except TimeoutError:
                raise asyncio.CancelledError from None  # it reads nothing: as good as gone

        try:
            await self._run(timely)
        except _NoAnswer as ended:
            await self._without_answer(ended)(scope, receive, timely)
        except Exception as error:
            told = api_error(error, self._gateway.turns.retry_after_s)
            if told.status == 500 and told.code == "internal_error":
                _log.exception("a request failed")
            if self._began:
                await timely({"type": "http.response.body", "body": sse(told.body())})
            else:
                self._rejected(told.status, told.code)
                await JSONResponse(told.body(), told.status, told.headers)(scope, receive, timely)

    def _without_answer(self, ended: _NoAnswer) -> JSONResponse:
        """The error that ended a run, with what it has cost all the same; of one that was refused there is nothing."""
        generation = ended.generation
        assert generation.error is not None
        told = api_error(generation.error, self._gateway.turns.retry_after_s)
        body = told.body()
        if generation.status == "refused":
            self._rejected(told.status, told.code)
        else:
            body = error_with_usage(told, generation, ended.waited_s)
        return JSONResponse(body, told.status, told.headers | _named(generation.run_id))

    async def _run(self, send: Send) -> None:
        gateway, asked = self._gateway, self._asked
        name = gateway.engine(asked.model).info.name
        key_id = self._caller.key.key_id
        leave = await gateway.turn(name, key_id)
        began_at = time.monotonic()
        try:
            call = gateway.begin(asked, self._caller)
        except BaseException:
            leave(None)
            raise
        # The turn ends with the run, not with a client that reads slowly.
        call.settled.add_done_callback(lambda _done: leave(time.monotonic() - began_at))
        try:
            writer = self._make_writer(asked, name, call.run_id)
            if asked.stream:
                await self._stream(send, call, writer)
            else:
                generation = await asyncio.shield(call.settled)
                self._raise_early(generation, call.waited_s)
                response = JSONResponse(writer.whole(generation, call.waited_s), headers=_named(call.run_id))
                await response({"type": "http"}, _nothing_more, send)
        finally:
            call.stop()

    async def _stream(self, send: Send, call: Call, writer: Writer) -> None:
        item = await call.next()
        if item is None:
            self._raise_early(await asyncio.shield(call.settled), call.waited_s)
        named = [(name.encode(), run_id.encode()) for name, run_id in _named(call.run_id).items()]
        self._began = True
        await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM_HEADERS, *named]})
        while item is not None:
            await _send_all(send, writer.piece(*item))
            item = await call.next()
        generation = await asyncio.shield(call.settled)
        error = generation.error
        if error is None or _was_cut(generation):
            await _send_all(send, writer.ending(generation, call.waited_s))
        else:
            await _send_all(send, writer.failing(api_error(error), generation, call.waited_s))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _raise_early(self, generation: Generation, waited_s: float) -> None:
        """Raise _NoAnswer where an error ended it, but for a budget that cut it short: what it paid for is its answer.

        Never the error itself: one that is a KeyboardInterrupt would end the event loop, and with it all requests.
        """
        if generation.error is not None and not _was_cut(generation):
            raise _NoAnswer(generation, waited_s)


def _was_cut(generation: Generation) -> bool:
    """Whether a budget cut it short. One that did not let it in, as that of an engine behind this one, left nothing."""
    return isinstance(generation.error, BudgetError) and generation.finish_reason == "budget"


async def _send_all(send: Send, pieces: Iterable[bytes]) -> None:
    body = b"".join(pieces)
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def run_id_of(given: str, param: str) -> str:
    """A run id that was given as ``param``. Raises ApiError for one that is none."""
    if len(given) != 32 or any(letter not in "0123456789abcdef" for letter in given):
        raise ApiError(400, f"{param} is no run id; send 32 hexadecimal digits", param=param, code="invalid_value")
    return given


def _named(run_id: str) -> dict[str, str]:
    """Headers that name a run. Ray Serve's proxy puts an id of its own in place of the first one."""
    return {"x-request-id": run_id, SERVER_RUN_ID_HEADER: run_id}


def caller_of(request: Request, key: Key, arrived_ns: int) -> Caller:
    """Who asks. Raises ApiError for a run id that is none."""
    given = request.headers.get(RUN_ID_HEADER)
    if given is not None:
        run_id_of(given, RUN_ID_HEADER)
    carried = {name: value for name in spans.CARRIED if (value := request.headers.get(name)) is not None}
    return Caller(key, arrived_ns, given, carried)
