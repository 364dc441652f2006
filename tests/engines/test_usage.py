"""What a usage object says: counts beside or inside others, under many names, absurd ones; the truth or a mark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmagic.core.money import Rates
from tokmagic.core.stream import Usage
from tokmagic.engines.endpoint.usage import read_usage
from tokmagic.prices import bill

RATES = Rates(input=Decimal(1), output=Decimal(10), cached=Decimal("0.1"), cache_write=Decimal("1.25"), source="%price")


def openai(prompt: int, completion: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    """A usage in OpenAI's words. ``cached`` and ``reasoning`` go where OpenAI has them."""
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if total is not None:
        found["total_tokens"] = total
    if "cached" in more:
        found["prompt_tokens_details"] = {"cached_tokens": more.pop("cached")}
    if "reasoning" in more:
        found["completion_tokens_details"] = {"reasoning_tokens": more.pop("reasoning")}
    return found | more


def counts(usage: Usage | None) -> tuple[int | None, ...]:
    assert usage is not None
    return (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    )


# (input, cached, written, output, reasoning)
SURE: dict[str, tuple[dict[str, Any], tuple[int | None, ...]]] = {
    "reasoning inside": (openai(30, 100, 130, reasoning=80), (30, None, None, 100, 80)),
    "Anthropic's by Portkey's gateway": (
        openai(200, 9, 1009, cached=300, cache_read_input_tokens=300, cache_creation_input_tokens=500),
        (1000, 300, 500, 9, None),
    ),
    "Google's by Portkey's gateway": (openai(1000, 9, 1049, cached=300, reasoning=40), (1000, 300, None, 49, 40)),
    "written to a cache for half an hour": (
        openai(100, 5, 105)
        | {
            "prompt_tokens_details": {
                "cache_write_tokens": 60,
                "cache_write_tokens_details": {"ttl_12h_tokens": 0, "ttl_30m_tokens": 60},
            }
        },
        (100, None, 60, 5, None),
    ),
    "reasoning beside, more than the rest": (openai(30, 4, 434, reasoning=400), (30, None, None, 404, 400)),
    "reasoning beside, less than the rest": (openai(30, 100, 210, reasoning=80), (30, None, None, 180, 80)),
    "reasoning beside, at the top": (openai(30, 100, 210, reasoning_tokens=80), (30, None, None, 180, 80)),
    "reasoning in the total alone": (openai(12, 3, 20), (12, None, None, 8, 5)),
    "no output but in the total": ({"prompt_tokens": 8, "total_tokens": 263}, (8, None, None, 255, None)),
    "cached inside": (openai(100, 5, 105, cached=50), (100, 50, None, 5, None)),
    "cached beside": (openai(100, 5, 155, cached=50, reasoning=0), (150, 50, None, 5, 0)),
    "cached beside, more than the rest": (openai(100, 5, 255, cached=150, reasoning=0), (250, 150, None, 5, 0)),
    "cached beside, in a proxy's words": (openai(100, 5, 155, cache_read_input_tokens=50), (150, 50, None, 5, None)),
    "cached and reasoning beside": (openai(100, 5, 196, cached=50, reasoning=41), (150, 50, None, 46, 41)),
    "no prompt_tokens, a total": ({"completion_tokens": 5, "total_tokens": 17}, (12, None, None, 5, None)),
    "no prompt_tokens": ({"completion_tokens": 5}, (None, None, None, 5, None)),
    "a prompt of 0 that the total knows": (openai(0, 5, 17), (12, None, None, 5, None)),
    "zeros beside the counts": (openai(12, 3, 15, input_tokens=0, output_tokens=0), (12, None, None, 3, None)),
    "the same under two names": (openai(12, 3, 15, input_tokens=12, output_tokens=3), (12, None, None, 3, None)),
    "two names that a part reconciles": (
        openai(112, 3, 115, input_tokens=12, cache_read_input_tokens=100),
        (112, 100, None, 3, None),
    ),
    "an output that reasoning reconciles": (
        openai(30, 4, 434, output_tokens=404, reasoning=400),
        (30, None, None, 404, 400),
    ),
    "anthropic": (
        {"input_tokens": 3, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 6},
        (12, 5, 4, 6, None),
    ),
    "anthropic's writes by how long they are kept": (
        {
            "input_tokens": 3,
            "output_tokens": 6,
            "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
        },
        (12, 0, 9, 6, None),
    ),
    "bedrock": (
        {"inputTokens": 3, "outputTokens": 6, "totalTokens": 14, "cacheReadInputTokens": 5},
        (8, 5, 0, 6, None),
    ),
    "gemini": (
        {"promptTokenCount": 8, "candidatesTokenCount": 3, "thoughtsTokenCount": 20, "totalTokenCount": 31},
        (8, None, None, 23, 20),
    ),
    "deepseek": (
        openai(20, 3, 23, prompt_cache_hit_tokens=16, prompt_cache_miss_tokens=4),
        (20, 16, None, 3, None),
    ),
    "moonshot": (openai(20, 3, 23, cached_tokens=16), (20, 16, None, 3, None)),
    "a total of 0": (openai(12, 3, 0), (12, None, None, 3, None)),
    "floats": ({"prompt_tokens": 12.0, "completion_tokens": 3.0}, (12, None, None, 3, None)),
}

