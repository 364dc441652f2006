"""The meter: given events make exactly the numbers that docs/metrics.md defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from statistics import fmean

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import Reading
from tokmagic.core.stream import Finished, FinishReason, Logprob, Started, Token, Usage
from tokmagic.prices import bill
from tokmagic.runs.meter import Meter

MS = 1_000_000
ASKED = Usage(
    input_tokens=12,
    cached_input_tokens=0,
    cache_write_input_tokens=0,
    reasoning_tokens=0,
    input_source="measured",
    output_source="measured",
)
DOLLARS = Rates(input=Decimal(1), output=Decimal(2))
# Readings of a monotonic clock are large; nothing may depend on where it began.
T0 = 987_654_321_000_000


def metered(*events: Started | Token | Finished, rates: Rates = DOLLARS) -> Meter:
    meter = Meter(rates)
    for event in events:
        meter.fold(event)
    return meter


def started(prefill_ms: float | None = 0.0, usage: Usage = ASKED) -> Started:
    return Started(T0, usage, None if prefill_ms is None else T0 + round(prefill_ms * MS))


def token(at_ms: float, choice: int = 0, text: str = "x") -> Token:
    return Token(T0 + round(at_ms * MS), text, 7, choice)


def piece(at_ms: float, text: str = "some text") -> Token:
    return Token(T0 + round(at_ms * MS), text)


def finished(at_ms: float, output: int | None, device_s: float | None = None, **more: int) -> Finished:
    reasons: tuple[FinishReason, ...] = ("stop",)
    return Finished(T0 + round(at_ms * MS), reasons, replace(ASKED, output_tokens=output), device_s=device_s, **more)


def times(reading: Reading) -> tuple[float | None, ...]:
    return (reading.ttft_s, reading.latency_s, reading.itl_mean_s, reading.output_tokens_per_s)


def test_nothing_is_known_before_the_first_event() -> None:
    assert Meter(DOLLARS).reading() == Reading()
    assert Meter(DOLLARS).reading(final=True) == Reading()


def test_the_input_is_known_before_the_first_token() -> None:
    reading = metered(started(3.0)).reading()
    assert reading == Reading(
        usage=replace(ASKED, output_tokens=0),
        cost=Cost(Decimal("0.000012"), "measured", "exact", Decimal("0.000012")),
        queue_s=0.003,
    )


def test_times_of_an_answer_of_four_tokens() -> None:
    """t0 0, prefill from 5 ms, tokens at 50, 60, 90 and 100 ms."""
    meter = metered(started(5.0), *map(token, (50, 60, 90, 100)), finished(101, 4, 0.096))
    reading = meter.reading(final=True)
    assert times(reading) == (0.05, 0.1, pytest.approx(0.05 / 3), pytest.approx(3 / 0.05))
    assert reading.queue_s == 0.005
    assert (reading.itl_p50_s, reading.itl_p95_s) == (0.01, pytest.approx(0.028))
    assert reading.device_s == 0.096
    assert reading.usage.output_tokens == 4
    assert reading.spark_ms == (10.0, 30.0, 10.0)


def test_one_token_has_no_interval() -> None:
    reading = metered(started(), token(50), finished(51, 1)).reading(final=True)
    assert times(reading) == (0.05, 0.05, None, None)
    assert (reading.itl_p50_s, reading.itl_p95_s, reading.spark_ms) == (None, None, ())


def test_an_answer_without_a_token_has_no_times() -> None:
    reading = metered(started(), finished(50, 0, 0.05)).reading(final=True)
    assert times(reading) == (None, None, None, None)
    assert reading.cost.usd == Decimal("0.000012"), "its prompt was read all the same"


def test_percentiles_are_computed_at_the_end_alone() -> None:
    meter = metered(started(), *map(token, (10, 20, 40)))
    assert (meter.reading().itl_p50_s, meter.reading().itl_mean_s) == (None, 0.015)
    assert meter.reading(final=True).itl_p50_s == 0.015


def test_tokens_that_carry_no_text_count() -> None:
    """A character may span several tokens; the id is what was generated."""
    reading = metered(started(), token(10, text=""), token(20, text=""), token(30)).reading()
    assert (reading.usage.output_tokens, reading.usage.output_source) == (3, "measured")
    assert (reading.ttft_s, reading.latency_s) == (0.01, 0.03)


# Network pieces: their number says nothing about tokens


CONTENT = {
    "text": (Token(0, "some text"), True),
    "reasoning": (Token(0, "", reasoning="Hm."), True),
    "an id whose text is yet to come": (Token(0, "", 7), True),
    "an id and its log probability": (Token(0, "", 7, logprobs=(Logprob("", -0.5),)), True),
    "text and log probabilities": (Token(0, "Hi", logprobs=(Logprob("Hi", -0.5),)), True),
    "a role alone": (Token(0, ""), False),
    "usage alone": (Token(0, "", usage=ASKED), False),
    "log probabilities alone": (Token(0, "", logprobs=(Logprob("<end>", -0.125),)), False),
}


@pytest.mark.parametrize(("first", "content"), CONTENT.values(), ids=CONTENT)
def test_what_is_content_stops_the_clock_and_nothing_else_does(first: Token, content: bool) -> None:
    reading = metered(started(None), replace(first, at_ns=T0 + 20 * MS), piece(70)).reading()
    assert first.has_content == content
    assert (reading.ttft_s, reading.latency_s) == (0.02 if content else 0.07, 0.07)


def test_a_first_piece_without_content_stops_no_clock() -> None:
    reading = metered(started(None), piece(20, ""), piece(70), piece(110), finished(150, 9)).reading(final=True)
    assert (reading.ttft_s, reading.latency_s) == (0.07, 0.11)


def test_pieces_share_their_time_among_the_tokens_that_were_reported() -> None:
    reading = metered(started(None), piece(100), piece(500), finished(600, 9)).reading(final=True)
    assert reading.latency_s is not None
    assert reading.ttft_s is not None
    assert times(reading) == (0.1, 0.5, (0.5 - 0.1) / 8, 8 / (0.5 - 0.1))
    assert reading.itl_mean_s == (reading.latency_s - reading.ttft_s) / 8
    assert (reading.itl_p50_s, reading.itl_p95_s, reading.spark_ms) == (None, None, ())


def test_pieces_are_no_tokens_before_the_server_has_said_how_many() -> None:
    meter = metered(started(None, Usage()), piece(100), piece(500))
    reading = meter.reading()
    assert (reading.usage, reading.cost) == (Usage(), Cost())
    assert times(reading) == (0.1, 0.5, None, None)
    meter.fold(finished(600, None))
    assert times(meter.reading(final=True)) == (0.1, 0.5, None, None)


def test_one_piece_among_the_tokens_leaves_no_percentiles() -> None:
    events = (token(10), piece(20), token(40))
    reading = metered(started(), *events, finished(41, 9)).reading(final=True)
    assert (reading.itl_p50_s, reading.itl_p95_s, reading.spark_ms) == (None, None, ())
    assert reading.itl_mean_s == pytest.approx(0.03 / 8)


def test_nine_tokens_in_one_piece_have_no_speed() -> None:
    reading = metered(started(None), piece(100), finished(600, 9)).reading(final=True)
    assert reading.output_tokens_per_s is None
    assert reading.itl_mean_s is None


# Several choices


def test_each_choice_has_its_own_intervals() -> None:
    """Two answers in one batch: at 10, 20, 30 and 40 ms, and at 10, 30 ms."""
    events = [token(10), token(10, 1), token(20), token(30), token(30, 1), token(40)]
    reading = metered(started(), *events, finished(41, 6, 0.041)).reading(final=True)
    assert reading.usage.output_tokens == 6
    assert reading.itl_mean_s == pytest.approx((0.03 + 0.02) / 4)
    assert reading.itl_p50_s == 0.01
    assert reading.itl_p95_s == pytest.approx(float(numpy.percentile([0.01, 0.01, 0.01, 0.02], 95)))
    assert reading.output_tokens_per_s == pytest.approx((6 - 2) / 0.03)
    assert reading.spark_ms == (10.0, 10.0, 10.0), "the first choice's"


def test_a_choice_of_one_token_adds_no_interval() -> None:
    reading = metered(started(), token(10), token(10, 1), token(30)).reading(final=True)
    assert (reading.itl_mean_s, reading.itl_p50_s) == (0.02, 0.02)


# Device time, memory, attempts


def test_device_seconds_run_from_the_prefill_until_the_engine_says() -> None:
    meter = metered(started(5.0), token(50), token(60))
    assert meter.reading().device_s == 0.055
    meter.fold(finished(70, 2, 0.061, peak_bytes=2**30, attempts=3))
    done = meter.reading(final=True)
    assert (done.device_s, done.peak_bytes, done.attempts) == (0.061, 2**30, 3)
    assert metered(started(None), token(50)).reading().device_s is None


def test_a_device_rate_bills_the_time_so_far() -> None:
    meter = metered(started(0.0), token(500), rates=Rates(device_hour=Decimal("3.6")))
    assert meter.used().usd == meter.reading().cost.usd == Decimal("0.0005")


def test_the_bill_so_far_is_the_readings() -> None:
    meter = metered(started(5.0))
    for number in range(1, 20):
        meter.fold(token(50 + 10 * number))
        assert meter.used().usd == meter.reading().cost.usd == Decimal(12 + 2 * number) / 1_000_000


def test_what_the_engine_says_at_the_end_holds() -> None:
    """A stop string's ids count, though no token event showed them."""
    counts = replace(ASKED, output_tokens=7, reasoning_tokens=2)
    end = Finished(T0 + 80 * MS, ("stop",), counts, device_s=0.08)
    reading = metered(started(), token(50), token(60), end).reading(final=True)
    assert reading.usage == counts
    assert reading.cost == bill(counts, 0.08, DOLLARS)


