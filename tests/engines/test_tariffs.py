"""What an answer costs at a provider: the model's name, the service tier, the cost that the server reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.engines.endpoints import ASK, RATES, Ask
from tests.servers import ANSWER, USAGE, Endpoint, chunk, streams, usage_chunk, whole
from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.endpoint.engine import EndpointEngine
from tokmagic.prices import bill, reprice
from tokmagic.prices.hosted import hosted_rates
from tokmagic.runs.session import Session

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def at_provider(session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The session, whose model ``m`` is OpenAI's ``gpt-5-mini``, answered by the scripted server."""
    engine = session.models.engine("m")
    listed = property(lambda it: EngineInfo("m", "gpt-5-mini", "endpoint", provider="openai", server=it._target.shown))
    monkeypatch.setattr(type(engine), "info", listed)
    session.prices.reset("m")
    return session


# Names


@pytest.mark.parametrize(
    ("name", "base", "price"),
    [
        ("groq/compound", "https://api.groq.com/openai/v1", None),
        ("openrouter/auto", "https://openrouter.ai/api/v1", None),
        (
            "google/gemini-2.5-flash",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "google/gemini-2.5-flash",
        ),
        ("ai21/jamba-large-1.7", "https://openrouter.ai/api/v1", "openrouter/ai21/jamba-large-1.7"),
        ("openai/gpt-5-mini", "https://api.openai.com/v1", "openai/gpt-5-mini"),
        ("gpt-5-mini", "https://api.openai.com/v1", "openai/gpt-5-mini"),
        ("perplexity/sonar", "https://api.perplexity.ai", "perplexity/perplexity/sonar"),
        ("openai/gpt-5-mini", "https://models.example/v1", None),
    ],
)
def test_a_name_goes_out_as_given_and_is_found_in_the_price_table(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, base: str, price: str | None
) -> None:
    session.models.add("there", ModelSpec(name, api_base=base))
    engine = session.models.engine("there")
    assert isinstance(engine, EndpointEngine)
    assert (engine.info.model_id, engine.identity().model_id) == (name, name)
    sent: list[str] = []
    monkeypatch.setattr("tokmagic.engines.endpoint.engine.request_of", lambda model, *_: sent.append(model) or {})
    monkeypatch.setattr("tokmagic.engines.endpoint.engine.EndpointStream", lambda *_: None)
    engine.stream(ASK)
    assert sent == [name]
    source = session.rates(engine.info).source
    assert source == ("unknown" if price is None else f"genai-prices: {price}")


def test_the_users_own_prices_know_a_model_by_either_name(session: Session, tmp_path: Any) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[models."gpt-5-mini"]\ninput = 7\noutput = 8\n')
    session.settings.prices = str(file)
    for name in ("openai/gpt-5-mini", "gpt-5-mini"):
        session.models.add("gpt", ModelSpec(name, api_base="https://api.openai.com/v1"))
        assert session.rates(session.models.engine("gpt").info).input == Decimal(7)


# Service tiers

TIERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "none": ({}, {}, ""),
    "null": ({"service_tier": None}, {}, ""),
    "default": ({"service_tier": "default"}, {}, ""),
    "auto": ({"service_tier": "auto"}, {}, ""),
    "on_demand": ({"service_tier": "on_demand"}, {}, ""),
    "priority": ({"service_tier": "priority"}, {}, "?service_tier=priority"),
    "flex": ({"service_tier": "flex"}, {}, "?service_tier=flex"),
    "in capitals": ({"service_tier": "FLEX"}, {}, "?service_tier=flex"),
    "in the usage": ({}, {"service_tier": "batch"}, "?processing=batch"),
    "Google's": ({}, {"trafficType": "ON_DEMAND_PRIORITY"}, "?service_tier=priority"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", TIERS)
def test_the_service_tier_of_the_answer_decides_the_price(
    at_provider: Session, ask: Ask, name: str, stream: bool
) -> None:
    beside, inside, tariff = TIERS[name]
    counts = {**USAGE, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, **inside}
    if stream:
        chunks = [part | beside for part in ANSWER[:-1]]
        generation = ask(streams([*chunks, usage_chunk(counts) | beside]))
    else:
        body = whole("Hello!", usage=counts) | beside
        generation = ask(lambda _asked, wire: wire.answer(200, body), replace(ASK, stream=False))
    record = generation.record
    rates = hosted_rates(f"openai/gpt-5-mini{tariff}", record.started_at)
    assert record.rates == rates
    assert generation.cost == bill(generation.usage, None, rates)
    assert reprice(record, at_provider.prices, record.started_at).usd == generation.cost.usd
    (row,) = at_provider.ledger().runs()
    assert (row.rates, row.info.service_tier) == (rates, record.info.service_tier)


def test_a_tier_without_a_price_is_marked(at_provider: Session, ask: Ask) -> None:
    generation = ask(streams([part | {"service_tier": "scale"} for part in ANSWER]))
    standard = hosted_rates("openai/gpt-5-mini", generation.record.started_at)
    assert generation.record.rates == standard
    assert generation.cost.source == "estimated"
    assert "at service tier 'scale'" in str(generation.cost.anomaly)


def test_rates_of_ones_own_hold_at_every_tier(session: Session, ask: Ask) -> None:
    generation = ask(streams([part | {"service_tier": "priority"} for part in ANSWER]))
    assert (generation.record.rates, generation.cost.source, generation.cost.anomaly) == (RATES, "reported", None)


def test_a_run_costs_the_tiers_price_while_it_streams(at_provider: Session, ask: Ask) -> None:
    seen: list[Rates] = []

    class Watch:
        def token(self, _text: str) -> None:
            (row,) = at_provider.changes().rows
            seen.append(row.rates)

    ask(streams([part | {"service_tier": "priority"} for part in ANSWER]), watcher=Watch())
    assert {rates.source for rates in seen} == {"genai-prices: openai/gpt-5-mini?service_tier=priority"}


# Cache writes that are kept for an hour

ONE_HOUR: dict[str, dict[str, Any]] = {
    "Anthropic's": {
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
    },
    "LiteLLM's": {
        "prompt_tokens": 600,
        "completion_tokens": 10,
        "total_tokens": 610,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            "cache_creation_tokens": 500,
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
        },
    },
    "Bedrock's": {
        "inputTokens": 100,
        "outputTokens": 10,
        "totalTokens": 610,
        "cacheReadInputTokens": 0,
        "cacheWriteInputTokens": 500,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 200}, {"ttl": "1h", "inputTokens": 300}],
    },
}