# The counts that are left, and what the mark says.
MARKED: dict[str, tuple[Any, tuple[int | None, ...] | None, str]] = {
    "cached above the prompt": (openai(100, 5, cached=150), (100, None, None, 5, None), "150 cached"),
    "cached above the prompt, by the sum": (openai(100, 5, 105, cached=150), (100, None, None, 5, None), "150 cached"),
    "reasoning above the output": (openai(12, 3, 15, reasoning=99), (12, None, None, 3, None), "99 reasoning"),
    "reasoning above the output, no total": (openai(12, 3, reasoning=99), (12, None, None, 3, None), "99 reasoning"),
    "a negative prompt": (openai(-5, 3), (None, None, None, 3, None), "-5 prompt tokens"),
    "a prompt in words": ({"prompt_tokens": "many", "completion_tokens": 3}, (None, None, None, 3, None), "'many'"),
    "a prompt that is a truth": ({"prompt_tokens": True, "completion_tokens": 3}, (None, None, None, 3, None), "True"),
    "an output beyond all": (openai(12, 10**30), (12, None, None, None, None), "1e+30"),
    "no count at all": (openai(-1, -1), None, "-1 completion tokens"),
    "a list": (["nonsense"], None, "not an object"),
    "two names that differ": (openai(12, 3, output_tokens=9), (12, None, None, 9, None), "3 and 9 output"),
    "a proxy's cached part, no total": (
        openai(100, 5, cache_read_input_tokens=50),
        (100, 50, None, 5, None),
        "inside or beside",
    ),
    "a proxy's cached part above its prompt, no total": (
        openai(3, 6, cache_read_input_tokens=5),
        (8, 5, None, 6, None),
        "beside",
    ),
    "anthropic with a total of two counts": (
        {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 6, "total_tokens": 9},
        (8, 5, 0, 6, None),
        "not in its total",
    ),
    "two cached counts": (openai(20, 3, cached=5, cached_tokens=9), (20, 9, None, 3, None), "5 and 9 cached"),
    "a total beyond its parts": (openai(12, 30, 100, reasoning=7), (12, None, None, 88, 7), "total of 100"),
    "written to a cache for longer than a price is known, by OpenAI": (
        {
            "input_tokens": 100,
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 60,
                "cache_write_tokens_details": {"ttl_12h_tokens": 40, "ttl_30m_tokens": 20},
            },
            "output_tokens": 5,
            "total_tokens": 105,
        },
        (100, 0, 60, 5, None),
        "40 cache-write tokens that are kept for 12 hours",
    ),
    "written to a cache for longer than a price is known, by LiteLLM": (
        openai(100, 5, 105)
        | {
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_creation_tokens": 60,
                "cache_creation_token_details": {
                    "ephemeral_30m_input_tokens": 0,
                    "ephemeral_1h_input_tokens": None,
                    "ephemeral_12h_input_tokens": 60,
                },
            }
        },
        (100, 0, 60, 5, None),
        "60 cache-write tokens that are kept for 12 hours",
    ),
    "a sum of the cached part or of unnamed reasoning": (
        openai(100, 5, 155, cached=50),
        (150, 50, None, 5, None),
        "two ways",
    ),
    "a sum that can be read twice": (
        openai(100, 50, 190, cached=40, reasoning=40),
        (100, 40, None, 90, 40),
        "two ways",
    ),
}


