"""Whom connections over TLS trust. It is read once: that takes longer than many a request, and each run at the same
time has a connection of its own.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import httpx2

_NAMED_BY = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_Named = tuple[tuple[str | None, int], ...]


def trusted(url: str, *, proxied: bool) -> ssl.SSLContext:
    """Whom a connection to ``url`` trusts: nobody where nothing speaks TLS, neither it nor a proxy before it.

    Else the certificates of this machine, or those that SSL_CERT_FILE and SSL_CERT_DIR name, which are read again when
    they change. Raises OSError, ssl.SSLError too, where what they name cannot be read.
    """
    if url.startswith("http:") and not proxied:
        return _nobody()
    return _read(tuple((path, _changed_ns(path)) for path in map(os.environ.get, _NAMED_BY)))


def _changed_ns(path: str | None) -> int:
    with suppress(OSError):  # whoever reads it says so
        return Path(path).stat().st_mtime_ns if path else 0
    return 0


@lru_cache(maxsize=1)
def _read(_named: _Named) -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@lru_cache(maxsize=1)
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
