"""Hosted prices: what the price package computes itself, with the traps of its own lookup shut out."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider, StartDateConstraint

from tokmagic.core.money import Rates
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Usage
from tokmagic.errors import PriceError
from tokmagic.prices import PriceBook, bill
from tokmagic.prices.hosted import hosted_rates, provider_of

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0)
SOME = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-pro", "mistral": "codestral"}


def accepted(at: datetime, info_of: str | None = None) -> Iterator[tuple[Provider, ModelInfo, Rates]]:
    """Each model of the package's table that has a price we can express."""
    for provider in providers:
        for info in provider.models:
            try:
                yield provider, info, hosted_rates(f"{provider.id}/{info.id}", at)
            except PriceError:
                continue


def theirs(
    provider: Provider, info: ModelInfo, usage: Usage, at: datetime, tariff: dict[str, str] | None = None
) -> Decimal:
    """What the package itself computes."""
    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_input_tokens,
    )
    return info.calc_price(counts, provider, genai_request_timestamp=at, price_context=tariff).total_price


def usage(input_tokens: int, output_tokens: int = 77) -> Usage:
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=input_tokens // 5,
        cache_write_input_tokens=input_tokens // 7,
        input_source="reported",
        output_source="reported",
    )


def refused(model: str, at: datetime = NOW) -> str:
    with pytest.raises(PriceError) as raised:
        hosted_rates(model, at)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_every_bill_is_what_the_package_computes_below_at_and_above_each_tier() -> None:
    compared, tiered, seen = 0, 0, set()
    for provider, info, rates in accepted(NOW):
        edges = {1_000, *(tier.above_tokens + step for tier in rates.tiers for step in (0, 1))}
        for tokens in edges:
            ours = bill(usage(tokens), None, rates)
            assert ours.usd == theirs(provider, info, usage(tokens), NOW), (provider.id, info.id, tokens)
            compared += 1
        tiered += bool(rates.tiers)
        seen.add(provider.id)
    assert compared > 1000
    assert tiered > 50
    assert set(SOME) < seen


def test_a_cache_write_for_an_hour_costs_what_the_table_says() -> None:
    found = 0
    for _, info, rates in accepted(NOW):
        hourly = vars(info.get_prices(NOW)).get("cache_write_1h_mtok")
        if hourly is None:
            assert rates.cache_write_1h is None
            continue
        assert rates.cache_write_1h == getattr(hourly, "base", hourly)
        written = replace(usage(100), input_tokens=100, cached_input_tokens=0, cache_write_input_tokens=100)
        cost = bill(replace(written, cache_write_1h_input_tokens=100, output_tokens=0), None, rates)
        assert cost.usd == rates.cache_write_1h * 100 / 1_000_000
        found += 1
    assert found > 50


def test_a_dated_price_holds_from_its_day_on() -> None:
    changes = 0
    for provider in providers:
        for info in provider.models:
            for price in info.prices if isinstance(info.prices, list) else []:
                if not isinstance(price.constraint, StartDateConstraint):
                    continue
                begins = datetime.combine(price.constraint.start_date, datetime.min.time(), UTC)
                for moment in (begins - timedelta(seconds=1), begins):
                    try:
                        rates = hosted_rates(f"{provider.id}/{info.id}", moment)
                    except PriceError:
                        continue
                    assert bill(usage(900), None, rates).usd == theirs(provider, info, usage(900), moment)
                    assert rates.version == f"{genai_prices.__version__}, as of {moment:%Y-%m-%d}"
                    changes += 1
    assert changes > 50


def test_a_time_of_day_is_taken_in_utc() -> None:
    before = "2026-11-24T00:30:00+02:00"
    rates = hosted_rates("openai/gpt-5-mini", datetime.fromisoformat(before))
    assert rates.version == f"{genai_prices.__version__}, as of 2026-11-23"


@pytest.mark.parametrize(("provider", "model"), SOME.items())
def test_rates_say_where_they_come_from(provider: str, model: str) -> None:
    rates = hosted_rates(f"{provider.upper()}/{model}", NOW)
    assert rates.source.startswith(f"genai-prices: {provider}/")
    assert rates.version == f"{genai_prices.__version__}, as of 2026-11-24"


LOOSE = ("ft:gpt-4o-mini-2024-07-18:acme::abc", "ft:gpt-3.5-turbo:acme", "claude-3-5-haiku-of-mine", "my-claude-v2")


# Tariffs


