"""A server's usage object becomes our Usage; what cannot be is said, and never billed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokmagic.core.stream import Usage
from tokmagic.formatting.numbers import counted

# No context of today is near it, and sums of such counts stay far inside the ledger's 64 bits.
_MOST = 1_000_000_000


class _AbsurdError(Exception):
    """A count that cannot be."""


def read_usage(given: object, *, hidden_output: bool = False) -> tuple[Usage | None, str | None]:
    """Read the usage object of an OpenAI-compatible or an Anthropic-style answer; where it cannot be, say why.

    OpenAI's ``prompt_tokens`` include what was cached; Anthropic's ``input_tokens`` leave out what was read from the
    cache or written to it, which stand beside them. Either way the input total counts each token once. With
    ``hidden_output`` what ``total_tokens`` exceeds the sum by is reasoning that ``completion_tokens`` leave out.
    """
    if not isinstance(given, Mapping):
        return None, f"the server's usage is {_shown(given)}, not an object"
    try:
        usage = _openai(given, hidden_output) if "prompt_tokens" in given else _anthropic(given)
    except _AbsurdError as error:
        return None, f"the server reports {error}"
    return (None if usage.input_tokens is None and usage.output_tokens is None else usage), None


def _openai(given: Mapping[str, Any], hidden_output: bool) -> Usage:
    total_input, output = _count(given, "prompt_tokens"), _count(given, "completion_tokens")
    inputs, outputs = _details(given, "prompt_tokens_details"), _details(given, "completion_tokens_details")
    # Proxies in front of Anthropic's API add its own names beside OpenAI's.
    cached = _first((inputs, "cached_tokens"), (given, "cache_read_input_tokens"), (given, "prompt_cache_hit_tokens"))
    written = _first(
        (given, "cache_creation_input_tokens"), (inputs, "cache_creation_tokens"), (inputs, "cache_write_tokens")
    )
    reasoning = _first((outputs, "reasoning_tokens"), (given, "reasoning_tokens"))
    whole = _count(given, "total_tokens")
    parts = (cached or 0) + (written or 0)
    if total_input is not None and parts > 0 and whole == total_input + parts + (output or 0):
        total_input += parts  # this proxy left them out, as Anthropic does
    if hidden_output and whole is not None and total_input is not None:
        hidden = max(0, whole - total_input - (output or 0))
        output = (output or 0) + hidden
        reasoning = hidden if reasoning is None else reasoning
    return _checked(total_input, output, cached, written, reasoning)


def _anthropic(given: Mapping[str, Any]) -> Usage:
    plain, output = _count(given, "input_tokens"), _count(given, "output_tokens")
    inputs, outputs = _details(given, "input_tokens_details"), _details(given, "output_tokens_details")
    read, written = _count(given, "cache_read_input_tokens"), _count(given, "cache_creation_input_tokens")
    reasoning = _count(outputs, "reasoning_tokens")
    if read is None and written is None:
        # OpenAI's newer names, whose input is the total.
        return _checked(plain, output, _count(inputs, "cached_tokens"), None, reasoning)
    total = None if plain is None else plain + (read or 0) + (written or 0)
    return _checked(total, output, read or 0, written or 0, reasoning)


def _checked(
    total_input: int | None, output: int | None, cached: int | None, written: int | None, reasoning: int | None
) -> Usage:
    parts = (cached or 0) + (written or 0)
    if total_input is not None and parts > total_input:
        raise _AbsurdError(f"{parts} cached and cache-write tokens in an input of {total_input}")
    if output is not None and (reasoning or 0) > output:
        raise _AbsurdError(f"{reasoning} reasoning tokens in an output of {output}")
    return Usage(
        input_tokens=total_input,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_input_tokens=written,
        reasoning_tokens=reasoning,
        input_source="unknown" if total_input is None else "reported",
        output_source="unknown" if output is None else "reported",
    )


def _details(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = given.get(name)
    return found if isinstance(found, Mapping) else {}


def _count(given: Mapping[str, Any], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise _AbsurdError(f"{_shown(value)} {name.replace('_', ' ')}")
    return value


def _first(*places: tuple[Mapping[str, Any], str]) -> int | None:
    """The first count that there is; all are looked at, so that one that cannot be is found."""
    return next((count for count in [_count(*place) for place in places] if count is not None), None)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else f"{value:.3g}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def implausible(usage: Usage, prompt_bytes: int, answer_bytes: int, most_output: int) -> str | None:
    """Say what is odd about a server's counts that may still be billed: more tokens than bytes; None if nothing is.

    ``most_output`` is how many output tokens were allowed. No tokenizer makes more tokens than bytes, beside what a
    template adds.
    """
    if "reported" not in (usage.input_source, usage.output_source):
        return None
    if (usage.input_tokens or 0) > 2 * prompt_bytes + 10_000:
        return f"the server reports {usage.input_tokens:,} input tokens for a prompt of {counted(prompt_bytes, 'byte')}"
    if (usage.output_tokens or 0) > max(most_output, answer_bytes) + 1_000:
        return (
            f"the server reports {usage.output_tokens:,} output tokens for an answer of "
            f"{counted(answer_bytes, 'byte')}, {most_output:,} were allowed"
        )
    return None
