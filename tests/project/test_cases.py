"""The worked cases of metering, each to the last digit, and what holds for every bill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import USAGE, Asked, Script, Wire, chunk, serve, streams, usage_chunk
from tokmagic.core.budget import Budget, Hold, Standing
from tokmagic.core.money import Cost, Rates, Tier
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EngineInfo, Reading, RunRecord, Selection, Sum
from tokmagic.core.stream import Finished, Started, Token, Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.formatting import numbers
from tokmagic.ledgers import Ledger
from tokmagic.prices import PriceBook, bill, from_picodollars, rate
from tokmagic.prices.budgets import refusal
from tokmagic.runs.generation import Generation
from tokmagic.runs.meter import Meter
from tokmagic.runs.session import Session

D = Decimal
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ASK = Prompt((Message("user", "Hi"),))
Make = Callable[..., Session]


def reported(input_tokens: int, output_tokens: int, **more: int | None) -> Usage:
    counts: dict[str, Any] = {"cached_input_tokens": 0, "cache_write_input_tokens": 0, "reasoning_tokens": 0, **more}
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        input_source="reported",
        output_source="reported",
        **counts,
    )


def run(run_id: str, usage: Usage, rates: Rates, device_s: float | None = None) -> RunRecord:
    reading = Reading(usage, bill(usage, device_s, rates), device_s=device_s)
    return RunRecord(run_id, NOW, "ok", EngineInfo("m", "id", "endpoint"), "0" * 64, {}, reading=reading, rates=rates)


def rates(input_: str, output: str, cached: str | None = None, write: str | None = None) -> Rates:
    parts = {name: rate(text) for name, text in (("cached", cached), ("cache_write", write)) if text is not None}
    return Rates(input=rate(input_), output=rate(output), **parts)


def test_case_1_a_million_calls_a_day_are_1200_dollars_and_not_a_picodollar_more() -> None:
    per_1k = rate("0.0015", per=1_000)
    call = bill(reported(800, 0), None, Rates(input=per_1k, output=per_1k)).usd
    assert call == D("0.0012")
    assert str(call * 1_000_000) in ("1200.0000", "1200")
    assert call * 1_000_000 == D(1200)
    assert bill(reported(500, 300), None, Rates(input=per_1k, output=per_1k)).usd == call
    assert sum([call] * 100_000) == 120


@pytest.mark.parametrize(
    ("usage", "prices", "expected"),
    [
        pytest.param(
            reported(2006, 300, cached_input_tokens=1920), rates("2.50", "10.00", "1.25"), "0.005615", id="case 2"
        ),
        pytest.param(
            reported(9126, 3197, cached_input_tokens=4864), rates("1.25", "10.00", "0.125"), "0.0379055", id="case 3"
        ),
        pytest.param(
            reported(12307, 550, cache_write_input_tokens=12304),
            rates("3", "15", "0.30", "3.75"),
            "0.054399",
            id="case 18",
        ),
    ],
)
def test_cases_of_cached_and_written_input(usage: Usage, prices: Rates, expected: str, ledger: Ledger) -> None:
    cost = bill(usage, None, prices)
    assert cost == Cost(D(expected), "reported", "exact", D(expected))
    ledger.settle(run("r", usage, prices))
    assert ledger.runs()[0].reading.cost == cost
    assert ledger.totals(Selection()).cost_usd == D(expected)


def test_case_4_reasoning_is_output_already() -> None:
    per_dollar = rates("1", "1")
    assert bill(reported(0, 1000, reasoning_tokens=800), None, per_dollar).usd == D("0.001")
    assert bill(reported(0, 1000, reasoning_tokens=800), None, per_dollar) == bill(reported(0, 1000), None, per_dollar)


def test_case_6_without_usage_counts_are_marked_and_never_0() -> None:
    """As far as the meter: an engine that counted the input and estimated the output says so."""
    asked = Usage(input_tokens=40, cached_input_tokens=0, cache_write_input_tokens=0, input_source="counted")
    meter = Meter(rates("1", "2"))
    meter.fold(Started(0, asked))
    meter.fold(Token(10, "Hello "))
    meter.fold(Token(20, "world"))
    running = meter.reading()
    assert (running.usage.output_tokens, running.cost.usd) == (None, None)
    meter.fold(Finished(30, ("stop",), replace(asked, output_tokens=3, output_source="estimated")))
    reading = meter.reading(final=True)
    assert reading.cost == Cost(D("0.000046"), "estimated", "exact", D("0.000046"))
    footer = numbers.footer(reading, "m")
    assert footer.startswith("40 → ~3 tokens · ~$0.000046 ")


def ask_endpoint(session: Session, script: Script, name: str = "m", **spec: Any) -> Generation:
    """One run against a real server on loopback that answers with ``script``."""
    with serve(script) as server:
        session.models.add(name, ModelSpec(name, api_base=server.url, **spec))
        session.prices.set(name, rates("1", "2"))
        return session.generate(ASK, name)


def test_case_5_usage_beside_an_empty_delta_in_the_last_chunk_is_kept(make_session: Make) -> None:
    last = {"id": "c", "choices": [{"index": 0, "delta": {}}], "usage": USAGE}
    usage = ask_endpoint(make_session(), streams([chunk("Hi"), chunk(reason="stop"), last])).usage
    assert (usage.input_tokens, usage.output_tokens) == (12, 3)
    assert (usage.input_source, usage.output_source) == ("reported", "reported")


@pytest.mark.model
def test_case_6_a_stream_without_usage(make_session: Make, model_home: Path) -> None:
    session = make_session(home=str(model_home))
    generation = ask_endpoint(session, streams([chunk("Hello"), chunk(" there"), chunk(reason="stop")]), "smollm2")
    usage = generation.usage
    session.models.add("here", ModelSpec("HuggingFaceTB/SmolLM2-135M-Instruct"))
    assert (usage.input_tokens, usage.input_source) == (session.models.engine("here").count(ASK), "counted")
    assert (usage.output_tokens, usage.output_source) == (2, "estimated")
    assert generation.cost.source == "estimated"
    assert generation.cost.usd is not None
    assert generation.cost.usd > 0


def test_case_10_busy_failing_and_well_is_one_run_with_three_attempts_and_one_cost(make_session: Make) -> None:
    answers = iter(
        (
            lambda _asked, wire: wire.answer(429, {"error": {"message": "busy"}}, Retry_After="0"),
            lambda _asked, wire: wire.answer(500, {"error": {"message": "oh"}}, Retry_After="0"),
            streams([chunk("Hi"), chunk(reason="stop"), usage_chunk()]),
        )
    )

    def script(asked: Asked, wire: Wire) -> None:
        next(answers)(asked, wire)

    session = make_session()
    generation = ask_endpoint(session, script)
    (row,) = session.ledger().runs()
    assert (row.status, row.reading.attempts, row.reading.cost.usd) == ("ok", 3, D("0.000018"))
    assert session.ledger().totals(Selection()).cost_usd == generation.cost.usd


@pytest.mark.parametrize("after", [1, 3])
def test_case_7_an_interrupted_run_is_one_row_with_exactly_its_ids_and_their_cost(
    make_session: Make, tmp_path: Path, after: int
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"pieces": ["a", "b", "c", "d", "e"], "input_tokens": 7}), encoding="utf-8")
    session = make_session(model=f"scripted:{script}")
    session.prices.set(session.models.current, rates("1", "2"))

    class Stop:
        seen = 0

        def token(self, _text: str) -> None:
            self.seen += 1
            if self.seen == after:
                raise KeyboardInterrupt

    done = session.generate(ASK, watcher=Stop())
    (row,) = session.ledger().runs()
    assert (row.status, done.tokens) == ("interrupted", tuple(range(after)))
    assert row.reading.usage.output_tokens == after
    assert row.reading.cost.usd == D(7 + 2 * after) / 1_000_000


def test_case_8_two_pieces_that_carry_nine_tokens() -> None:
    meter = Meter(Rates())
    meter.fold(Started(1_000, Usage()))
    meter.fold(Token(400_001_000, "first piece"))
    meter.fold(Token(1_200_001_000, "second piece"))
    meter.fold(Finished(1_300_000_000, ("stop",), reported(5, 9)))
    nine = meter.reading(final=True)
    assert (nine.ttft_s, nine.latency_s) == (0.4, 1.2)
    assert nine.itl_mean_s == pytest.approx((1.2 - 0.4) / 8)
    meter.fold(Finished(1_300_000_000, ("stop",), reported(5, 1)))
    assert meter.reading(final=True).itl_mean_s is None


def test_case_9_a_first_chunk_with_a_role_alone_is_not_the_first_token() -> None:
    meter = Meter(Rates())
    for event in (Started(0, Usage()), Token(100_000_000, ""), Token(250_000_000, "Hello")):
        meter.fold(event)
    assert meter.reading().ttft_s == 0.25


def test_case_11_a_hit_costs_nothing_and_is_left_out_of_latency() -> None:
    """As far as the sums: the saving stands beside the cost and is not taken off it."""
    paid = run("a", reported(10, 10), rates("1", "1"), 1.0)
    paid = replace(paid, reading=replace(paid.reading, ttft_s=0.4, itl_mean_s=0.02))
    hit = replace(
        paid,
        run_id="b",
        status="cached",
        reading=replace(paid.reading, cost=Cost(D(0), "measured", saved_usd=paid.reading.cost.usd), ttft_s=0.001),
    )
    both = Sum.of([paid, hit])
    assert (both.runs, both.cost_usd, both.ttft_s) == (2, D("0.00002"), 0.4)


def test_case_14_an_unknown_model_has_no_cost_and_the_budget_says_so(make_session: Make) -> None:
    unknown = EngineInfo("my-model", "my-model", "endpoint")
    frozen = PriceBook().rates(unknown, NOW)
    cost = bill(reported(1000, 1000), 3.0, frozen)
    assert cost == Cost(None, "unknown")
    assert numbers.cost(cost) == "—"
    assert frozen.source == "unknown"
    day = Standing(Budget("day", usd=D(5), strict=True))
    assert "the price of this run is unknown" in str(refusal([day], Hold(2000)))
    session = make_session(model="scripted")
    session.ledger().set_budget(Budget("day", usd=D(5), user=session.user))
    with pytest.warns(UserWarning, match="the price of scripted is unknown, so no budget in USD can count or stop it"):
        done = session.generate(ASK)
    assert (done.status, done.cost.usd) == ("ok", None)
    assert session.standings()[0].unpriced_runs == 1


@pytest.mark.parametrize("name", ["gpt-5-mini", "openai/gpt-oss-20b", "gpt-oss-20b", "claude-sonnet-4-5", "gpt-4o"])
def test_case_15_a_model_named_like_a_hosted_one_has_the_local_price_or_none(name: str) -> None:
    on_localhost = EngineInfo(name, name, "endpoint")
    assert PriceBook().rates(on_localhost, NOW) == Rates()
    local = PriceBook().rates(EngineInfo(name, name, "local", device="cpu"), NOW)
    assert (local.input, local.output, local.source[:12]) == (None, None, "list price: ")
    book = PriceBook()
    book.set(name, Rates(input=D("0.01"), output=D("0.02"), source="%price"))
    assert book.rates(on_localhost, NOW) == Rates(input=D("0.01"), output=D("0.02"), source="%price")


def test_case_17_an_unknown_cached_part_is_not_0() -> None:
    unknown = reported(2006, 300, cached_input_tokens=None, cache_write_input_tokens=None)
    cost = bill(unknown, None, rates("2.50", "10.00", "1.25"))
    assert cost == Cost(D("0.008015"), "reported", "at_most", D("0.008015"))
    assert numbers.cost(cost) == "≤$0.00802"
    uncached = bill(unknown, None, rates("2.50", "10.00"))
    assert (uncached.usd, uncached.bound) == (D("0.008015"), "exact")
    known = bill(reported(2006, 300, cached_input_tokens=0), None, rates("2.50", "10.00", "1.25"))
    assert (known.usd, known.bound) == (D("0.008015"), "exact")


# What holds for every bill


def decimals(highest: int) -> st.SearchStrategy[Decimal]:
    """Rates as fine as they may be."""
    return st.integers(0, highest * 1_000_000).map(lambda grains: D(grains).scaleb(-6))


some_rates = st.builds(
    Rates,
    input=st.none() | decimals(1000),
    output=st.none() | decimals(1000),
    cached=st.none() | decimals(1000),
    cache_write=st.none() | decimals(1000),
    device_hour=st.none() | decimals(1000),
    tiers=st.lists(st.builds(Tier, st.integers(0, 1000), decimals(9), decimals(9)), max_size=3).map(tuple),
)
counts = st.none() | st.integers(-10, 10**15)
any_usage = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cached_input_tokens=counts,
    cache_write_input_tokens=counts,
    reasoning_tokens=counts,
)


@given(usage=any_usage, prices=some_rates, seconds=st.none() | st.floats())
def test_no_input_gives_a_negative_cost(usage: Usage, prices: Rates, seconds: float | None) -> None:
    """Negative counts, contradictions, no number of seconds: unknown and named, never below 0."""
    cost = bill(usage, seconds, replace(prices, shadow=replace(prices, tiers=())))
    for amount in (cost.usd, cost.token_usd, cost.compute_usd, cost.shadow_usd):
        assert amount is None or (amount.is_finite() and amount >= 0)
    assert cost.anomaly is None or cost.usd is None
    given_counts = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens)
    if any(count is not None and count < 0 for count in given_counts):
        assert cost.anomaly is not None


@st.composite
def halves(draw: st.DrawFn) -> tuple[Usage, Usage]:
    def half() -> Usage:
        plain, cached, written, out = (draw(st.integers(0, 10**9)) for _ in range(4))
        return reported(plain + cached + written, out, cached_input_tokens=cached, cache_write_input_tokens=written)

    return half(), half()


@given(pair=halves(), prices=some_rates, nanoseconds=st.tuples(st.integers(0, 10**13), st.integers(0, 10**13)))
def test_a_run_split_in_two_is_never_cheaper_under_flat_rates(
    pair: tuple[Usage, Usage], prices: Rates, nanoseconds: tuple[int, int]
) -> None:
    flat = replace(prices, tiers=())
    parts = [bill(usage, time / 1e9, flat).usd for usage, time in zip(pair, nanoseconds, strict=True)]
    one, two = pair
    whole = reported(
        (one.input_tokens or 0) + (two.input_tokens or 0),
        (one.output_tokens or 0) + (two.output_tokens or 0),
        cached_input_tokens=(one.cached_input_tokens or 0) + (two.cached_input_tokens or 0),
        cache_write_input_tokens=(one.cache_write_input_tokens or 0) + (two.cache_write_input_tokens or 0),
    )
    together = bill(whole, sum(nanoseconds) / 1e9, flat)
    if together.usd is None:
        assert parts == [None, None] or together.anomaly is not None
        return
    split = sum((part for part in parts if part is not None), D(0))
    assert split >= together.usd
    if together.token_usd is not None:
        assert split == together.usd, "tokens have no fee for being asked"
    else:
        assert split - together.usd <= D("1E-12"), "a picodollar at most, by rounding up twice"


@given(picodollars=st.lists(st.none() | st.integers(0, 9 * 10**18), min_size=1, max_size=20))
def test_totals_equal_the_sum_of_rows_beyond_what_a_float_can_hold(picodollars: list[int | None]) -> None:
    """Up to 9·10¹⁸ picodollars a row: binary floating point is exact up to 9·10¹⁵ alone."""
    costs = [from_picodollars(amount) for amount in picodollars]
    rows = [
        replace(run(str(number), Usage(), Rates()), reading=Reading(cost=Cost(cost)))
        for number, cost in enumerate(costs)
    ]
    known = [amount for amount in picodollars if amount is not None]
    total = Sum.of(rows).cost_usd
    assert total == (D(sum(known)).scaleb(-12) if known else None)
    assert Sum.of(rows).unpriced_runs == len(picodollars) - len(known)


def test_the_ledgers_sum_is_the_sum_of_its_rows_beyond_64_bits(ledger: Ledger) -> None:
    amounts = [9 * 10**18 - 1, 9 * 10**18 - 1, 9_007_199_254_740_993, 1]
    for number, amount in enumerate(amounts):
        row = run(f"r{number}", Usage(), Rates())
        ledger.settle(replace(row, reading=Reading(cost=Cost(from_picodollars(amount), "measured"))))
    assert ledger.totals(Selection()).cost_usd == D(sum(amounts)).scaleb(-12) == D("18009007.199254740992")
    assert sum(record.reading.cost.usd or 0 for record in ledger.runs()) == D("18009007.199254740992")


def test_a_row_holds_the_amount_as_an_exact_integer(ledger: Ledger, tmp_path: Path) -> None:
    usage, prices = reported(2006, 300, cached_input_tokens=1920), rates("2.50", "10.00", "1.25")
    ledger.settle(run("r", usage, prices))
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        ((pico, frozen),) = database.execute("SELECT cost_pico, rates FROM runs")
    assert pico == 5_615_000_000
    assert json.loads(frozen) == {"input": "2.5", "output": "10", "cached": "1.25", "source": "unknown"}
