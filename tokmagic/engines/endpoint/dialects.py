"""What servers call things and where they put them: the one table of it. docs/endpoints.md says who, and since when.

Nothing here depends on a server's address: what an object says is decided by what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tokmagic.core.stream import FinishReason

COUNTS: Mapping[str, tuple[str, ...]] = {
    "input": (
        "prompt_tokens",
        "input_tokens",
        "promptTokenCount",
        "inputTokens",
        "inputTokenCount",
        "prompt_eval_count",
    ),
    "output": (
        "completion_tokens",
        "output_tokens",
        "candidatesTokenCount",
        "outputTokens",
        "outputTokenCount",
        "eval_count",
    ),
    "total": ("total_tokens", "totalTokenCount", "totalTokens"),
    "cached": (
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "input_tokens_details.cache_read_input_tokens",
        "cached_tokens",
        "cached_prompt_text_tokens",
        "prompt_cache_hit_tokens",
        "cachedContentTokenCount",
        "cache_read_input_tokens",
        "cacheReadInputTokens",
        "cacheReadInputTokenCount",
    ),
    "written": (
        "prompt_tokens_details.cache_creation_tokens",
        "prompt_tokens_details.cache_creation_input_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "input_tokens_details.cache_write_tokens",
        "cache_creation_input_tokens",
        "cacheWriteInputTokens",
        "cacheWriteInputTokenCount",
        "cache_creation",
    ),
    "hour": (
        "cache_creation.ephemeral_1h_input_tokens",
        "prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens",
        "cacheWrite1hInputTokens",
    ),
    "longer": (
        "input_tokens_details.cache_write_tokens_details.ttl_12h_tokens",
        "prompt_tokens_details.cache_write_tokens_details.ttl_12h_tokens",
        "prompt_tokens_details.cache_creation_token_details.ephemeral_12h_input_tokens",
    ),
    "reasoning": (
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
        "output_tokens_details.thinking_tokens",
        "reasoning_tokens",
        "thoughtsTokenCount",
    ),
}
"""The names of each count in a usage object, a dot before what is nested; several may be there at once.

``hour`` are the cache-write tokens that are kept for an hour, ``longer`` those for half a day, which have no rate here.
"""
TTL_DETAILS = "cacheDetails"
"""Bedrock's list of cache-write tokens by how long they are kept."""

PLAIN_INPUT = frozenset({"input_tokens", "inputTokens", "inputTokenCount"})
"""Names of an input from which Anthropic and Bedrock leave out what ``BESIDE`` names."""
BESIDE = frozenset(
    {
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "cache_creation",
        "cacheReadInputTokens",
        "cacheWriteInputTokens",
        "cacheReadInputTokenCount",
        "cacheWriteInputTokenCount",
    }
)
"""Names of cached and cache-write tokens that stand beside such an input."""

USAGE_KEYS = ("usage", "usageMetadata", "usage_metadata", "amazon-bedrock-invocationMetrics")
"""Keys of an object that hold counts: at its top, one level down under a vendor's own key, or in a choice."""

TIERS = ("service_tier", "serviceTier", "trafficType", "speed")
"""Names of the service tier, in an object or in its usage."""
COST = ("cost", "cost_usd", "total_cost", "cost_in_usd_ticks")
"""Names of a cost in USD in a usage, the sum of several under ``total_cost``."""
COST_HEADERS = ("x-litellm-response-cost",)
"""Headers of a whole answer that hold a cost in USD."""
TICKS_PER_USD = 10**10
"""xAI's unit."""

TIMES = ("metrics", "timings")
"""Where vLLM and llama.cpp have their own times; Groq has them in its usage."""
TIMED_OUTPUT = "predicted_n"
"""Where llama.cpp's times count the tokens of the one answer that they are of."""
SECONDS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "queue": (("queue_time_ms", 1e-3), ("queue_time", 1.0)),
    "first token": (("time_to_first_token_ms", 1e-3),),
    "prefill": (("prompt_ms", 1e-3), ("prompt_time", 1.0)),
    "ITL": (("mean_itl_ms", 1e-3), ("predicted_per_token_ms", 1e-3)),
}
"""The names of each time, and its unit in seconds."""

RUNNING = frozenset(
    {"", "null", "none", "nil", "undefined", "false", "not_finished", "unspecified"}
    | {"in_progress", "running", "continue", "pending"}
)
"""Words in the place of a finish reason that end nothing."""

_WORDS: Mapping[FinishReason, str] = {
    "stop": "stop eos eos_token stop_token end_turn stop_sequence complete completed normal finished end endoftext "
    "end_of_text",
    "length": "length max_length model_length limit error_limit max_new_tokens",
    "content_filter": "recitation blocklist spii model_armor error_toxic",
    "error": "cancel",
}
ENDS: Mapping[str, FinishReason] = {word: reason for reason, words in _WORDS.items() for word in words.split()}
"""Finish reasons in lower case with underscores."""
LIKE: tuple[tuple[str, FinishReason], ...] = (
    ("filter|safety|unsafe|sensitive|refus|moderat|prohibited|blocked|guardrail", "content_filter"),
    (
        "error|abort|cancel|fail|time_?out|overload|exception|malformed|unavailable|insufficient|rate_limit|quota|interrupt",
        "error",
    ),
    ("(token|length|context|output).*(max|limit|exceed|reach)|(max|limit).*(token|length|context|output)", "length"),
)
"""What the other finish reasons have in them: max_tokens, network_error, guardrail_intervened … The first one holds."""

REASONING = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thinking_content",
    "thought",
    "reasoning_details",
    "thinking_blocks",
)
"""Fields of a delta or a message that hold reasoning, as a text or in parts; what is in several is the same."""
PART_TEXTS = ("text", "thinking", "reasoning", "summary", "content", "output_text")
"""Where a part has its text, or a list of parts."""
CALL_KINDS = ("function", "custom")
"""Where one of a delta's ``tool_calls`` has its name and its text; the older ``function_call`` has them itself."""
CALL_TEXTS = ("name", "arguments", "input")
"""What of a call of a tool the model wrote."""
HIDDEN_PART = ("encrypted", "redacted")
"""What the types of parts contain whose reasoning is not to be read."""


def is_thought(kind: str) -> bool:
    """Whether a part of this ``type`` is reasoning: thinking, reasoning, reasoning.summary, thought, summary_text …"""
    kind = kind.lower()
    return any(word in kind for word in ("think", "reason", "thought", "summary", "analysis"))


def end_of(word: str) -> FinishReason | None:
    """The finish reason for a server's word; None for one that ends nothing."""
    word = word.strip().lower().replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    if word in RUNNING:
        return None
    alike = (reason for pattern, reason in LIKE if re.search(pattern, word))
    return ENDS.get(word) or next(alike, "other")
