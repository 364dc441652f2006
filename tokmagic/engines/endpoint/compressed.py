"""Compressed bodies, in small pieces: what is counted is what comes out, while it comes out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tokmagic.errors import EndpointError

_PIECE_BYTES = 64 * 2**10
_MOST_ENCODINGS = 3


def decompressed(parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """A body of this ``Content-Encoding``, at most 64 KiB at once.

    None is asked for, and some servers compress all the same. Raises EndpointError for what cannot be decompressed.
    """
    names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name not in ("", "identity")]
    if len(names) > _MOST_ENCODINGS or any(name not in ("gzip", "x-gzip", "deflate") for name in names):
        raise EndpointError(f"it sent a body compressed by {', '.join(names)[:60]!r}, which was not asked for")
    for _ in names:
        parts = _inflated(parts)
    return parts


def _inflated(parts: Iterator[bytes]) -> Iterator[bytes]:
    reader = None
    try:
        for part in parts:
            data = part
            while data:
                if reader is None or reader.eof:  # one text may follow another
                    reader = zlib.decompressobj(_window(data))
                yield reader.decompress(data, _PIECE_BYTES)
                data = reader.unused_data if reader.eof else reader.unconsumed_tail
        while reader is not None and not reader.eof and (rest := reader.decompress(b"", _PIECE_BYTES)):
            yield rest
    except zlib.error as error:
        raise EndpointError(f"it sent a body that cannot be decompressed: {error}") from None


def _window(data: bytes) -> int:
    """What zlib has to know of a compressed text, by how it begins: gzip's header, zlib's, or none."""
    if data[0] == 0x1F:
        return zlib.MAX_WBITS | 16
    return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS
