"""A usage in each provider's own words is read as genai-prices reads it, whose table lists them."""

from __future__ import annotations

from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import Provider, UsageExtractor

from tokmagic.engines.endpoint.usage import read_usage

# Distinct, and each part smaller than the whole that it is of.
COUNTS = {
    "input_tokens": 1000,
    "output_tokens": 400,
    "cache_read_tokens": 300,
    "cache_write_tokens": 200,
    "cache_write_5m_tokens": 80,
    "cache_write_1h_tokens": 120,
    "output_reasoning_tokens": 150,
}
OTHER = {"embeddings", "images", "realtime", "live", "ocr", "ocr_annotated", "usage-event", "tokens", "decisions"}
"""Shapes of what is no answer to a prompt, of bills, and of Cohere's own API."""
TOOLS = "toolUsePromptTokenCount"  # there are none
TOTALS = {"promptTokenCount": "totalTokenCount", "prompt_tokens": "total_tokens"}
"""By the name of the input, that of the total, which OpenAI's and Google's shapes always have."""


def answer(extractor: UsageExtractor) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a server would send that has a number at every place that the extractor knows: the whole, and the usage."""
    usage: dict[str, Any] = {}
    for mapping in extractor.mappings:
        places = [mapping.path] if isinstance(mapping.path, str) else list(mapping.path)
        if mapping.dest not in COUNTS or TOOLS in places or not all(isinstance(it, str) for it in places):
            continue
        inner = usage
        for place in places[:-1]:
            inner = inner.setdefault(str(place), {})
        # Where one number counts twice, it is the part that it has a name for.
        if places[-1] not in inner or mapping.dest not in ("input_tokens", "output_tokens"):
            inner[str(places[-1])] = COUNTS[str(mapping.dest)]
    roots = [extractor.root] if isinstance(extractor.root, str) else list(extractor.root)
    whole: dict[str, Any] = usage
    for root in reversed(roots):
        whole = {str(root): whole}
    return {**whole, "model": "m", "modelVersion": "m", "result": {**whole.get("result", {}), "model": "m"}}, usage


CASES = {
    f"{provider.id} {extractor.api_flavor}": (provider, extractor)
    for provider in providers
    for extractor in provider.extractors or []
    if extractor.api_flavor not in OTHER
}


@pytest.mark.parametrize("name", CASES)
def test_a_usage_is_read_as_the_price_table_reads_it(name: str) -> None:
    provider, extractor = CASES[name]
    assert isinstance(provider, Provider)
    whole, usage = answer(extractor)
    _, theirs = provider.extract_usage(whole, api_flavor=extractor.api_flavor)
    expected = [
        theirs.input_tokens,
        theirs.output_tokens,
        theirs.cache_read_tokens,
        theirs.cache_write_tokens,
        theirs.cache_write_1h_tokens,
        theirs.output_reasoning_tokens,
    ]
    for input_name, total in TOTALS.items():
        if input_name in usage:
            usage[total] = int(expected[0] or 0) + int(expected[1] or 0)
    ours = read_usage(usage).usage
    assert ours is not None
    found = [
        ours.input_tokens,
        ours.output_tokens,
        ours.cached_input_tokens,
        ours.cache_write_input_tokens,
        ours.cache_write_1h_input_tokens,
        ours.reasoning_tokens,
    ]
    assert [it or 0 for it in found] == [it or 0 for it in expected]


def test_most_providers_words_are_in_the_table() -> None:
    assert len(CASES) > 40
