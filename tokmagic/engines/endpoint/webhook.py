"""One JSON object posted to an address that may be a secret: no message shows more of it than its host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tokmagic.core.version import __version__
from tokmagic.engines.endpoint import certificates
from tokmagic.engines.endpoint.addresses import is_this_machine
from tokmagic.errors import EndpointError

_TIMEOUT_S = 10.0


def post(url: str, value: Mapping[str, Any]) -> None:
    """Send it once. Raises EndpointError, which names the host alone, where the server does not accept it."""
    host = "the address"
    try:
        host = urlsplit(url).hostname or host
        # A proxy does not stand between this machine and itself. A redirect is not followed: nobody chose its target.
        proxied = not is_this_machine(host)
        verify = certificates.trusted(url, proxied=proxied)
        with httpx2.Client(timeout=_TIMEOUT_S, trust_env=proxied, verify=verify) as client:
            response = client.post(url, json=value, headers={"User-Agent": f"tokmagic/{__version__}"})
    except httpx2.TimeoutException:
        raise EndpointError(f"{host} did not answer within {_TIMEOUT_S:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError, ImportError) as error:
        raise EndpointError(f"{host} cannot be reached ({type(error).__name__})") from None
    if not response.is_success:
        raise EndpointError(f"{host} does not accept it ({response.status_code})")