@pytest.mark.parametrize("name", ONE_HOUR)
def test_a_cache_write_for_an_hour_has_its_own_price(session: Session, ask: Ask, name: str) -> None:
    rates = hosted_rates("anthropic/claude-sonnet-4-5", NOW)
    session.prices.set("m", rates)
    generation = ask(streams([chunk("word " * 5), chunk(reason="stop"), usage_chunk(ONE_HOUR[name])]))
    usage = generation.usage
    assert (usage.input_tokens, usage.cache_write_input_tokens, usage.cache_write_1h_input_tokens) == (600, 500, 300)
    # $3 in, $3.75 written for five minutes, $6 for an hour, $15 out for 1M tokens
    assert generation.cost.usd == Decimal("0.0003") + Decimal("0.00075") + Decimal("0.0018") + Decimal("0.00015")
    assert (generation.cost.bound, generation.cost.source) == ("exact", "reported")
    (row,) = session.ledger().runs()
    assert row.reading.usage == usage
    assert bill(row.reading.usage, None, row.rates).usd == generation.cost.usd


def test_a_part_for_an_hour_that_cannot_be_is_said(session: Session, ask: Ask) -> None:
    usage = ONE_HOUR["Anthropic's"] | {"cache_creation": {"ephemeral_1h_input_tokens": 800}}
    generation = ask(streams([chunk("a"), chunk(reason="stop"), usage_chunk(usage)]))
    assert generation.cost.anomaly is not None


# A cost of the server's own; ours is $0.000042.

COSTS: dict[str, tuple[dict[str, Any], str | None, bool]] = {
    "the same": ({"cost": 0.000042}, "0.000042", False),
    "within 1 %": ({"cost": 4.24e-05}, "0.0000424", False),
    "more": ({"cost": 0.000043}, "0.000043", True),
    "less": ({"cost": 0.00002}, "0.00002", True),
    "nothing": ({"cost": 0}, "0", True),
    "in parts": ({"cost": {"request_cost": 0.005, "total_cost": 0.00504}}, "0.00504", True),
    "ticks": ({"cost_in_usd_ticks": 420_000}, "0.000042", False),
    "one's own key": (
        {"cost": 0.000002, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00004}},
        "0.000042",
        False,
    ),
    "not one's own key": ({"cost": 0.000042, "cost_details": {"upstream_inference_cost": 0.000042}}, "0.000042", False),
    "none": ({"cost": None}, None, False),
    "a text": ({"cost": "free"}, None, False),
    "below 0": ({"cost": -1}, None, False),
    "true": ({"cost": True}, None, False),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_reported_cost_stands_beside_ours_and_a_difference_is_told(session: Session, ask: Ask, name: str) -> None:
    told, kept, differs = COSTS[name]
    generation = ask(streams([*ANSWER[:-1], usage_chunk(USAGE | told)]))
    assert generation.cost.usd == Decimal("0.000042")
    (row,) = session.ledger().runs()
    assert row.env.get("reported_cost_usd") == kept
    assert ("the server reports a cost of" in str(row.reading.cost.anomaly)) is differs
    assert ("the server reports a cost of" in generation.footer) is differs


# The same in a header of a whole answer, as LiteLLM's proxy has it; in a stream's it is of nothing yet.

HEADERS: dict[str, tuple[str, dict[str, Any], str | None, bool]] = {
    "the same": ("4.2e-05", {}, "0.000042", False),
    "more": ("0.000043", {}, "0.000043", True),
    "nothing": ("0.0", {}, "0", True),
    "beside one in the usage": ("0.5", {"cost": 0.000042}, "0.000042", False),
    "none": ("None", {}, None, False),
    "not a number": ("nan", {}, None, False),
    "too much": ("inf", {}, None, False),
    "below 0": ("-1", {}, None, False),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_cost_in_a_header_of_a_whole_answer_is_a_reported_one(session: Session, ask: Ask, name: str) -> None:
    header, told, kept, differs = HEADERS[name]
    body = whole("Hello!", usage=USAGE | told)
    generation = ask(
        lambda _asked, wire: wire.answer(200, body, X_LiteLLM_Response_Cost=header), replace(ASK, stream=False)
    )
    assert generation.cost.usd == Decimal("0.000042")
    (row,) = session.ledger().runs()
    assert row.env.get("reported_cost_usd") == kept
    assert ("the server reports a cost of" in str(row.reading.cost.anomaly)) is differs


def test_a_reported_cost_is_kept_where_there_is_no_price(session: Session, ask: Ask, server: Endpoint) -> None:
    session.prices.reset("m")
    generation = ask(streams([chunk("a"), chunk(reason="stop"), usage_chunk(USAGE | {"cost": 0.5})]))
    assert (generation.cost.usd, generation.record.env["reported_cost_usd"]) == (None, "0.5")
    assert generation.cost.anomaly is None
    assert server.last.body["model"] == "org/m"
