"""A server extension that ends a server which would let anyone in, however it was told to.

``access.py`` sees the command and the environment; a configuration file in a mounted folder is seen only here.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "tokmagic_guard"}]


def _load_jupyter_server_extension(server: Any) -> None:
    if not server.identity_provider.auth_enabled:
        raise SystemExit(
            "tokmagic: a configuration file sets an empty token, which would let anyone in; "
            "leave it out for a random token, or give one that is hard to guess"
        )