@pytest.mark.parametrize("name", SURE)
def test_the_true_counts_come_out(name: str) -> None:
    given, expected = SURE[name]
    told = read_usage(given)
    assert counts(told.usage) == expected
    assert (told.anomaly, told.unsure) == (None, False)


@pytest.mark.parametrize("name", MARKED)
def test_what_cannot_be_is_marked_and_takes_no_good_count_along(name: str) -> None:
    given, expected, says = MARKED[name]
    told = read_usage(given)
    assert (None if told.usage is None else counts(told.usage)) == expected
    assert says in str(told.anomaly)
    if told.usage is not None:
        cost = bill(told.usage, None, RATES, cut=told.unsure)
        assert cost.anomaly is None, "what is left goes together"


# Whatever a dialect makes of a true count


@dataclass(frozen=True)
class True_:
    """What really was: cached and written are parts of the input, reasoning is one of the output."""

    input: int
    cached: int
    written: int
    output: int
    reasoning: int

    @property
    def usage(self) -> Usage:
        return Usage(
            input_tokens=self.input,
            cached_input_tokens=self.cached,
            cache_write_input_tokens=self.written,
            output_tokens=self.output,
            reasoning_tokens=self.reasoning,
            input_source="reported",
            output_source="reported",
        )


@st.composite
def true_counts(draw: st.DrawFn) -> True_:
    size = st.one_of(st.integers(0, 12), st.integers(0, 200_000))
    plain, cached, written, spoken, reasoning = (draw(size) for _ in range(5))
    return True_(1 + plain + cached + written, cached, written, spoken + reasoning, reasoning)


def _anthropic(true: True_) -> dict[str, Any]:
    return {
        "input_tokens": true.input - true.cached - true.written,
        "cache_read_input_tokens": true.cached,
        "cache_creation_input_tokens": true.written,
        "output_tokens": true.output,
    }


def _inside(true: True_) -> dict[str, Any]:
    return {
        "prompt_tokens": true.input,
        "completion_tokens": true.output,
        "total_tokens": true.input + true.output,
        "prompt_tokens_details": {"cached_tokens": true.cached, "cache_write_tokens": true.written},
        "completion_tokens_details": {"reasoning_tokens": true.reasoning},
    }


def _without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}


def _beside(true: True_) -> dict[str, Any]:
    return _inside(true) | {"completion_tokens": true.output - true.reasoning}


def _proxied(true: True_) -> dict[str, Any]:
    found = _anthropic(true)
    return _without(found, "input_tokens", "output_tokens") | {
        "prompt_tokens": found["input_tokens"],
        "completion_tokens": true.output,
        "total_tokens": true.input + true.output,
    }


