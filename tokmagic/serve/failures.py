"""What an error becomes on the wire: OpenAI's shape, an HTTP status, and when to try again."""

from __future__ import annotations

import re
from typing import Any

from tokmagic.errors import (
    BudgetError,
    ContextError,
    EndpointError,
    GenerationInterrupted,
    LedgerError,
    OutOfMemoryError,
    PromptError,
    TokmagicError,
    UsageError,
)

_LONGEST = 2_000
_OPTION = re.compile(r"--([a-z][a-z-]*)")
_NAMED = re.compile(r"-?([a-z_]+) is ")
"""What a message about a field begins with."""


class ApiError(Exception):
    """A request that is answered with an error.

    ``status`` is HTTP's, ``kind`` and ``code`` are OpenAI's, ``param`` names the field that is wrong, and
    ``retry_after_s`` says when the same request may be answered.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(_shortened(message))
        self.status = status
        self.kind = kind
        self.code = code
        self.param = None if param is None else _shortened(param)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        found = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        """The object that is sent."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def _shortened(text: str) -> str:
    """What a client sent may stand in it, and that may be a whole body."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def unknown_model(name: str, known: list[str]) -> ApiError:
    """The model is not served here."""
    return ApiError(
        404, f"model {name!r} is not served here; known: {', '.join(known)}", code="model_not_found", param="model"
    )


def invalid_key() -> ApiError:
    """The key holds no more, or never did."""
    return ApiError(
        401,
        "this key is unknown or was revoked; tokmagic key add makes another one",
        kind="authentication_error",
        code="invalid_api_key",
    )


def stopping() -> ApiError:
    """The server takes no more requests."""
    return ApiError(503, "the server is stopping", kind="server_error", code="stopping", retry_after_s=5)


def api_error(error: BaseException, retry_after_s: int = 1) -> ApiError:
    """What a request is answered with when ``error`` ended it; ``retry_after_s`` is for what passes by itself."""
    if isinstance(error, ApiError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, BudgetError) and isinstance(error.__cause__, LedgerError):
        error = error.__cause__  # nothing is known of the budget
        text = " ".join(str(error).split())
    if isinstance(error, BudgetError):
        if error.passing:
            return ApiError(429, text, kind="rate_limit_error", code="budget_held", retry_after_s=max(1, retry_after_s))
        return ApiError(402, text, kind="insufficient_quota", code="insufficient_quota")
    if isinstance(error, ContextError):
        return ApiError(400, text, code="context_length_exceeded", param="messages")
    if isinstance(error, UsageError | PromptError):
        # The same checks as for %%generate, whose options are fields here.
        text = _OPTION.sub(lambda found: found[1].replace("-", "_"), text)
        named = _NAMED.match(text)
        return ApiError(400, text, code="invalid_value", param=None if named is None else named[1])
    if isinstance(error, LedgerError):
        return ApiError(
            503, f"the ledger cannot be used: {text}", kind="server_error", code="ledger_unavailable", retry_after_s=5
        )
    if isinstance(error, OutOfMemoryError):
        return ApiError(503, text, kind="server_error", code="out_of_memory", retry_after_s=max(1, retry_after_s))
    if isinstance(error, EndpointError):
        return ApiError(502, text, kind="server_error", code="upstream_error")
    if isinstance(error, GenerationInterrupted):
        return ApiError(503, text, kind="server_error", code="interrupted", retry_after_s=max(1, retry_after_s))
    if isinstance(error, TokmagicError):
        return ApiError(500, text, kind="server_error", code="model_error")
    return ApiError(500, "the server failed; its log says why", kind="server_error", code="internal_error")
