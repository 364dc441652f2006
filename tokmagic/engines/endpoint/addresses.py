"""Whether a host is this machine, however its name or address is written: no proxy stands between it and itself."""

from __future__ import annotations

import ipaddress
import socket
import sys
import unicodedata
from contextlib import closing, suppress
from pathlib import Path

_HOSTS = Path(r"C:\Windows\System32\drivers\etc\hosts" if sys.platform == "win32" else "/etc/hosts")


def is_this_machine(host: str) -> bool:
    """Whether a URL's host is an address or a name of this machine. Nothing is asked of the network for it."""
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().rstrip(".")
    if (address := _address(name)) is not None:
        return _is_own(address)
    if name == "localhost" or name.endswith((".localhost", ".localdomain")) or name == socket.gethostname().lower():
        return True
    return any(address is not None and _is_own(address) for address in map(_address, _listed(name)))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text spells: ``127.1``, ``0x7f000001``, ``2130706433``, ``::ffff:127.0.0.1`` …; else None."""
    with suppress(ValueError):
        found = ipaddress.ip_address(text)
        return getattr(found, "ipv4_mapped", None) or found
    # The same old spellings as when it is connected to; only numbers, since others are looked up.
    with suppress(OSError, ValueError):
        if all(part[:1].isdigit() for part in text.split(".")):
            return ipaddress.IPv4Address(socket.inet_aton(text))
    return None


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback or address.is_unspecified:
        return True
    # Only an address of one of this machine's interfaces can be bound.
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def _listed(name: str) -> list[str]:
    """The addresses of a name in this machine's own list of hosts."""
    try:
        lines = _HOSTS.read_text(encoding="utf-8", errors="replace").lower().splitlines()
    except OSError:
        return []
    words = [line.partition("#")[0].split() for line in lines]
    return [given[0] for given in words if name in given[1:]]