def test_a_tariff_is_priced_as_the_package_does() -> None:
    compared = 0
    for provider in providers:
        for info in provider.models:
            for variant in info.price_variants or ():
                if variant.constraint is not None and not variant.constraint.active(NOW):
                    continue
                query = "&".join(f"{key}={value}" for key, value in variant.when.items())
                try:
                    rates = hosted_rates(f"{provider.id}/{info.id}?{query}", NOW)
                except PriceError:
                    continue
                assert bill(usage(900), None, rates).usd == theirs(provider, info, usage(900), NOW, variant.when)
                assert rates.source == f"genai-prices: {provider.id}/{info.id}?{query}"
                compared += 1
    assert compared > 50


def test_an_unknown_tariff_is_never_the_standard_one() -> None:
    standard, batch = (hosted_rates(f"openai/gpt-5-mini{tariff}", NOW) for tariff in ("", "?processing=batch"))
    assert batch.input is not None
    assert standard.input is not None
    assert batch.input < standard.input
    assert "gpt-5-mini has no tariff 'processing=bath'; it has processing=batch" in refused(
        "openai/gpt-5-mini?processing=bath"
    )
    assert "has no tariff" in refused("openai/gpt-5-mini?processing=batch&colour=red")
    assert "it has only the standard one" in refused("groq/deepseek-r1-distill-llama-70b?processing=batch")
    assert "no tariff" in refused("openai/gpt-5-mini?batch")


# Names


def test_a_name_is_its_id_an_alias_or_a_dated_release() -> None:
    mini = hosted_rates("openai/gpt-5-mini", NOW)
    for name in ("GPT-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-mini-20250807"):
        assert hosted_rates(f"openai/{name}", NOW) == mini
    assert hosted_rates("anthropic/claude-3-5-haiku-20241022", NOW).source.endswith("claude-3-5-haiku-latest")
    assert hosted_rates("openai/gpt-4o-2024-05-13", NOW).input == Decimal(5), "a release with a price of its own"
    assert hosted_rates("openai/gpt-4o", NOW).input == Decimal("2.5")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt-5-mini", "is not a hosted model; give PROVIDER/MODEL, such as openai/gpt-5-mini"),
        ("openai/", "is not a hosted model"),
        ("/gpt-5-mini", "is not a hosted model"),
        ("opnai/gpt-5-mini", r"no prices are known for provider 'opnai' \(did you mean openai\?\)"),
        ("openai/gpt-5-minni", r"no price is known for 'gpt-5-minni' at openai \(did you mean gpt-5-mini\?\)"),
        ("openai/gpt-4-2031-01-01", "no price is known for 'gpt-4-2031-01-01'"),
        ("openai/gpt-5-mini-2025-02-30", "no price is known for 'gpt-5-mini-2025-02-30'"),
        ("openai/gpt-5-mini-preview-of-mine", "no price is known for"),
        ("openai/ft:gpt-4o:acme::abc", "'ft:gpt-4o:acme::abc' is a fine-tuned model whose price is not that"),
        ("openai/ft:gpt-4o-mini", "is a fine-tuned model"),
        ("anthropic/claude-3-5-haiku", "no price is known for"),
        ("anthropic/my-claude-2", "no price is known for"),
        ("azure/gpt-5-mini", "no price is known for 'gpt-5-mini' at azure, but openai/gpt-5-mini has one"),
        ("perplexity/sonar", "perplexity/sonar also bills requests kcount, which cannot be metered"),
        ("perplexity/sonar-deep-research", "also bills"),
        ("openai/text-embedding-3-small", "has no output price for openai/text-embedding-3-small"),
        ("openrouter/google/gemini-2.5-flash", "cache_write rate .* is finer than one picodollar per token"),
    ],
)
def test_what_is_not_known_exactly_is_refused(model: str, says: str) -> None:
    assert re.search(says, refused(model))


def test_the_package_itself_would_have_matched_what_is_refused_here() -> None:
    """The traps are real: without our own look-up each of these has the price of another model."""
    for name in LOOSE:
        assert any(provider.find_model(name) for provider in providers if provider.id in ("openai", "anthropic")), name
        with pytest.raises(PriceError):
            hosted_rates(f"{'openai' if 'gpt' in name else 'anthropic'}/{name}", NOW)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wrong = genai_prices.Usage(prompt_tokens=1000, output_tokens=0)
        assert genai_prices.calc_price(wrong, "gpt-5-mini", provider_id="openai").total_price == 0
    assert "Unsupported usage key" in str(told[0].message)
    assert genai_prices.calc_price(genai_prices.Usage(input_tokens=1000), "gpt-oss-20b").total_price > 0


# The rest of the process


