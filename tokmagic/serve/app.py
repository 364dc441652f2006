"""The ASGI app over a gateway: OpenAI's paths and vLLM's, one key check before all of them but ``/health``."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tokmagic.core.keys import Key
from tokmagic.core.metered import description
from tokmagic.core.money import plain, rates_dict
from tokmagic.core.prompt import Message, Prompt, utf8
from tokmagic.engines.base import Engine, Tokenized
from tokmagic.serve import bodies, figures
from tokmagic.serve.answering import Answering, MakeWriter, caller_of, run_id_of
from tokmagic.serve.asking import Asked, chat_prompt, of_chat, of_completion, of_responses
from tokmagic.serve.failures import ApiError, api_error, stopping
from tokmagic.serve.gateway import Gateway
from tokmagic.serve.metrics import Metrics
from tokmagic.serve.responses import ResponsesWriter
from tokmagic.serve.writers import ChatWriter, CompletionWriter

_log = logging.getLogger("tokmagic.serve")
_SMALL_BYTES = 64 * 2**10
Endpoint = Callable[[Request, Key], Awaitable[Any]]
_Read = TypeVar("_Read")


def build(gateway: Gateway, metrics: Metrics) -> ASGIApp:
    """The app. It knows nothing of its process: the same runs alone and on a pool.

    ``metrics`` are those of the gateway, shown at ``/metrics``.
    """
    it = _Endpoints(gateway, metrics)
    return Starlette(
        routes=[
            Route("/health", it.health),
            Route("/v1/models", it.guarded(it.models)),
            Route("/v1/models/{name:path}", it.guarded(it.model)),
            Route("/v1/chat/completions", it.guarded(it.generating(_chat, ChatWriter)), methods=["POST"]),
            Route("/v1/completions", it.guarded(it.generating(_completion, CompletionWriter)), methods=["POST"]),
            Route("/v1/responses", it.guarded(it.generating(_response, ResponsesWriter)), methods=["POST"]),
            Route("/v1/runs/{run_id}", it.guarded(it.run)),
            Route("/tokenize", it.guarded(it.tokenize), methods=["POST"]),
            Route("/detokenize", it.guarded(it.detokenize), methods=["POST"]),
            Route("/metrics", it.guarded(it.show_metrics)),
        ],
        exception_handlers={HTTPException: _no_such_path},
    )


class _Endpoints:
    """What is answered at each path."""

    def __init__(self, gateway: Gateway, metrics: Metrics) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._began = int(time.time())

    def guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Any]]:
        """Ask for a key first, and give errors their shape."""

        async def answer(request: Request) -> Any:
            request.state.arrived_ns = time.perf_counter_ns()
            try:
                key = await run_in_threadpool(self._gateway.key, _secret(request))
                return await endpoint(request, key)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:
                told = api_error(error, self._gateway.turns.retry_after_s)
                self._metrics.rejected(told.status, told.code)
                if told.code == "internal_error":
                    _log.exception("a request failed")
                return JSONResponse(told.body(), told.status, told.headers)

        return answer

    def generating(self, read: Callable[[bytes], Asked], writer: MakeWriter) -> Endpoint:
        """A path at which a model answers."""

        async def answer(request: Request, key: Key) -> Answering:
            asked = await self._read(read, request)
            if self._gateway.stopping:
                raise stopping()
            caller = caller_of(request, key, request.state.arrived_ns)
            return Answering(self._gateway, caller, asked, writer, self._metrics.rejected)

        return answer

    async def _read(self, read: Callable[[bytes], _Read], request: Request) -> _Read:
        """What a body says. A large one is read on another thread: the tokens of others are not to wait for it."""
        began_ns = time.perf_counter_ns()
        raw = await _body(request, self._gateway)
        # How long a client takes to send its body is no wait for this server.
        request.state.arrived_ns += time.perf_counter_ns() - began_ns
        return read(raw) if len(raw) <= _SMALL_BYTES else await self._gateway.apart(read, raw)

    async def health(self, _request: Request) -> Response:
        stops = self._gateway.stopping
        return JSONResponse({"status": "stopping" if stops else "ok"}, 503 if stops else 200)

    async def models(self, _request: Request, key: Key) -> Response:
        gateway = self._gateway
        engines = [gateway.models.engine(name) for name in gateway.served]
        # Rates come from a file, or from a table that takes a while to import.
        listed = await run_in_threadpool(lambda: [_model(gateway, engine, self._began, key) for engine in engines])
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request, key: Key) -> Response:
        engine = self._gateway.engine(request.path_params["name"])
        return JSONResponse(await run_in_threadpool(_model, self._gateway, engine, self._began, key))

    async def run(self, request: Request, key: Key) -> Response:
        row = await run_in_threadpool(self._gateway.run, key, run_id_of(request.path_params["run_id"], "run_id"))
        told = {"id": row.run_id, "object": "run", "model": row.info.name, "status": row.status}
        return JSONResponse(told | {"usage": None if row.status == "running" else figures.billed(row, None)})

    async def tokenize(self, request: Request, _key: Key) -> Response:
        body = await self._read(partial(bodies.read, bodies.TokenizeBody), request)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give prompt or messages, one of them", param="prompt", code="invalid_value")
        prompt = (
            Prompt((Message("user", body.prompt),), completion=True)
            if body.prompt is not None
            else chat_prompt(body.messages or ())
        )
        utf8(prompt.messages[0].content if prompt.messages else "")
        engine = self._gateway.engine(body.model)
        return JSONResponse(await self._gateway.apart(partial(_tokens, engine), prompt))

    async def detokenize(self, request: Request, _key: Key) -> Response:
        body = await self._read(partial(bodies.read, bodies.DetokenizeBody), request)
        engine = self._gateway.engine(body.model)
        return JSONResponse(await self._gateway.apart(partial(_text, engine), body.tokens))

    async def show_metrics(self, _request: Request, _key: Key) -> Response:
        text, kind = self._metrics.text()
        return Response(text, media_type=kind)


def _chat(raw: bytes) -> Asked:
    return of_chat(bodies.read(bodies.ChatBody, raw))


def _completion(raw: bytes) -> Asked:
    return of_completion(bodies.read(bodies.CompletionBody, raw))


def _response(raw: bytes) -> Asked:
    return of_responses(bodies.read(bodies.ResponsesBody, raw))


async def _no_such_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    path, method = request.url.path, request.method
    what = f"{path} does not take {method}" if status == 405 else f"there is no {path} here; OpenAI's API is below /v1"
    told = ApiError(status, what, code="not_found")
    return JSONResponse(told.body(), status)


def _secret(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


async def _body(request: Request, gateway: Gateway) -> bytes:
    """The body of a request. Raises ApiError for one over the limit, before all of it is here, and for one too slow."""
    parts: list[bytes] = []
    size, most = 0, gateway.bounds.body_bytes
    async with gateway.reading():
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ApiError(413, f"the body is larger than {most:,} bytes; send less", code="body_too_large")
            parts.append(part)
    return b"".join(parts)


def _model(gateway: Gateway, engine: Engine, created: int, key: Key) -> dict[str, Any]:
    info = engine.info
    return {
        "id": info.name,
        "object": "model",
        "created": created,
        "owned_by": "tokmagic",
        "root": info.model_id,
        "max_model_len": info.context_tokens,
        "tokmagic": {
            "state": engine.state,
            **description(info),
            "rates": rates_dict(gateway.prices.rates(info)),
            "users": gateway.users(info.name),
            "requests": {"running": gateway.turns.running, "waiting": gateway.turns.waiting},
            "key": _key(gateway, key),
        },
    }


def _key(gateway: Gateway, key: Key) -> dict[str, Any]:
    """What the asking key is told of itself; of a cap that it does not have, null."""
    standing = gateway.standing(key)
    budget = None if standing is None else standing.budget
    return {
        "name": key.name,
        "team": key.team,
        "cap_usd": None if budget is None else plain(budget.usd),
        "left_usd": None if standing is None else plain(standing.available_usd),
        "cap_tokens": None if budget is None else budget.tokens,
        "left_tokens": None if standing is None else standing.available_tokens,
    }


def _tokenizer(engine: Engine) -> Any:
    if not isinstance(engine, Tokenized):
        raise ApiError(400, f"{engine.info.name} has no tokenizer on this machine", param="model", code="no_tokenizer")
    return engine.tokenizer()


def _tokens(engine: Engine, prompt: Prompt) -> dict[str, Any]:
    ids = list(_tokenizer(engine).encode(prompt))
    return {"count": len(ids), "max_model_len": engine.info.context_tokens, "tokens": ids, "token_strs": None}


def _text(engine: Engine, tokens: list[int]) -> dict[str, Any]:
    try:
        return {"prompt": _tokenizer(engine).decode(tokens)}
    except (OverflowError, IndexError, TypeError, ValueError):
        raise ApiError(
            400, "tokens has ids that the model does not have", param="tokens", code="invalid_value"
        ) from None
