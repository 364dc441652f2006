"""Whether an answer is a stream of events or one JSON text: by how it begins, since headers often say otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator

from httpx2 import Response

from tokmagic.engines.endpoint.compressed import decompressed
from tokmagic.engines.endpoint.limits import Limits

_BOM = b"\xef\xbb\xbf"
# A field of server-sent events; a comment is one without a name.
_FIELD = re.compile(rb"(?:data|event|id|retry)?:")
_JSON = (b"{", b"[")
_LONGEST_FIELD = len(b"event:")


def opened(response: Response, limits: Limits) -> tuple[Response, bool]:
    """The same answer, with its beginning looked at, and whether it is a stream of events.

    Blocks until something of it arrived. Raises EndpointError.
    """
    parts = decompressed(response.iter_raw(), response.headers.get("content-encoding", ""))
    head, size = b"", 0
    for part in parts:
        size += len(part)
        if size > limits.body_bytes:  # nothing but blanks
            raise limits.too_long()
        head = (head + part).removeprefix(_BOM).lstrip()
        if head.startswith(_JSON) or len(head) >= _LONGEST_FIELD:
            break
    kind = response.headers.get("content-type", "")
    named = kind.lower().startswith("text/event-stream")
    streamed = bool(_FIELD.match(head)) or (named and not head.startswith(_JSON))
    again = {"content-type": "text/event-stream; charset=utf-8" if streamed else kind}
    content = _rest(head, parts, b"\n\n" if streamed else b"")
    return Response(200, headers=again, content=content, request=response.request), streamed


def _rest(head: bytes, parts: Iterator[bytes], end: bytes) -> Iterator[bytes]:
    yield head
    yield from parts
    yield end  # a last event may lack its blank line
