"""HTTP to one server: one connection for each run, hung up from any thread, and what goes wrong said in one line."""

from __future__ import annotations

import email.utils
import json
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import httpx2

from tokmagic.core.forks import in_child, leave, whole
from tokmagic.core.version import __version__
from tokmagic.engines.endpoint import certificates
from tokmagic.engines.endpoint.answers import error_text
from tokmagic.engines.endpoint.compressed import decompressed
from tokmagic.engines.endpoint.limits import Limits
from tokmagic.engines.endpoint.target import Target
from tokmagic.errors import EndpointError

_KEPT_CONNECTIONS = 4
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_MOST_ERROR = 64 * 2**10
_TRY_AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 that another attempt may get past."""
# Behind these stands a gateway that gave up waiting for a server that may go on working, or that broke off.
_MAY_BE_BILLED = frozenset({408, 499, 502, 504, 520, 522, 524, 598, 599})
_OVER_BUDGET = frozenset({"insufficient_quota", "budget_held"})
"""Codes with which a shared engine says that a budget does not let a run in."""
_NOT_BEGUN = frozenset({"stopping", "ledger_unavailable"})
"""Codes with which a shared engine fails before it asks its model."""
_TIMED_OUT = re.compile(r"tim(e|ed)[ -]?out", re.IGNORECASE)


class AttemptError(EndpointError):
    """One attempt failed. ``again``: another may succeed, after ``wait_s`` seconds if the server says so.

    ``reached``: the server may have begun to work, so it may bill something. ``over_budget``: a budget of a shared
    engine's did not let the run in. ``code`` is a shared engine's word for what went wrong.
    """

    def __init__(
        self,
        text: str,
        *,
        again: bool = False,
        wait_s: float | None = None,
        reached: bool = False,
        over_budget: bool = False,
        code: str = "",
    ) -> None:
        super().__init__(text)
        self.again = again
        self.wait_s = wait_s
        self.reached = reached
        self.over_budget = over_budget
        self.code = code


class Connection:
    """One connection to a server, kept for the next run."""

    def __init__(self, target: Target, connect_timeout_s: float, read_timeout_s: float) -> None:
        """Raises AttemptError where the environment names an invalid proxy or invalid certificates."""
        timeout = httpx2.Timeout(read_timeout_s, connect=connect_timeout_s)
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30.0)
        try:
            # A proxy does not stand between this machine and itself; certificates of one's own hold there, too.
            proxied = not target.loopback
            verify = certificates.trusted(target.url, proxied=proxied)
            self._client = httpx2.Client(timeout=timeout, limits=limits, trust_env=proxied, verify=verify)
        except (ValueError, httpx2.InvalidURL, OSError, ImportError) as error:
            raise AttemptError(
                f"the environment's proxy or certificates cannot be used: {error}; fix HTTPS_PROXY, HTTP_PROXY, "
                "ALL_PROXY or SSL_CERT_FILE"
            ) from None
        self._target = target
        self._stream: Any = None
        self.hung_up = False
        """Whether no other run may use it."""

    @contextmanager
    def send(
        self, path: str, body: bytes | None, key: str | None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Iterator[httpx2.Response]:
        """Post JSON, or get where there is none, and yield the answer of a server that accepted it.

        Raises AttemptError.
        """
        sent = {"User-Agent": f"tokmagic/{__version__}", "Accept-Encoding": "identity", **headers}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        method = "GET" if body is None else "POST"
        url, more = self._target.at(path), {"trace": self._trace}
        with (
            _mapped(self._target),
            self._client.stream(method, url, content=body, headers=sent, extensions=more) as response,
        ):
            if not response.is_success:
                raise _rejected(response, self._target, path, key)
            yield response

    def _trace(self, _name: str, info: Mapping[str, Any]) -> None:
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._stream = stream
        if self.hung_up:
            # Before anything is sent: a server that got the prompt might go on and bill it.
            raise httpx2.CloseError("hung up")

    def hang_up(self) -> None:
        """Close the connection at once, whatever another thread is waiting for on it; any thread."""
        self.hung_up = True
        stream = self._stream
        if stream is not None:
            with suppress(OSError):
                # Closing the socket would leave the thread that reads from it waiting; shutting it down wakes it.
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)

    def fileno(self) -> int:
        """The file descriptor of its socket; -1 where it has none that is open."""
        return -1 if self._stream is None else int(self._stream.get_extra_info("socket").fileno())

    @property
    def has_unread(self) -> bool:
        """Whether bytes wait in its socket; any thread."""
        stream = self._stream
        if stream is None:
            return False
        with suppress(OSError, ValueError):
            return bool(select.select([stream.get_extra_info("socket")], (), (), 0)[0])
        return False

    def close(self) -> None:
        """Let go of it."""
        self._client.close()


class Connections:
    """The connections to one server: each run has one for itself, and leaves it to the next."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._made: WeakSet[Connection] = WeakSet()
        in_child(self._renew)

    def _renew(self) -> None:
        # A forked child may not use its parent's connections, nor keep them open.
        leave(number for it in self._made if (number := it.fileno()) >= 0)
        self._idle, self._lock, self._made = [], threading.Lock(), WeakSet()

    def take(self, connect_timeout_s: float, read_timeout_s: float) -> Connection:
        """Return a connection for one run. Raises AttemptError."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        with whole():  # it imports what it needs
            connection = Connection(self.target, connect_timeout_s, read_timeout_s)
            self._made.add(connection)
            return connection

    def prepare(self, connect_timeout_s: float, read_timeout_s: float) -> None:
        """Have a connection at hand, not yet open: the first reads modules and whom it trusts, 0.1 s."""
        with suppress(AttemptError):  # said by the run that takes it
            self.give_back(self.take(connect_timeout_s, read_timeout_s))

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next run, if it is still good."""
        with self._lock:
            keep = not connection.hung_up and len(self._idle) < _KEPT_CONNECTIONS
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def close(self) -> None:
        """Close those that no run uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def redacted(text: str | None, key: str | None) -> str | None:
    """``text`` without the key, and without the beginning of it that a shortened message may end in."""
    if text is None or not key:
        return text
    least = min(8, len(key))
    at = text.find(key[:least])
    while at >= 0:
        end = at + least
        while end < len(text) and end - at < len(key) and text[end] == key[end - at]:
            end += 1
        text = f"{text[:at]}…{text[end:]}"
        at = text.find(key[:least])
    return text


def body_of(response: httpx2.Response, limits: Limits) -> object:
    """The JSON of a whole answer. Raises EndpointError."""
    text = _read(response.iter_bytes(), limits.body_bytes)
    if text is None:
        raise limits.too_long()
    return parse_json(text, limits, response.headers.get("content-type", ""))


def parse_json(text: str, limits: Limits, content_type: str = "") -> object:
    """Parse what a server sent. Raises EndpointError that shows its beginning."""
    limits.check_values(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise EndpointError(f"it sent {_kind(text, content_type)} where JSON should be") from None


def _kind(text: str, content_type: str) -> str:
    if "html" in content_type or text.lstrip()[:15].lower().startswith(("<!doctype", "<html")):
        return "an HTML page"
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:80]}…") if line else "nothing"


def _read(content: Iterator[bytes], most: int) -> str | None:
    """A body as text; None where it is longer than ``most`` bytes."""
    parts, size = [], 0
    for part in content:
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def _rejected(response: httpx2.Response, target: Target, path: str, key: str | None) -> AttemptError:
    status = response.status_code
    if response.has_redirect_location:
        to = urlsplit(response.headers["location"])
        where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}{to.path}" if to.netloc else to.path
        return AttemptError(
            f"{target.shown} redirects to {where}; nothing was sent there, give it as {target.url_from} if you trust it"
        )
    said, code = _said(response)
    if target.shared:
        return _turned_away(status, said, code, response.headers, target, path)
    because = f"{said} ({code})" if code and code not in said else said
    again = (status in _TRY_AGAIN or status >= 500) and "insufficient_quota" not in because
    wait_s = _retry_after(response.headers.get("retry-after")) if again else None
    reached = status in _MAY_BE_BILLED or (status >= 500 and _TIMED_OUT.search(because) is not None)
    return AttemptError(_explained(status, because, target, path, key), again=again, wait_s=wait_s, reached=reached)


def _turned_away(
    status: int, said: str, code: str, headers: Mapping[str, str], target: Target, path: str
) -> AttemptError:
    """What a shared engine says, which has the numbers and the mend; what its HTTP server or a proxy says instead."""
    name, because = target.shown, f"{status}: {said}" if said else str(status)
    again = status in _TRY_AGAIN or status >= 500
    wait_s = _retry_after(headers.get("retry-after")) if again else None
    over_budget = code in _OVER_BUDGET
    # Where it says by its code that it began nothing there is nothing to bill.
    reached = (status >= 500 and code not in _NOT_BEGUN) or status in _MAY_BE_BILLED
    if status in (401, 403):
        text = f"{name} refuses the key ({because}); check {target.key_from}"
    elif status == 404 and code != "model_not_found":
        text = (
            f"{name} is no shared engine ({because} at {path}); give the URL of tokmagic serve, check {target.url_from}"
        )
    elif code:
        text = f"{name}: {said}"
    elif status >= 500:
        text = f"{name} fails ({because})"
    else:
        text = f"{name} refuses the request ({because})"
    return AttemptError(text, again=again, wait_s=wait_s, reached=reached, over_budget=over_budget, code=code)


def _said(response: httpx2.Response) -> tuple[str, str]:
    """What a server says of its refusal, and the code that it gives."""
    try:
        encoding = response.headers.get("content-encoding", "")
        text = _read(decompressed(response.iter_raw(), encoding), _MOST_ERROR)
    except (httpx2.HTTPError, EndpointError):
        text = ""
    if text is None:
        return "a body too long to show", ""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return _kind(text, response.headers.get("content-type", "")) if text.strip() else "", ""
    error = given.get("error") if isinstance(given, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return error_text(given), code if isinstance(code, str) else ""


def _explained(status: int, said: str, target: Target, path: str, key: str | None) -> str:
    name, because = target.shown, f" ({status}: {said})" if said else f" ({status})"
    if status in (401, 403):
        if key is None:
            return f"{name} asks for a key{because}; name the variable that holds it with --api-key-name"
        return f"{name} refuses the key{because}; check {target.key_from}"
    if status == 404:
        return f"{name}{path} is not there, or the model is not{because}; check the model's name and --api-base"
    if status == 405:
        return f"{name}{path} takes no prompts{because}; check --api-base, does it end in /v1?"
    if status == 429:
        return f"{name} has no room or quota left{because}; try again later"
    if status >= 500:
        return f"{name} fails{because}"
    return f"{name} refuses the request{because}"


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if not text:
        return None
    with suppress(ValueError):
        return max(0.0, float(text)) if float(text) == float(text) else None
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


@contextmanager
def _mapped(target: Target) -> Iterator[None]:
    """Turn what httpx2 raises into AttemptError."""
    name = target.shown
    try:
        yield
    except httpx2.ConnectTimeout:
        raise AttemptError(f"{name} cannot be reached: no answer while connecting", again=True) from None
    except httpx2.ConnectError as error:
        raise AttemptError(f"{name} cannot be reached: {_connect_reason(error, target)}") from None
    except httpx2.ProxyError as error:
        raise AttemptError(f"the proxy to {name} refuses: {error}; fix HTTPS_PROXY or NO_PROXY") from None
    except httpx2.ReadTimeout:
        raise AttemptError(f"{name} sent nothing for too long", reached=True) from None
    except (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError, httpx2.WriteTimeout) as error:
        garbled = "malformed" in str(error).lower() or "illegal" in str(error).lower()
        text = "does not speak HTTP" if garbled else "broke off before the answer's end"
        raise AttemptError(f"{name} {text}", again=not garbled, reached=True) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
        raise AttemptError(f"{name} cannot be queried: {error}", reached=True) from None


def _connect_reason(error: httpx2.ConnectError, target: Target) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate cannot be trusted ({cause.verify_message}); "
                "for your own certificate set SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError):
            return f"it does not speak TLS correctly ({cause.reason or cause}); is it an http:// address?"
        if isinstance(cause, ConnectionRefusedError):
            server = "it with tokmagic serve" if target.shared else "the server"
            return f"nothing listens there; start {server}, or check {target.url_from}"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved; check {target.url_from} and the network"
        cause = cause.__cause__ or cause.__context__
    return str(error)