# Any stream


stamps = st.lists(st.integers(0, 10**11), min_size=1, max_size=80).map(sorted)


@given(at=stamps)
def test_definitions_hold_for_any_stamps(at: Sequence[int]) -> None:
    end = Finished(T0 + at[-1], ("stop",), replace(ASKED, output_tokens=len(at)))
    reading = metered(started(), *(Token(T0 + stamp, "x", 1) for stamp in at), end).reading(final=True)
    gaps = [(later - earlier) / 1e9 for earlier, later in pairwise(at)]
    assert reading.ttft_s == at[0] / 1e9
    assert reading.latency_s == at[-1] / 1e9
    assert reading.queue_s == 0
    if not gaps:
        assert (reading.itl_mean_s, reading.itl_p50_s, reading.spark_ms) == (None, None, ())
        return
    assert reading.itl_mean_s == pytest.approx(fmean(gaps))
    assert reading.itl_p50_s == pytest.approx(float(numpy.percentile(gaps, 50)))
    assert reading.itl_p95_s == pytest.approx(float(numpy.percentile(gaps, 95)))
    span = (at[-1] - at[0]) / 1e9
    assert reading.output_tokens_per_s == (pytest.approx(len(gaps) / span) if span else None)
    assert len(reading.spark_ms) == min(32, len(gaps))
    assert all(point >= 0 for point in reading.spark_ms)