DIALECTS: dict[str, Callable[[True_], dict[str, Any]]] = {
    "openai": _inside,
    "openai without a total": lambda true: _without(_inside(true), "total_tokens"),
    "openai's responses": lambda true: {
        "input_tokens": true.input,
        "output_tokens": true.output,
        "total_tokens": true.input + true.output,
        "input_tokens_details": {"cached_tokens": true.cached, "cache_write_tokens": true.written},
        "output_tokens_details": {"reasoning_tokens": true.reasoning},
    },
    "details that are null": lambda true: (
        _inside(true) | {"prompt_tokens_details": None, "completion_tokens_details": None}
    ),
    "xai": _beside,
    "google": lambda true: _without(_beside(true), "completion_tokens_details"),
    "google, nothing but reasoning": lambda true: _without(
        _beside(true), "completion_tokens", "completion_tokens_details"
    ),
    "gemini": lambda true: {
        "promptTokenCount": true.input,
        "cachedContentTokenCount": true.cached,
        "candidatesTokenCount": true.output - true.reasoning,
        "thoughtsTokenCount": true.reasoning,
        "totalTokenCount": true.input + true.output,
    },
    "anthropic": _anthropic,
    "bedrock": lambda true: {
        "inputTokens": true.input - true.cached - true.written,
        "cacheReadInputTokens": true.cached,
        "cacheWriteInputTokens": true.written,
        "outputTokens": true.output,
        "totalTokens": true.input + true.output,
    },
    "a proxy that leaves the cached part out": _proxied,
    "a proxy that adds the cached part": lambda true: (
        _proxied(true) | {"prompt_tokens": true.input, "input_tokens": true.input - true.cached - true.written}
    ),
    "a proxy that leaves the cached part out, without a total": lambda true: _without(_proxied(true), "total_tokens"),
    "anthropic with a total of two counts": lambda true: (
        _anthropic(true) | {"total_tokens": true.input - true.cached - true.written + true.output}
    ),
    "a proxy with zeros under the other names": lambda true: _inside(true) | {"input_tokens": 0, "output_tokens": 0},
    "deepseek": lambda true: (
        _without(_inside(true), "prompt_tokens_details")
        | {"prompt_cache_hit_tokens": true.cached, "prompt_cache_miss_tokens": true.input - true.cached}
    ),
    "moonshot": lambda true: _without(_inside(true), "prompt_tokens_details") | {"cached_tokens": true.cached},
    "without prompt_tokens": lambda true: _without(_inside(true), "prompt_tokens", "completion_tokens_details"),
    "without a cached part, without a sum": lambda true: {
        "prompt_tokens": true.input,
        "completion_tokens": true.output,
    },
}


@given(true_counts(), st.sampled_from(sorted(DIALECTS)), st.sampled_from([None, "cached", "cache_write"]))
def test_the_true_count_comes_out_of_any_dialect_or_a_mark_says_why_not(
    true: True_, dialect: str, without_rate: str | None
) -> None:
    told = read_usage(DIALECTS[dialect](true))
    assert told.usage is not None
    found, truth = told.usage, true.usage
    right = (found.input_tokens, found.output_tokens) == (truth.input_tokens, truth.output_tokens)
    assert right or told.anomaly is not None
    rates = replace(RATES, **{without_rate: None}) if without_rate else RATES
    cost, least = bill(found, None, rates, cut=told.unsure), bill(truth, None, rates)
    assert cost.anomaly is None
    assert cost.usd is not None
    assert least.usd is not None
    assert cost.usd >= least.usd or cost.bound == "at_least" or cost.source == "estimated"
    if right and told.anomaly is None and None not in (found.cached_input_tokens, found.cache_write_input_tokens):
        assert (cost.usd, cost.bound) == (least.usd, "exact")


@given(
    st.dictionaries(
        st.sampled_from([*_inside(True_(1, 0, 0, 1, 0)), *_anthropic(True_(1, 0, 0, 1, 0))]),
        st.one_of(
            st.none(),
            st.integers(-5, 30),
            st.floats(),
            st.booleans(),
            st.text(max_size=3),
            st.lists(st.integers(), max_size=1),
            st.dictionaries(
                st.sampled_from(["cached_tokens", "reasoning_tokens", "cache_write_tokens"]), st.integers(-3, 40)
            ),
        ),
    )
)
def test_nothing_in_a_usage_breaks_a_run_or_its_bill(usage: dict[str, Any]) -> None:
    told = read_usage(usage)
    if told.usage is not None:
        assert bill(told.usage, None, RATES, cut=told.unsure).anomaly is None