def test_a_snapshot_that_another_library_sets_changes_nothing() -> None:
    """Neither before the first look at the prices nor after it."""
    code = """
from dataclasses import replace
from datetime import datetime, UTC
from decimal import Decimal
from genai_prices import Usage, calc_price, data_snapshot
from genai_prices.data import providers
from genai_prices.types import ModelPrice
from tokmagic.prices.hosted import hosted_rates

openai = next(it for it in providers if it.id == "openai")
mini = next(it for it in openai.models if it.id == "gpt-5-mini")
dear = replace(openai, models=[replace(mini, prices=ModelPrice(input_mtok=Decimal(999)))])
data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[dear], from_auto_update=True))
assert calc_price(Usage(input_tokens=1000), "gpt-5-mini", provider_id="openai").total_price == Decimal("0.999")
now = datetime.now(UTC)
assert hosted_rates("openai/gpt-5-mini", now).input == Decimal("0.25")
data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))
assert hosted_rates("anthropic/claude-sonnet-4-5", now).input == Decimal(3)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_is_imported_only_when_a_hosted_price_is_asked_for() -> None:
    code = """
import sys
from tokmagic.events import EngineInfo
from tokmagic.prices import PriceBook
book = PriceBook()
book.rates(EngineInfo("gpt-5-mini", "openai/gpt-5-mini", "local", device="cpu"))
assert "genai_prices" not in sys.modules
book.shadow("gpt-5-mini", "openai/gpt-5-mini")
assert "genai_prices" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://API.openai.com:443/v1/", "openai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://mine.openai.azure.com/openai", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "google"),
        ("https://router.huggingface.co/groq/openai/v1", "huggingface_groq"),
        ("http://api.openai.com/v1", None),
        ("http://localhost:8000/v1", None),
        ("https://127.0.0.1/v1", None),
        ("https://api.openai.com.evil.example/v1", None),
        ("https://evil.example/https://api.openai.com/v1", None),
        ("https://evil.example/x.googleapis.com", None),
        ("https://api.openai.com@evil.example/v1", None),
        ("https://api.openai.com:8443/v1", None),
        ("https://router.huggingface.co/groqqq/v1", None),
        ("https://[::1", None),
        ("https://api.openai.com:port/", None),
        ("", None),
    ],
)
def test_an_endpoint_is_a_provider_only_at_its_own_address(url: str, provider: str | None) -> None:
    assert provider_of(url) == provider


def test_an_endpoint_has_the_price_of_its_provider_and_no_other() -> None:
    book = PriceBook()
    hosted = EngineInfo("gpt", "gpt-5-mini", "endpoint", provider="openai")
    assert book.rates(hosted, NOW) == hosted_rates("openai/gpt-5-mini", NOW)
    assert book.rates(replace(hosted, provider=None), NOW) == Rates()
    assert book.rates(replace(hosted, model_id="ft:gpt-5-mini:acme"), NOW) == Rates()
    assert book.rates(replace(hosted, provider="nobody"), NOW) == Rates()


def test_a_price_table_that_lacks_a_part_or_has_one_we_cannot_meter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    openai = next(it for it in providers if it.id == "openai")
    info = next(it for it in openai.models if it.id == "gpt-5-mini")
    assert isinstance(info.prices, ModelPrice)
    whole = dict(vars(info.prices))
    for more, says in (
        ({"output_mtok": None}, "has no output price for openai/gpt-5-mini"),
        ({"input_mtok": None}, "has no input price for openai/gpt-5-mini"),
        ({"colour_mtok": Decimal(1)}, "also bills colour mtok"),
        ({"output_reasoning_mtok": Decimal(1)}, "also bills output reasoning mtok"),
    ):
        monkeypatch.setattr(info, "prices", ModelPrice(**{**whole, **more}))
        assert says in refused("openai/gpt-5-mini")
    monkeypatch.setattr(
        info, "prices", ModelPrice(**{**whole, "input_audio_mtok": Decimal(9), "web_searches_kcount": Decimal(9)})
    )
    assert hosted_rates("openai/gpt-5-mini", NOW).input == Decimal("0.25"), "what text does not use is left aside"


def test_a_tariff_holds_only_while_it_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    info = next(
        it for provider in providers if provider.id == "mistral" for it in provider.models if it.id == "codestral"
    )
    later = StartDateConstraint((MIDNIGHT + timedelta(days=1)).date())
    variant = PriceVariant({"processing": "night"}, ModelPrice(input_mtok=Decimal("0.01")), later)
    monkeypatch.setattr(info, "price_variants", [variant])
    assert "has no tariff 'processing=night'" in refused("mistral/codestral?processing=night")
    assert hosted_rates("mistral/codestral?processing=night", NOW + timedelta(days=1)).input == Decimal("0.01")
