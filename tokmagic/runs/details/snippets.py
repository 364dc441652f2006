"""A run as code that does it again: in Python, and for a server as a call of curl. No key is ever in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint.servers import server_of
from tokmagic.engines.endpoint.wire import request_of
from tokmagic.errors import UsageError

_SAMPLING = tuple(it.name for it in fields(Sampling))


def as_python(record: RunRecord, messages: Sequence[Message]) -> str:
    """A call of :func:`tokmagic.generate` that asks for the same."""
    if len(messages) == 1 and messages[0].role == "user":
        prompt = repr(messages[0].content)
    else:
        listed = (f'        {{"role": "{it.role}", "content": {it.content!r}}},\n' for it in messages)
        prompt = f"[\n{''.join(listed)}    ]"
    options = {"model": record.info.name, **_sampling(record.params)}
    if record.params.get("completion"):
        options["completion"] = True
    given = "".join(f"    {name}={value!r},\n" for name, value in options.items())
    return f"import tokmagic\n\ntokmagic.generate(\n    {prompt},\n{given})\n"


def as_curl(record: RunRecord, messages: Sequence[Message], spec: ModelSpec) -> str | None:
    """A call of the server that answered; None where no server did, or it does not take what was asked.

    Of the key it names the environment variable.
    """
    if record.info.server is None or not messages:
        return None
    completion = record.params.get("completion") is True
    prompt = Prompt(tuple(messages), Sampling(**_sampling(record.params)), completion=completion)
    try:
        body = request_of(record.info.model_id, prompt, server_of(spec.server, record.info.provider))
    except UsageError:
        return None
    url = f"{record.info.server.rstrip('/')}/{'completions' if completion else 'chat/completions'}"
    parts = ["curl --no-buffer", shlex.quote(url), "-H 'Content-Type: application/json'"]
    if spec.api_key_name is not None:
        # A name in other letters than variables have may be a key that was given in its place.
        name = spec.api_key_name if spec.api_key_name.isupper() else "API_KEY"
        parts.append(f'-H "Authorization: Bearer ${name}"')
    parts.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(parts) + "\n"


def _sampling(params: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: params[name] for name in _SAMPLING if name in params}
    return given | ({"stop": tuple(given["stop"])} if "stop" in given else {})