@given(at=stamps, cut=st.integers(0, 80))
def test_readings_grow_and_the_last_one_is_the_same_whoever_looked(at: Sequence[int], cut: int) -> None:
    events = [started(), *(Token(T0 + stamp, "x", 1) for stamp in at)]
    watched, unwatched, before = Meter(DOLLARS), metered(*events), Reading()
    for event in events:
        watched.fold(event)
        now = watched.reading()
        assert (now.usage.output_tokens or 0) >= (before.usage.output_tokens or 0)
        assert (now.cost.usd or 0) >= (before.cost.usd or 0)
        assert (now.latency_s or 0) >= (before.latency_s or 0)
        before = now
    assert watched.reading(final=True) == unwatched.reading(final=True)


@given(steps=st.integers(1, 500), width=st.integers(1, 10**9))
def test_even_steps_draw_an_even_line(steps: int, width: int) -> None:
    events = [Token(T0 + number * width, "x", 1) for number in range(steps + 1)]
    spark = metered(started(), *events).reading().spark_ms
    assert len(spark) == min(32, steps)
    assert set(spark) == {round(width / 1e6, 3)}


def test_pieces_of_several_choices_have_their_own_spans() -> None:
    """Two answers of ten tokens each over 0.9 s: (0.9 + 0.9) / 18 s a token, and 18 tokens after the first ones."""
    pieces = [Token(T0 + 100 * MS + step * 100 * MS, "a", None, choice) for step in range(10) for choice in (0, 1)]
    reading = metered(started(None), *pieces, finished(1000, 20)).reading(final=True)
    assert reading.itl_mean_s == pytest.approx(0.1)
    assert reading.output_tokens_per_s == pytest.approx(20)


