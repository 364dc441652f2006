"""Which server is meant: its base URL, and what of that may be shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from tokmagic.engines.endpoint.addresses import is_this_machine
from tokmagic.errors import UsageError

OPENAI = "https://api.openai.com/v1"
"""The server that is meant where none is named."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server's base URL. ``shown`` is what may stand in a message or a row: no query, which may hold a key.

    ``shared``: it is a shared engine's, which says itself what is wrong and by how much. ``key_from`` is where its key
    is taken from, in words.
    """

    url: str
    query: str
    shown: str
    loopback: bool
    shared: bool = False
    key_from: str = "the variable that --api-key-name names"

    @property
    def url_from(self) -> str:
        """Where the URL is taken from, in words."""
        return "--engine or TOKMAGIC_ENGINE_URL" if self.shared else "--api-base"

    @property
    def identity(self) -> str:
        """What tells servers apart: a query may choose one of several, and is there by its digest alone."""
        return self.shown + (f"?{hashlib.sha256(self.query.encode()).hexdigest()[:16]}" if self.query else "")

    def at(self, path: str) -> str:
        """The URL of a path below the base."""
        return f"{self.url}{path}{f'?{self.query}' if self.query else ''}"


def target_of(api_base: str, option: str = "--api-base") -> Target:
    """Read ``--api-base``. Raises UsageError for what is no URL of a server, or carries a password."""
    try:
        parts = urlsplit(api_base)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or any(ord(letter) <= 32 for letter in api_base):
        shown = api_base.partition("?")[0] if "@" not in api_base else "what is given"
        raise UsageError(f"{option}: {shown!r} is not a server URL; give one such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        place = "an environment variable and name that with --api-key-name"
        place = place if option == "--api-base" else "the environment variable TOKMAGIC_ENGINE_KEY"
        raise UsageError(f"{option} contains a user or a password; put the key into {place}")
    name = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    return Target(url, parts.query, url, is_this_machine(host))
