"""What is asked of a server: OpenAI's chat and completions as JSON."""

from __future__ import annotations

import json
from typing import Any

from tokmagic.core.prompt import DRAWING, PENALTIES, Prompt
from tokmagic.engines.endpoint.servers import OWN, Server
from tokmagic.errors import UsageError


def request_of(model: str, prompt: Prompt, server: Server) -> dict[str, Any]:
    """Return the request's body: what was asked for, and nothing that was not, but for the limit of output tokens.

    Raises UsageError for an option that this server does not take.
    """
    sampling = prompt.sampling
    body: dict[str, Any] = {"model": model}
    if prompt.completion:
        body["prompt"] = prompt.messages[0].content
        body["max_tokens"] = sampling.max_tokens
    else:
        body["messages"] = [{"role": message.role, "content": message.content} for message in prompt.messages]
        body[server.max_tokens] = sampling.max_tokens
    for name in (*DRAWING, *PENALTIES, "seed"):
        if (value := getattr(sampling, name)) is None:
            continue
        if name not in OWN and not server.extras:
            raise UsageError(f"this server does not accept --{name.replace('_', '-')}; leave it out")
        body[server.names.get(name, name)] = value
    ignored = {
        "-n": sampling.n > 1 and not server.samples,
        "--json-schema": sampling.json_schema is not None and not server.schemas,
        "--logprobs": sampling.logprobs and not server.logprobs,
        "--ignore-eos": prompt.ignore_eos and not server.ignore_eos,
        "min_tokens": prompt.min_tokens > 0 and not (server.ignore_eos and server.min_tokens),
    }
    for option, asked in ignored.items():
        if asked:
            raise UsageError(f"this server ignores {option}; leave it out")
    if sampling.logprobs:
        body["logprobs"] = server.completion_logprobs if prompt.completion else True
    if prompt.ignore_eos:
        body["ignore_eos"] = True
    if prompt.min_tokens:
        body["min_tokens"] = prompt.min_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.n > 1:
        body["n"] = sampling.n
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if server.times:
        body["include_metrics"] = True
    if prompt.stream:
        body["stream"] = True
        if server.stream_usage:
            body["stream_options"] = {"include_usage": True}
        if server.continuous_usage:
            body["stream_options"]["continuous_usage_stats"] = True
    return body