Arrival = tuple[int, int, str]
"""Of a piece: milliseconds, its choice, its text."""


@pytest.mark.parametrize(
    ("arrived", "output", "itl_mean_s", "speed"),
    [
        ([(50, 0, "an answer"), (50, 1, "another one")], 20, None, None),
        ([(50, 0, "an answer"), (150, 1, "another one")], 20, None, None),
        ([(50, 0, "an answer"), (150, 1, "an"), (250, 1, "other")], 20, None, None),
        ([(50, 0, "Yes"), (50, 1, "No")], 2, None, None),
        ([(50, 0, "Yes"), (50, 1, "an"), (250, 1, "other one")], 12, 0.02, 50.0),
        ([(50, 0, "an"), (150, 0, "swer"), (50, 1, "an"), (250, 1, "other")], 32, 0.01, 150.0),
    ],
    ids=["both at once", "one after another", "one whole, one in pieces", "a token each", "a token, pieces", "pieces"],
)
def test_answers_that_come_as_a_whole_have_no_time_between_tokens(
    arrived: list[Arrival], output: int, itl_mean_s: float | None, speed: float | None
) -> None:
    """As without streaming, or behind a proxy that gathers: it is no 0 ms, which reports would add up."""
    pieces = [Token(T0 + at * MS, text, None, choice) for at, choice, text in arrived]
    reading = metered(started(None), *pieces, finished(250, output)).reading(final=True)
    assert (reading.itl_mean_s, reading.output_tokens_per_s) == (pytest.approx(itl_mean_s), pytest.approx(speed))


def test_reasoning_that_is_not_shown_is_no_part_of_the_intervals() -> None:
    usage = Usage(input_tokens=12, output_tokens=1011, reasoning_tokens=1000, output_source="reported")
    pieces = [Token(T0 + (2000 + step * 50) * MS, "a") for step in range(11)]
    reading = metered(started(None), *pieces, replace(finished(2600, 11), usage=usage)).reading(final=True)
    assert reading.itl_mean_s == pytest.approx(0.05)
    assert reading.output_tokens_per_s == pytest.approx(20)
    shown = [Token(T0 + 1000 * MS, "", None, 0, "Hm."), *pieces]
    reading = metered(started(None), *shown, replace(finished(2600, 11), usage=usage)).reading(final=True)
    assert reading.itl_mean_s == pytest.approx(1.5 / 1010)


def test_until_the_first_token_the_device_costs_what_it_has_been_busy() -> None:
    hour = Rates(device_hour=Decimal(3600), source="list price: a GPU")
    meter = metered(started(prefill_ms=100), rates=hour)
    assert meter.reading().cost.usd is None, "without a clock nothing is known"
    for busy_ms, usd in ((-1, "0"), (0, "0"), (250, "0.25"), (4000, "4")):
        reading = meter.reading(now_ns=T0 + (100 + busy_ms) * MS)
        assert (reading.cost.usd, reading.device_s) == (Decimal(usd), max(0, busy_ms) / 1000)
    meter.fold(token(600))
    assert meter.reading(now_ns=T0 + 9000 * MS).cost.usd == Decimal("0.5"), "then the last token tells"
