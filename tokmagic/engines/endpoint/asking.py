"""Short questions to a server beside the runs: each is answered within its time, or ended."""

from __future__ import annotations

import json
import threading

from tokmagic.core.prompt import utf8
from tokmagic.engines.endpoint.http import AttemptError, Connection, Connections, body_of, redacted
from tokmagic.engines.endpoint.limits import Limits
from tokmagic.errors import EndpointError

# The ids of as many tokens as fit into the largest prompt that a shared engine takes.
_LIMITS = Limits(64 * 2**20, 10_000_000, 0)
_LONGEST_S = 3600.0
_ATTEMPTS = 2
"""A connection that was kept may have been closed by the server meanwhile."""


class NoSuchRunError(EndpointError):
    """A shared engine has no row of the run."""


def ask(
    connections: Connections, path: str, key: str | None, body: object = None, *, connect_s: float, wait_s: float
) -> object:
    """Get what is at ``path``, or post JSON there, and return the JSON of the answer.

    It takes ``connect_s`` and ``wait_s`` seconds at most, each attempt. Raises EndpointError, NoSuchRunError.
    """
    for left in reversed(range(_ATTEMPTS)):
        connection, late = connections.take(connect_s, _LONGEST_S), threading.Event()
        timer = threading.Timer(connect_s + wait_s, _end, (connection, late))
        timer.daemon = True
        timer.start()
        keep = False
        try:
            answer = _answer(connection, path, key, body)
            keep = True
            return answer
        except AttemptError as error:
            if late.is_set():
                raise EndpointError(f"{connections.target.shown} did not answer within {wait_s:g} s") from None
            if not error.again or error.wait_s is not None or not left:
                kind = NoSuchRunError if error.code == "run_not_found" else EndpointError
                raise kind(redacted(str(error), key)) from None
        except EndpointError as error:
            raise EndpointError(f"{connections.target.shown}: {redacted(str(error), key)}") from None
        finally:
            timer.cancel()
            if keep:
                connections.give_back(connection)
            else:
                connection.close()
    raise AssertionError("the last attempt returns or raises")


def _answer(connection: Connection, path: str, key: str | None, body: object) -> object:
    content = None if body is None else utf8(json.dumps(body, ensure_ascii=False))
    with connection.send(path, content, key) as response:
        return body_of(response, _LIMITS)


def _end(connection: Connection, late: threading.Event) -> None:
    late.set()
    connection.hang_up()
