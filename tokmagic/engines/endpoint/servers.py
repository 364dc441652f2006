"""What differs between servers that all call themselves OpenAI-compatible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tokmagic.engines.base import SHARED

OWN = ("temperature", "top_p", "seed")
"""OpenAI's own sampling options: every server takes them by these names."""


@dataclass(frozen=True, slots=True)
class Server:
    """How to talk to one kind of server.

    It may be asked for ``continuous_usage``, with every chunk, and for its own ``times``. ``names`` has the sampling
    options that the server calls otherwise. Those beyond OpenAI's own are refused rather than sent to be ignored where
    it takes no ``extras``; so are several answers, JSON schemas and log probabilities where it has no ``samples``,
    ``schemas`` or ``logprobs``. ``completion_logprobs`` asks for them in completions: OpenAI's take the number of
    likeliest tokens to tell of beside the one that was drawn. ``ignore_eos``: it may be asked for an answer that goes
    on past its end; ``min_tokens``: for one of so many tokens at least, too.
    """

    max_tokens: str = "max_tokens"
    stream_usage: bool = True
    continuous_usage: bool = False
    times: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    extras: bool = True
    samples: bool = True
    schemas: bool = True
    logprobs: bool = True
    completion_logprobs: int | bool = 1
    ignore_eos: bool = True
    min_tokens: bool = True


SERVERS: Mapping[str, Server] = MappingProxyType(
    {
        "generic": Server(),
        "openai": Server(max_tokens="max_completion_tokens", extras=False, ignore_eos=False),
        "google": Server(extras=False, ignore_eos=False),
        "vllm": Server(continuous_usage=True, times=True),
        SHARED: Server(continuous_usage=True, completion_logprobs=0),
        "sglang": Server(continuous_usage=True),
        "llama.cpp": Server(names={"repetition_penalty": "repeat_penalty"}, min_tokens=False),
        "ollama": Server(extras=False, ignore_eos=False),
        "litellm": Server(),
        "tgi": Server(extras=False, ignore_eos=False),
        # Its log probabilities are of ids, without their texts.
        "mlx": Server(samples=False, schemas=False, completion_logprobs=True, ignore_eos=False),
        # It streams usage by itself, answers 422 to options that it does not know, and ignores the others.
        "transformers": Server(
            stream_usage=False, extras=False, samples=False, schemas=False, logprobs=False, ignore_eos=False
        ),
    }
)
"""By the name that ``%model add --server`` takes."""


def server_of(name: str | None, provider: str | None) -> Server:
    """Return the server named, else the one that a provider runs, else one that takes what most take."""
    if name is None and provider is not None and provider in SERVERS:
        name = provider
    return SERVERS[name or "generic"]
