"""What differs between servers that all call themselves OpenAI-compatible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tokmagic.core.prompt import DRAWING, PENALTIES

OWN = ("temperature", "top_p", "seed")
"""OpenAI's own sampling options: every server takes them by these names."""
_EXTRAS: Mapping[str, str] = MappingProxyType({it: it for it in (*DRAWING, *PENALTIES) if it not in OWN})
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Server:
    """How to talk to one kind of server.

    ``extras`` are the sampling options beyond OpenAI's own, by what the server calls them; one that is not in it is
    refused rather than sent to be ignored; so are several answers, JSON schemas and log probabilities where it has no
    ``samples``, ``schemas`` or ``logprobs``. ``hidden_output``: reasoning is in ``total_tokens``, but not in
    ``completion_tokens``.
    """

    max_tokens: str = "max_tokens"
    stream_usage: bool = True
    continuous_usage: bool = False
    extras: Mapping[str, str] = field(default_factory=lambda: _EXTRAS)
    samples: bool = True
    schemas: bool = True
    logprobs: bool = True
    hidden_output: bool = False


SERVERS: Mapping[str, Server] = MappingProxyType(
    {
        "generic": Server(),
        "openai": Server(max_tokens="max_completion_tokens", extras=_NONE),
        "google": Server(extras=_NONE, hidden_output=True),
        "vllm": Server(continuous_usage=True),
        "sglang": Server(continuous_usage=True),
        "llama.cpp": Server(extras=MappingProxyType({**_EXTRAS, "repetition_penalty": "repeat_penalty"})),
        "ollama": Server(extras=_NONE),
        "litellm": Server(),
        "tgi": Server(extras=_NONE),
        # It streams usage by itself, answers 422 to options that it does not know, and ignores the others.
        "transformers": Server(stream_usage=False, extras=_NONE, samples=False, schemas=False, logprobs=False),
    }
)
"""By the name that ``%model add --server`` takes."""


def server_of(name: str | None, provider: str | None) -> Server:
    """Return the server named, else the one that a provider runs, else one that takes what most take."""
    if name is None and provider is not None and provider in SERVERS:
        name = provider
    return SERVERS[name or "generic"]
