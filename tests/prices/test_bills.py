"""Rates and bills: parsed exactly, in the order of their sources, with where they came from; unknown stays unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tokmagic.cli import main
from tokmagic.core.money import Cost, Rates, Tier, rates_of
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, Reading, RunRecord, Selection, Status, Sum
from tokmagic.core.stream import Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import PriceError, UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.ledgers import Ledger
from tokmagic.magics.magics import TokMagics
from tokmagic.prices import (
    PriceBook,
    bill,
    loaded_usd,
)
from tokmagic.prices.hosted import hosted_rates
from tokmagic.reports.exports import export_row
from tokmagic.runs import api
from tokmagic.runs.session import Session

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
D = Decimal
TIERED = Rates(
    input=D(1),
    output=D(4),
    cached=D("0.1"),
    cache_write=D("1.25"),
    source="%price",
    tiers=(Tier(200, D(2), D(6), D("0.2"), D("2.5")), Tier(100, D("1.5"), D(5), D("0.15"), D(2))),
)
GPU = EngineInfo("m", "org/m", "local", device="cuda:0", device_name="NVIDIA L4")
CPU = EngineInfo("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "local", device="cpu")
Make = Callable[..., Session]


def usage(input_tokens: int | None, output_tokens: int | None, **more: Any) -> Usage:
    return Usage(
        **{
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cached_input_tokens": 0,
            "cache_write_input_tokens": 0,
            "input_source": "measured",
            "output_source": "measured",
            **more,
        }
    )


# Bills


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (100, "0.00010000"),
        (101, "0.00015150"),
        (200, "0.00030000"),
        (201, "0.00040200"),
        (10**6, "2"),
    ],
)
def test_the_whole_run_is_priced_at_the_tier_that_its_input_reaches(tokens: int, expected: str) -> None:
    """Whatever order the tiers are given in."""
    assert bill(usage(tokens, 0), None, TIERED).usd == D(expected)
    assert bill(usage(tokens, 0), None, replace(TIERED, tiers=TIERED.tiers[::-1])).usd == D(expected)


def test_the_time_of_a_run_whose_end_was_not_told_is_a_lower_bound() -> None:
    rates = Rates(device_hour=D(36))
    assert bill(usage(10, 5), 2.0, rates) == Cost(D("0.02"), "measured", "exact", None, D("0.02"))
    assert bill(usage(10, 5), 2.0, rates, cut=True) == Cost(D("0.02"), "estimated", "at_least", None, D("0.02"))


def test_each_part_is_priced_at_its_tier() -> None:
    parts = usage(201, 10, cached_input_tokens=100, cache_write_input_tokens=50)
    assert bill(parts, None, TIERED).usd == (51 * D(2) + 100 * D("0.2") + 50 * D("2.5") + 10 * D(6)) / 1_000_000


@pytest.mark.parametrize(
    ("known", "rates", "expected"),
    [
        ({}, TIERED, ("exact", "measured")),
        ({"cached_input_tokens": None}, TIERED, ("at_most", "measured")),
        ({"cached_input_tokens": None}, Rates(input=D(1), output=D(1)), ("exact", "measured")),
        ({"cached_input_tokens": None}, Rates(input=D(1), output=D(1), cached=D(1)), ("exact", "measured")),
        ({"cache_write_input_tokens": None}, TIERED, ("at_least", "measured")),
        (
            {"cache_write_input_tokens": None},
            Rates(input=D(1), output=D(1), cache_write=D("0.5")),
            ("at_most", "measured"),
        ),
        ({"cached_input_tokens": None, "cache_write_input_tokens": None}, TIERED, ("exact", "estimated")),
        ({"input_source": "counted"}, TIERED, ("exact", "counted")),
        ({"output_source": "estimated"}, TIERED, ("exact", "estimated")),
        ({"input_source": "reported", "output_source": "unknown"}, TIERED, ("exact", "unknown")),
    ],
)
def test_a_bound_says_on_which_side_the_bill_may_lie(
    known: dict[str, Any], rates: Rates, expected: tuple[str, str]
) -> None:
    cost = bill(usage(50, 5, **known), None, rates)
    assert (cost.bound, cost.source) == expected
    assert cost.usd == (50 * D(1) + 5 * (rates.output or 0)) / 1_000_000, "what is unknown is priced as plain input"


@pytest.mark.parametrize(
    ("counts", "rates"),
    [
        (usage(None, 5), TIERED),
        (usage(5, None), TIERED),
        (usage(5, 5), Rates(input=D(1))),
        (usage(5, 5), Rates(output=D(1))),
        (usage(5, 5), Rates()),
        (Usage(), TIERED),
    ],
)
def test_what_is_not_known_has_no_cost(counts: Usage, rates: Rates) -> None:
    assert bill(counts, None, rates) == Cost()
    assert bill(counts, 7.2, replace(rates, device_hour=D(1))).usd == D("0.002"), (
        "the device's time is known all the same"
    )


@pytest.mark.parametrize(
    ("counts", "device_s", "says"),
    [
        (usage(-1, 5), None, "negative input tokens (-1)"),
        (usage(5, -1), None, "negative output tokens (-1)"),
        (usage(5, 5, cached_input_tokens=-1), None, "negative cached tokens (-1)"),
        (usage(5, 5, cache_write_input_tokens=-1), None, "negative cache-write tokens (-1)"),
        (usage(5, 5, reasoning_tokens=-1), None, "negative reasoning tokens (-1)"),
        (usage(5, 5, cached_input_tokens=3, cache_write_input_tokens=3), None, "(6) exceed the input (5)"),
        (usage(5, 5, reasoning_tokens=6), None, "reasoning tokens (6) exceed the output (5)"),
        (usage(5, 5), -0.1, "-0.1 device seconds"),
        (usage(5, 5), float("nan"), "nan device seconds"),
        (usage(5, 5), float("inf"), "inf device seconds"),
        (usage(5, 5), 1e51, "1e+51 device seconds"),
        (usage(2**62, 5), None, "a cost of 4611686018427.39 USD is impossible"),
    ],
)
def test_what_cannot_be_has_no_cost_and_is_named(counts: Usage, device_s: float | None, says: str) -> None:
    cost = bill(counts, device_s, replace(TIERED, tiers=(), device_hour=D(1)))
    assert says in str(cost.anomaly)
    assert cost == Cost(anomaly=cost.anomaly)


def test_the_dearest_bill_that_there_is_fits_the_ledger(ledger: Ledger) -> None:
    cost = bill(usage(9_000_000, 0), None, Rates(input=D(1_000_000), output=D(0)))
    assert cost.usd == 9_000_000
    ledger.settle(record(Reading(usage(9_000_000, 0), cost)))
    assert ledger.runs()[0].reading.cost.usd == 9_000_000
    assert bill(usage(9_000_001, 0), None, Rates(input=D(1_000_000), output=D(0))).usd is None


def test_a_shadow_stands_beside_the_bill_and_in_no_sum() -> None:
    shadowed = replace(
        TIERED, device_hour=D(1), shadow_model="openai/gpt-5-mini", shadow=Rates(input=D(5), output=D(7))
    )
    with_it, without = bill(usage(50, 5), 3.6, shadowed), bill(usage(50, 5), 3.6, replace(shadowed, shadow=None))
    assert with_it.shadow_usd == D("0.000285")
    assert replace(with_it, shadow_usd=None) == without
    alone = bill(usage(50, 5), None, Rates(shadow=shadowed.shadow))
    assert (alone.usd, alone.shadow_usd) == (None, D("0.000285"))
    assert Sum.of([record(Reading(usage(50, 5), with_it))] * 2).cost_usd == 2 * (without.usd or 0)


def test_compute_cost_is_rounded_up_to_a_picodollar() -> None:
    assert bill(Usage(), 1e-9, Rates(device_hour=D("0.000000000001"))).usd == D("1E-12")
    assert bill(Usage(), 0.0, Rates(device_hour=D(5))).usd == 0
    assert bill(Usage(), 3600.0, Rates(device_hour=D("2.5"))) == Cost(D("2.5"), "measured", "exact", None, D("2.5"))


def test_loaded_cost_is_the_rate_over_all_the_time() -> None:
    assert loaded_usd(5400.0, D("0.08")) == D("0.12")
    assert loaded_usd(0.0, D("0.08")) == 0


# Frozen into the row


def record(reading: Reading, rates: Rates | None = None, status: Status = "ok", info: EngineInfo = GPU) -> RunRecord:
    env = {name: value for name in ("device_name", "provider") if (value := getattr(info, name))}
    more = {"rates": rates} if rates else {}
    return RunRecord("r", NOW, status, info, "0" * 64, {}, reading=reading, env=env, **more)


def test_tiers_and_shadows_are_frozen_into_the_row(ledger: Ledger) -> None:
    shadow = hosted_rates("google/gemini-2.5-pro", NOW)
    assert shadow.tiers, "one that has tiers itself"
    rates = replace(TIERED, device_hour=D("2.50"), version="v1", shadow_model="google/gemini-2.5-pro", shadow=shadow)
    counts = usage(150, 5)
    ledger.settle(record(Reading(counts, bill(counts, 1.5, rates), device_s=1.5), rates))
    (kept,) = ledger.runs()
    assert kept.rates == rates
    assert kept.reading.cost == bill(counts, 1.5, rates)
    assert kept.reading.cost.shadow_usd == D("0.0002375")
    assert kept.info == GPU
    written = export_row(kept)["rates"]
    assert json.loads(json.dumps(written)) == written
    assert written["tiers"][0] == {
        "above_tokens": 200,
        "input": "2",
        "output": "6",
        "cached": "0.2",
        "cache_write": "2.5",
    }
    assert (written["shadow_model"], written["shadow"]["source"]) == ("google/gemini-2.5-pro", shadow.source)


def test_rows_from_before_tiers_are_read(ledger: Ledger) -> None:
    assert rates_of({"input": "0.15", "output": "0.6", "source": "%price"}) == Rates(
        input=D("0.15"), output=D("0.6"), source="%price"
    )
    ledger.settle(record(Reading()))
    assert ledger.runs()[0].rates == Rates()


# Which price holds


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    book = PriceBook(lambda: str(path) if path.exists() else "")
    assert book.rates(GPU, NOW).source == "list price: L4, Modal on demand"
    path.write_text('[devices]\n"NVIDIA L4" = 0.40', encoding="utf-8")
    assert (book.rates(GPU, NOW).device_hour, book.rates(GPU, NOW).source) == (D("0.4"), "file p.toml: NVIDIA L4")
    path.write_text("[models.m]\ninput = 1\noutput = 2", encoding="utf-8")
    in_file = book.rates(GPU, NOW)
    assert (in_file.input, in_file.device_hour) == (1, D("0.7992"))
    assert in_file.source == "file p.toml; device list price: L4, Modal on demand (2026-05)"
    book.set("m", Rates(input=D(3), output=D(4), source="%price"))
    assert (book.rates(GPU, NOW).input, book.rates(GPU, NOW).source[:14]) == (3, "%price; device")
    book.set("m", Rates(device_hour=D(9), source="%price"))
    assert book.rates(GPU, NOW) == Rates(device_hour=D(9), source="%price"), "what was set decides what is billed"
    book.set("m", Rates())
    assert book.rates(GPU, NOW) == Rates(), "also that it is unknown"
    book.reset("m")
    assert book.rates(GPU, NOW) == in_file


def test_a_local_model_named_like_a_hosted_one_never_has_its_price() -> None:
    for name in ("gpt-5-mini", "openai/gpt-5-mini", "gpt-oss-20b", "claude-sonnet-4-5"):
        for model_id in (name, name.rpartition("/")[2]):
            local = EngineInfo(name, model_id, "local", device="cpu", provider="openai")
            rates = PriceBook().rates(local, NOW)
            assert (rates.input, rates.output) == (None, None)
            assert rates.source.startswith("list price: ")


@pytest.mark.parametrize(
    "info",
    [
        EngineInfo("s", "scripted", "scripted", device="none"),
        EngineInfo("m", "org/m", "local"),
        EngineInfo("m", "org/m", "local", device="cuda:0"),
        EngineInfo("m", "org/m", "local", device="cuda:0", device_name="NVIDIA Abacus 9000"),
        EngineInfo("m", "org/m", "local", device="mps"),
        EngineInfo("gpt-5-mini", "gpt-5-mini", "endpoint"),
    ],
)
def test_what_nobody_has_a_price_for_is_unknown(info: EngineInfo) -> None:
    rates = PriceBook().rates(info, NOW)
    assert rates == Rates()
    assert bill(usage(5, 5), 9.0, rates) == Cost()


@pytest.mark.parametrize("field", ["input", "output", "cached", "cache_write", "device_hour"])
@pytest.mark.parametrize("value", [D("-0.1"), D("NaN"), D("Infinity")])
def test_a_book_takes_no_rate_that_is_none(field: str, value: Decimal) -> None:
    with pytest.raises(PriceError, match=f"{field} is .*; give a number of 0 or more"):
        PriceBook().set("m", Rates(**{field: value}))


def test_a_shadow_follows_the_time_of_the_run() -> None:
    book = PriceBook()
    book.set("m", Rates(input=D(1), output=D(2), source="%price"))
    with pytest.raises(PriceError, match="did you mean gpt-5-mini"):
        book.shadow("m", "openai/gpt-5-minni")
    assert book.rates(GPU, NOW).shadow is None
    book.shadow("m", "openai/gpt-5-mini")
    for moment in (NOW, NOW + timedelta(days=1)):
        rates = book.rates(GPU, moment)
        assert (rates.shadow_model, rates.shadow) == ("openai/gpt-5-mini", hosted_rates("openai/gpt-5-mini", moment))
    book.shadow("m", None)
    assert book.rates(GPU, NOW).shadow_model is None
    book.shadow("m", "openai/gpt-5-mini")
    book.reset("m")
    assert book.rates(GPU, NOW).shadow_model is None


# %price, the footer and the command


@pytest.fixture
def session(make_session: Make) -> Session:
    return make_session(model="scripted")


@pytest.fixture
def magics(session: Session) -> Iterator[TokMagics]:
    shell = InteractiveShell()
    yield TokMagics(shell, session)
    shell.history_manager.end_session()


def row(table: Table, name: str) -> dict[str, str]:
    return next(line for line in table.as_dicts() if line["model"].strip() == name)


def test_the_list_says_where_each_price_comes_from(magics: TokMagics, session: Session, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        "[models.scripted]\ninput = 1\noutput = 2\ntiers = [{above_tokens = 1000, input = 3, output = 4}]",
        encoding="utf-8",
    )
    assert row(magics.price(""), "smollm2")["source"] == "its device's list price, once it is loaded"
    assert row(magics.price("scripted --per-1k 0.001"), "scripted")["source"] == "%price"
    session.settings.prices = str(path)
    assert row(magics.price("scripted off"), "scripted")["source"] == "file p.toml"
    table = magics.price("scripted --as openai/gpt-5-mini")
    assert row(table, "above 1,000 in")["output /1M"] == "$4.00"
    shadow = row(table, "as openai/gpt-5-mini")
    assert (shadow["input /1M"], shadow["source"]) == ("$0.2500", "genai-prices: openai/gpt-5-mini")
    assert "genai-prices" not in repr(magics.price("scripted --as off"))
    path.write_text("[models.scripted]\ninput = -1", encoding="utf-8")
    with pytest.warns(UserWarning, match=f"{re.escape(str(path))}, line 2: input is -1"):
        table = magics.price("")
    assert row(table, "scripted")["input /1M"] == "$1.00", "what was good stays in force"
    assert table.note.startswith(f"{path}, line 2: input is -1")


def test_one_models_rates_are_shown(magics: TokMagics) -> None:
    assert [line["model"] for line in magics.price("scripted").as_dicts()] == ["scripted"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("smollm2 --input 1", "give --output too"),
        ("scripted --input 1 --as openai/gpt-5-minni", "did you mean gpt-5-mini"),
        ("scripted --input nan --as openai/gpt-5-mini", "--input is 'nan'"),
        ("scripted off --input 1", "off removes all rates set for a model; give no other options with it"),
        ("scripted of", "off 'of' is unknown"),
        ("scripted --input nan --output 1", "--input is 'nan'"),
        ("scripted --as openai/gpt-5-minni", "did you mean gpt-5-mini"),
        ("scripted --as gpt-5-mini", "give PROVIDER/MODEL"),
        ("scripted --as openai/gpt-5-mini?processing=bath", "no tariff"),
        ("smolm2 --input 1 --output 1", "did you mean smollm2"),
    ],
)
def test_a_wrong_price_line_changes_nothing(magics: TokMagics, session: Session, line: str, says: str) -> None:
    session.prices.set("scripted", TIERED)
    with pytest.raises((UsageError, PriceError), match=re.escape(says)):
        magics.price(line)
    assert session.rates(session.info("scripted")) == TIERED


def test_a_run_shows_what_it_would_have_cost_elsewhere(session: Session) -> None:
    session.prices.set("scripted", Rates(input=D(1), output=D(2), source="%price"))
    session.prices.shadow("scripted", "openai/gpt-5-mini")
    done = session.generate(Prompt((Message("user", "Hi"),)))
    counts = done.usage
    expected = (12 * D("0.25") + (counts.output_tokens or 0) * D(2)) / 1_000_000
    assert done.cost.shadow_usd == expected
    assert f"(openai/gpt-5-mini: {numbers.usd(expected)})" in done.footer
    assert session.ledger().runs() == [done.record]
    assert session.ledger().totals(Selection()).cost_usd == done.cost.usd


def test_the_command_reckons_beside_it_what_another_model_would_cost(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "_session", session)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Hi", encoding="utf-8")
    assert main(["run", str(prompt), "--json", "--as", "openai/gpt-5-mini?processing=batch"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["cost_usd"], answer["rates_source"]) == (None, "unknown")
    assert (answer["cost_source"], answer["cost_bound"]) == ("unknown", "exact")
    assert answer["shadow_model"] == "openai/gpt-5-mini?processing=batch"
    assert D(answer["shadow_usd"]) == (12 * D("0.125") + answer["output_tokens"] * D(1)) / 1_000_000
    assert main(["run", str(prompt), "--as", "openai/gpt-5-minni"]) == 1
    assert "did you mean gpt-5-mini" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (Rates(device_hour=D("0.36"), source="list price: 2 vCPU, somewhere"), "$0.0001 at list price"),
        (Rates(device_hour=D("0.36"), source="%price"), "$0.0001"),
        (Rates(input=D(1), output=D(0), device_hour=D(1), source="list price: no"), "$0.00001"),
        (Rates(), "—"),
        (Rates(shadow_model="a/b", shadow=Rates(input=D(100), output=D(0))), "— (a/b: $0.0010)"),
    ],
)
def test_the_footer_says_whose_price_it_is(rates: Rates, expected: str) -> None:
    counts = usage(10, 5)
    reading = Reading(counts, bill(counts, 1.0, rates))
    assert numbers.footer(reading, "m", "ok", rates).split(" · ")[1] == expected


def test_what_an_estimate_would_cost_elsewhere_is_one_too() -> None:
    rates = Rates(shadow_model="a/b", shadow=Rates(input=D(100), output=D(0)))
    counts = usage(10, 5, input_source="estimated")
    assert "— (a/b: ~$0.0010)" in numbers.footer(Reading(counts, bill(counts, None, rates)), "m", "ok", rates)


def test_what_a_dry_run_estimates_is_marked(magics: TokMagics, session: Session) -> None:
    session.models.add("e", ModelSpec("org/m", api_base="http://127.0.0.1:9/v1"))
    session.prices.set("e", Rates(input=D(1_000), output=D(1_000), cache_write=D(2_000)))
    (row,) = magics.generate("-m e --dry-run --max-tokens 100", "Hello").rows
    assert [text[:2] for text in (row[1], row[3], row[4])] == ["~" + row[1][1], "~$", "~$"]


@pytest.mark.model
def test_the_first_run_of_the_default_model_has_a_cost_and_says_whose(make_session: Make, tiny_home: Path) -> None:
    session = make_session(home=str(tiny_home))
    done = session.generate(Prompt((Message("user", "Hi"),), Sampling(max_tokens=20)), "smollm2")
    seconds, rates = done.reading.device_s, done.record.rates
    assert seconds
    assert rates.source.startswith("list price: ")
    assert rates.version
    assert rates.device_hour
    assert done.cost.usd == done.cost.compute_usd == bill(Usage(), seconds, rates).usd
    assert done.cost.token_usd is None
    assert "at list price" in done.footer


def test_the_rates_of_one_model_are_not_those_of_another_that_takes_its_name(magics: TokMagics) -> None:
    magics.model("add m scripted")
    magics.price("m --input 1 --output 2")
    magics.model("add m scripted")
    assert magics.at.session.prices.get("m").input == 1, "the same model keeps them"
    magics.model("add m other/model --api-base http://127.0.0.1:9/v1")
    assert magics.at.session.prices.get("m") == Rates()
