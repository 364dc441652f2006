"""Whether this machine, or this container, has a network at all. Sends nothing."""

from __future__ import annotations

import os
from pathlib import Path

_ROUTES = {Path("/proc/net/route"): 0, Path("/proc/net/ipv6_route"): -1}
"""The kernel's routes, and the column with each one's device (proc(5))."""
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def there() -> bool:
    """False only where no device but the loopback has a route, and no proxy is set; True where that is unknown."""
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    tables = [(path, column) for path, column in _ROUTES.items() if path.exists()]
    return not tables or any(_leaves(path, column) for path, column in tables)


def _leaves(path: Path, column: int) -> bool:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    devices = {line.split()[column] for line in lines if line.strip()}
    return bool(devices - {"lo", "Iface"})
