"""A bench from its warm-up to its last level: closed loop, exact figures, failures, interrupts, budgets, the ledger."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from tests.bench.rig import DOLLARS, HOURLY, Limited, Paced, chunked, plan, with_model, words
from tokmagic.bench.costs import prices
from tokmagic.bench.roofs import decode, prefill
from tokmagic.bench.running import TAG, Forecast, bench, counter_of
from tokmagic.bench.showing import costs
from tokmagic.core.budget import Budget
from tokmagic.core.money import Bound, Rates
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Finished, Source
from tokmagic.engines.scripted import Script
from tokmagic.errors import BudgetError, ModelError, UsageError
from tokmagic.runs.session import Session

Make = Callable[..., Session]


@pytest.fixture
def session(make_session: Make) -> Session:
    return make_session()


def failing(*numbers: int) -> Callable[[int], Script]:
    """Answers that break off after two tokens, for requests of these numbers."""
    broken = Script.of_text(["word "] * 2, error="the device is gone")
    return lambda number: broken if number in numbers else words()


def test_each_level_has_so_many_requests_at_once_and_never_more(session: Session) -> None:
    meeting = threading.Barrier(3)

    def answer(number: int) -> Script:
        if 11 <= number < 14:  # the first of the second level
            meeting.wait(60)
        return words(pace=0.1, ttft_s=0.2, itl_s=0.05)

    engine = with_model(session, Paced("m", answer))
    found = bench(session, "m", plan(levels=(1, 3), requests=9, warmup=2))
    assert [(level.concurrency, len(level.done), level.complete) for level in found.levels] == [
        (1, 9, True),
        (3, 9, True),
    ]
    assert engine.most_at_once == 3
    assert len(engine.asked) == 2 + 9 + 9
    assert len({prompt.messages for prompt in engine.asked}) == len(engine.asked), "no prefix cache can answer"


def test_one_at_a_time_is_one_at_a_time(session: Session) -> None:
    engine = with_model(session, Paced("m", lambda _number: words(pace=0.05)))
    bench(session, "m", plan(requests=4, warmup=1))
    assert engine.most_at_once == 1


def test_figures_are_those_of_the_stamps(session: Session) -> None:
    def answer(number: int) -> Script:
        return words(3, ttft_s=0.1, itl_s=0.02) if number else words(2, ttft_s=0.3, itl_s=0.05)

    with_model(session, Paced("m", answer))
    (level,) = bench(session, "m", plan(requests=2)).levels
    assert level.ttft_s is not None
    assert level.itl_s is not None
    assert level.tpot_s is not None
    assert level.latency_s is not None
    assert [round(value, 9) for value in level.ttft_s.values] == [0.3, 0.1]
    # Three gaps of two requests: pooled they weigh a third each, by request a half each.
    assert [round(value, 9) for value in level.itl_s.values] == [0.05, 0.02, 0.02]
    assert [round(value, 9) for value in level.tpot_s.values] == [0.05, 0.02]
    assert level.itl_s.mean == pytest.approx(0.03)
    assert level.tpot_s.mean == pytest.approx(0.035)
    assert level.tpot_s.at(0.5) == pytest.approx(0.035)
    assert [round(value, 9) for value in level.latency_s.values] == [0.35, 0.14]
    assert (level.usage.input_tokens, level.usage.output_tokens, level.by_token) == (24, 5, True)
    assert level.cost.usd == Decimal("0.000034")
    assert level.output_per_s == pytest.approx(5 / level.duration_s)


def test_throughput_is_over_the_time_from_the_first_submission_to_the_last_token(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(4, ttft_s=0.1, itl_s=0.02, pace=1.0)))
    (level,) = bench(session, "m", plan(levels=(2,), requests=4)).levels
    # Two rounds of two at once, 0.16 s each; a busy machine makes it longer, and never shorter.
    assert level.duration_s >= 0.32
    assert level.per_s(16) == pytest.approx(16 / level.duration_s)


def test_chunks_are_not_tokens(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: chunked(1, 3, 4)))
    (level,) = bench(session, "m", plan(requests=2, output_tokens=8)).levels
    assert not level.by_token
    assert level.arrivals == 6
    assert level.itl_s is not None
    assert level.tpot_s is not None
    assert [round(value, 9) for value in level.itl_s.values] == [0.1] * 4
    assert level.tpot_s.mean == pytest.approx(0.2 / 7), "by the server's count"


# The roof


def test_each_time_stands_beside_its_roof(session: Session) -> None:
    with_model(session, Limited("m", lambda _number: words(5, itl_s=0.02, ttft_s=0.1, inputs=100)), HOURLY)
    found = bench(session, "m", plan(prompt_tokens=100, output_tokens=5))
    assert found.roof is not None
    assert found.work is not None
    (level,) = found.levels
    step, prompt = decode(level, found.roof, found.work), prefill(level, found.roof, found.work)
    assert step is not None
    assert prompt is not None
    # 10 MB of weights and 102.5 tokens of 1 kB at 1 GB/s; 100 tokens of 1 MFLOP at 1 GFLOP/s.
    assert step.least_s == pytest.approx(0.0101025)
    assert step.share == pytest.approx(0.0101025 / 0.02)
    assert (prompt.measured_s, prompt.least_s) == (pytest.approx(0.1), pytest.approx(0.1))


def test_what_a_prefix_cache_had_is_no_part_of_the_least_prefill(session: Session) -> None:
    """Otherwise it would be more than was measured."""

    def script(number: int) -> Script:
        whole = words(5, ttft_s=0.05 if number else 0.1, inputs=100)
        end = whole.events[-1]
        assert isinstance(end, Finished)
        usage = replace(end.usage, cached_input_tokens=60 if number else 0)
        return replace(whole, events=(*whole.events[:-1], replace(end, usage=usage)))

    with_model(session, Limited("m", script), HOURLY)
    found = bench(session, "m", plan(prompt_tokens=100, output_tokens=5, requests=3))
    assert found.roof is not None
    assert found.work is not None
    prompt = prefill(found.levels[0], found.roof, found.work)
    assert prompt is not None
    assert (prompt.measured_s, prompt.least_s) == (pytest.approx(0.05), pytest.approx(0.04))


def test_a_model_of_chunks_has_no_share_of_the_roof(session: Session) -> None:
    with_model(session, Limited("m", lambda _number: chunked(2, 2)))
    found = bench(session, "m", plan())
    assert found.roof is not None
    assert found.work is not None
    assert decode(found.levels[0], found.roof, found.work) is None


def test_more_than_the_models_context_is_refused_before_anything_runs(session: Session) -> None:
    engine = with_model(session, Limited("m", lambda _number: words()))
    with pytest.raises(UsageError, match="more than the model's context of 2,048"):
        bench(session, "m", plan(prompt_tokens=2040, output_tokens=9))
    assert engine.asked == []


# Cost


def test_a_device_costs_more_a_token_the_less_it_has_to_do(session: Session) -> None:
    with_model(session, Limited("m", lambda _number: words(4)), HOURLY)
    found = bench(session, "m", plan())
    (level,) = found.levels
    price = prices(level, found.rates)
    # $3.60 an hour are 0.1 cent a second.
    whole = Decimal("0.001") * Decimal(repr(level.duration_s)) / 8 * 1_000_000
    assert price.at[Decimal(1)].output == whole.quantize(Decimal("1E-9"))
    assert price.at[Decimal("0.5")].output == pytest.approx(2 * whole)
    assert price.at[Decimal("0.2")].output == pytest.approx(5 * whole)
    assert price.at[Decimal(1)].total == pytest.approx(whole * 8 / 32)
    assert price.billed.output is None
    assert price.best == price.at[Decimal(1)]


def test_token_rates_are_the_bill(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(4)))
    found = bench(session, "m", plan())
    price = prices(found.levels[0], found.rates)
    # 12 in at $1 and 4 out at $2, a million times over 4 and over 16 tokens.
    assert (price.billed.output, price.billed.total, price.at) == (Decimal(5), Decimal("1.25"), {})


def test_what_a_million_costs_is_as_sure_as_the_bill(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(4)))
    found = bench(session, "m", plan())
    (level,) = found.levels

    def billed(bound: Bound, source: Source = "reported") -> tuple[str, ...]:
        first, *others = level.requests
        cost = replace(first.reading.cost, bound=bound, source=source)
        unsure = replace(first, reading=replace(first.reading, cost=cost))
        return costs(replace(found, levels=[replace(level, requests=(unsure, *others))])).rows[0][1:]

    assert billed("exact")[1:] == ("$5.00", "$1.25")
    assert [it[0] for it in billed("at_most")] == ["≤"] * 3, "what its server reads from a cache is not known"
    assert [it[0] for it in billed("at_least")] == ["≥"] * 3
    assert [it[0] for it in billed("exact", "estimated")] == ["~"] * 3


def test_an_unknown_price_stays_unknown(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(4)), Rates())
    found = bench(session, "m", plan())
    price = prices(found.levels[0], found.rates)
    assert (found.levels[0].cost.usd, price.best.output) == (None, None)


def test_energy_is_the_counters_difference(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words()))
    counter = iter([100.0, 103.0, 110.0, 150.0])
    found = bench(session, "m", plan(warmup=1), energy=lambda: next(counter))
    assert [level.energy_j for level in found.levels] == [40.0]
    assert [row.energy_j for row in session.ledger().runs()] == [3.0, 40.0]
    marks = {(row.energy_source, row.energy_bound) for row in session.ledger().runs()}
    assert marks == {("measured", "at_most")}, "a device's counter counts whoever uses it"
    assert bench(session, "m", plan()).levels[0].energy_j is None


def test_the_counter_is_that_of_the_device_which_the_model_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        name, source, resolution_s = "RAPL", "measured", 0.001

        def joules(self) -> float:
            return 5.0

        def is_shared(self) -> bool:
            return True

    class Power(Counter):
        source = "estimated"

    meters = {"cpu": Counter(), "cuda:0": Power(), "cuda:1": None}
    monkeypatch.setattr("tokmagic.bench.running.energy_meter", meters.__getitem__)
    local = EngineInfo("m", "org/m", "local", device="cpu")
    found = counter_of(local)
    assert found is not None
    assert found() == 5.0
    assert counter_of(replace(local, device="cuda:0")) is None, "power has to be added up all the while"
    assert counter_of(replace(local, device="cuda:1")) is None
    assert counter_of(replace(local, engine="endpoint", device=None)) is None


# Failures


def test_a_model_that_never_answers_is_asked_once(session: Session) -> None:
    engine = with_model(session, Paced("m", failing(*range(100))))
    with pytest.raises(ModelError, match="the device is gone"):
        bench(session, "m", plan(requests=20, warmup=1))
    assert len(engine.asked) == 1
    (row,) = session.ledger().runs()
    assert (row.status, row.error, row.reading.usage.output_tokens) == ("failed", "the device is gone", 2)


def test_single_failures_are_counted_and_left_out(session: Session) -> None:
    with_model(session, Paced("m", failing(2, 5)))
    (level,) = bench(session, "m", plan(requests=8)).levels
    assert (len(level.done), len(level.failed), level.complete) == (6, 2, True)
    assert level.usage.output_tokens == 24
    assert level.used.usage.output_tokens == 28, "what failed was used, too"


def test_many_failures_in_a_row_end_it_and_keep_what_was_measured(session: Session) -> None:
    answered, fails = threading.Event(), failing(*range(12, 100))

    def answer(number: int) -> Script:
        if number >= 12:  # on either thread the last good answer was taken
            answered.wait(60)
        return fails(number)

    def progress(doing: str, _share: float | None) -> None:
        if doing.startswith("2 at once: 2 of"):
            answered.set()

    engine = with_model(session, Paced("m", answer))
    found = bench(session, "m", plan(levels=(1, 2), requests=10), progress=progress)
    assert [(level.concurrency, len(level.done)) for level in found.levels] == [(1, 10), (2, 2)]
    assert str(found.failure) == "the device is gone"
    assert 10 + 2 + 5 <= len(engine.asked) < 20


def test_a_level_without_an_answer_ends_it(session: Session) -> None:
    with_model(session, Paced("m", failing(*range(2, 100))))
    found = bench(session, "m", plan(levels=(1, 2, 3), requests=2))
    assert [level.concurrency for level in found.levels] == [1]
    assert str(found.failure) == "the device is gone"


def test_an_answer_without_a_token_is_a_failure(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(0)))
    with pytest.raises(ModelError, match="ended without a token"):
        bench(session, "m", plan())


# Interrupts


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Interrupt the main thread after so many seconds."""
    timers: list[threading.Timer] = []

    def after(seconds: float) -> None:
        main = threading.main_thread().ident
        timers.append(threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.join()


def test_an_interrupt_keeps_what_was_measured(session: Session, interrupt: Callable[[float], None]) -> None:
    slow = words(4, ttft_s=0.05, itl_s=30.0, pace=1.0)

    def answer(number: int) -> Script:
        if number == 7:  # both are at their second request: their first ones were taken
            interrupt(0.0)
        return words() if number < 6 else slow

    with_model(session, Paced("m", answer))
    found = bench(session, "m", plan(levels=(1, 2), requests=4))
    assert found.interrupted
    assert [(level.concurrency, len(level.done), level.complete) for level in found.levels] == [
        (1, 4, True),
        (2, 2, False),
    ], "what was under way is ended, not waited for"
    first, second = session.ledger().runs()
    assert (first.status, second.status) == ("ok", "interrupted")
    assert (second.reading.usage.output_tokens or 0) >= 8


# The ledger and budgets


def test_each_level_is_one_row_that_counts_all_its_requests(session: Session) -> None:
    with_model(session, Paced("m", lambda _number: words(4)))
    bench(session, "m", plan(levels=(1, 2), requests=3, warmup=1, ignore_eos=True))
    rows = session.ledger().runs()
    assert all(row.params["ignore_eos"] for row in rows)
    assert [(row.status, row.tags, row.notebook, row.cell_id) for row in rows] == [("ok", (TAG,), None, None)] * 3
    assert [row.params["requests"] for row in rows] == [1, 3, 3]
    assert [row.params["concurrency"] for row in rows] == [1, 1, 2]
    assert [row.reading.usage.input_tokens for row in rows] == [12, 36, 36]
    assert [row.reading.cost.usd for row in rows] == [Decimal("0.00002"), Decimal("0.00006"), Decimal("0.00006")]
    assert {row.reading.ttft_s for row in rows} == {None}, "the mean of many is no run's"
    assert session.ledger().token_time_s(rows[0].info) is None
    assert session.ledger().texts(rows[0].run_id) == ([], ""), "nobody wants to read them"


def test_what_it_may_cost_is_told_first(session: Session) -> None:
    told: list[Forecast] = []
    engine = with_model(session, Paced("m", lambda _number: words(4)))
    bench(session, "m", plan(requests=3, warmup=1), announce=lambda it: told.append(it) or engine.asked.clear())
    (forecast,) = told
    assert forecast.requests == 4
    # Without a tokenizer three tokens a word and a template: 12 × 3 + 64 in, 4 out.
    assert (forecast.usd, forecast.estimated) == (4 * (Decimal(100) + 8) / 1_000_000, True)
    assert len(engine.asked) == 4, "nothing was sent before"


def test_more_than_the_cap_is_refused_before_anything_is_sent(session: Session) -> None:
    engine = with_model(session, Paced("m", lambda _number: words(4)))
    with pytest.raises(BudgetError, match=r"may cost up to about \$0.0004320?, more than --max-cost of \$0.0001"):
        bench(session, "m", plan(requests=4), max_usd=Decimal("0.0001"))
    assert engine.asked == []


def test_a_cap_without_a_price_is_refused(session: Session) -> None:
    engine = with_model(session, Paced("m", lambda _number: words(4)), Rates())
    with pytest.raises(BudgetError, match="the price of m is unknown, so --max-cost cannot be kept"):
        bench(session, "m", plan(), max_usd=Decimal(1))
    assert engine.asked == []


def test_a_server_that_counts_more_than_was_expected_is_held_to_the_cap(session: Session) -> None:
    """The forecast is 108 token-dollars a request; each then costs a hundred times as much."""
    engine = with_model(session, Paced("m", lambda _number: words(4, inputs=10_000)))
    found = bench(session, "m", plan(levels=(1, 2), requests=4), max_usd=Decimal("0.05"))
    assert str(found.failure) == "all of --max-cost, $0.0500, is spent; raise it to measure more" or (
        "a budget is used up" in str(found.failure)
    )
    spent = sum(row.reading.cost.usd or 0 for row in session.ledger().runs())
    assert Decimal("0.05") <= spent < Decimal("0.07"), "what was under way was let end"
    assert len(engine.asked) < 8
    assert found.levels


def test_a_days_budget_lets_no_level_in_that_does_not_fit(make_session: Make) -> None:
    session = make_session(budget_day="0.0006")
    engine = with_model(session, Paced("m", lambda _number: words(4)))
    found = bench(session, "m", plan(levels=(1, 8), requests=2))
    assert [level.concurrency for level in found.levels] == [1]
    assert "the day's budget of $0.0006" in str(found.failure)
    assert len(engine.asked) == 2
    with pytest.raises(BudgetError, match="the day's budget"):
        bench(session, "m", plan(levels=(8,), requests=8))


def test_a_strict_budget_lets_a_device_in_whose_price_is_known(
    make_session: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a token takes there is what the bench is to find out."""
    monkeypatch.setenv("LOGNAME", "ada")
    session = make_session()
    session.ledger().set_budget(Budget("day", Decimal(1), strict=True, user="ada"))
    with_model(session, Paced("m", lambda _number: words(4)), HOURLY)
    assert bench(session, "m", plan(requests=2)).failure is None
    session.prices.set("m", Rates())
    with pytest.raises(BudgetError, match="the price of this run is unknown"):
        bench(session, "m", plan(requests=2))


def test_a_bench_that_cannot_be_recorded_runs(make_session: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session = make_session(ledger=f"sqlite:///{tmp_path}/file/ledger.sqlite")
    with_model(session, Paced("m", lambda _number: words(4)), DOLLARS)
    with pytest.warns(UserWarning, match="NOT being recorded"):
        found = bench(session, "m", plan())
    assert len(found.levels[0].done) == 2
