"""Whom connections over TLS trust. It is read once: that takes longer than many a request, and each run at the same
time has a connection of its own.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path

import httpx2

_NAMED_BY = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_Named = tuple[tuple[str | None, int], ...]


def trusted() -> ssl.SSLContext:
    """The certificates of this machine, or those that SSL_CERT_FILE and SSL_CERT_DIR name; read again as they change.

    Raises OSError and ssl.SSLError where what they name cannot be read.
    """
    return _read(tuple((path, _changed_ns(path)) for path in map(os.environ.get, _NAMED_BY)))


def _changed_ns(path: str | None) -> int:
    return Path(path).stat().st_mtime_ns if path and Path(path).exists() else 0


@lru_cache(maxsize=1)
def _read(_named: _Named) -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@lru_cache(maxsize=1)
def nobody() -> ssl.SSLContext:
    """None at all, for what never speaks TLS: this takes no time, and fails where TLS were spoken after all."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
