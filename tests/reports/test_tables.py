"""Sums, tables and exports: money stays exact, unknown stays unknown, every field survives."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmagic.core.money import Bound, Cost, Rates
from tokmagic.core.record import EngineInfo, Reading, RunRecord, Selection, Status, Sum
from tokmagic.core.stream import Source, Usage
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.ledgers import Ledger
from tokmagic.prices import PriceBook
from tokmagic.prices.projection import project
from tokmagic.reports import GROUPS, cell_runs, repriced, table, waste, waste_line
from tokmagic.reports.csv_lines import csv_lines
from tokmagic.runs.live import totals_wire

TINY = Decimal("0.000000000001")
START = datetime(2026, 11, 24, 9, 15, 2, 120000, tzinfo=UTC)
FULL = RunRecord(
    "f" * 32,
    START,
    "ok",
    EngineInfo('gpt, "x"\nπ', "org/model", "local", "abc", "cuda:0", "bfloat16", "nf4", 8192),
    "0" * 64,
    {"max_tokens": 9, "seed": 7, "stop": ["\n", "é"]},
    finished_at=START + timedelta(seconds=2),
    finish_reason="stop",
    notebook="/home/ada/Hefte/eins, zwei.ipynb",
    cell_id="c-1",
    session="s-1",
    user="ada",
    reading=Reading(
        Usage(
            input_tokens=412,
            output_tokens=118,
            cached_input_tokens=100,
            cache_write_input_tokens=0,
            reasoning_tokens=11,
            input_source="measured",
            output_source="reported",
        ),
        Cost(Decimal("123.456789012345"), "measured", "exact", None, TINY, Decimal("0.000100"), "odd"),
        *(0.1, 0.01, 1.5, 0.011, 0.012, 0.013, 91.5, 1.25, 2**40, 2),
        spark_ms=(11.2, 11.3),
    ),
    rates=Rates(Decimal("0.15"), Decimal("0.60"), None, None, Decimal("2.5"), "%price", "v1"),
    local_input_tokens=410,
    energy_j=12.5,
    energy_source="measured",
    energy_bound="at_most",
    replay_of="e" * 32,
    tags=("a", "b,c"),
    env={"torch": "2.13.0", "note": 'say "hi"'},
    key="0123456789ab",
    team="Büro 2",
    client_run_id="d" * 32,
)


def run(run_id: str = "r", *, cost: str | None = None, status: Status = "ok", **fields: Any) -> RunRecord:
    usage = Usage(input_tokens=10, output_tokens=4, input_source="measured", output_source="measured")
    if status == "refused":
        usage = Usage()
    usd = None if cost is None else Decimal(cost)
    timing = {"ttft_s": fields.pop("ttft_s", 0.2), "itl_mean_s": fields.pop("itl_mean_s", 0.01)}
    reading = Reading(usage, Cost(usd, "measured" if cost else "unknown"), **timing)
    model = EngineInfo(fields.pop("model", "smollm2"), "id", "local")
    return RunRecord(run_id, fields.pop("at", START), status, model, "", {}, reading=reading, **fields)


RUNS = [
    run("a" * 8, cost="0.1", cell_id="c1", notebook="/n1", tags=("x",), user="ada"),
    run("b" * 8, cost="0.2", cell_id="c1", notebook="/n1", tags=("x", "y"), user="ada", ttft_s=0.4),
    run("c" * 8, cell_id="c2", notebook="/n1", model="other", ttft_s=None, itl_mean_s=None),
    run("d" * 8, cost="0", cell_id="c1", notebook="/n2", status="cached", ttft_s=9.0, itl_mean_s=9.0),
    run("e" * 8, cell_id=None, notebook=None, status="refused", at=START + timedelta(days=2)),
]


def test_sums_leave_refusals_out_of_the_unpriced_and_cache_hits_out_of_latency() -> None:
    total = Sum.of(RUNS)
    assert (total.runs, total.cost_usd, total.unpriced_runs) == (5, Decimal("0.3"), 1)
    assert (total.input_tokens, total.output_tokens) == (40, 16)
    assert (total.ttft_s, total.itl_mean_s) == pytest.approx(((0.2 + 0.4 + 0.2) / 3, 0.01))
    nothing = Sum.of([])
    assert (nothing.runs, nothing.cost_usd, nothing.ttft_s) == (0, None, None)


@given(st.lists(st.integers(0, 10**18), min_size=1, max_size=30))
def test_sums_of_money_are_exact(picodollars: list[int]) -> None:
    runs = [run(cost=f"{amount * TINY:f}") for amount in picodollars]
    assert Sum.of(runs).cost_usd == Decimal(sum(picodollars)) * TINY


Count = int | None
UNKNOWN_COUNTS: list[tuple[list[tuple[Count, Count]], tuple[str, str], tuple[Count, Count]]] = [
    ([], ("0", "0"), (0, 0)),
    ([(0, 0)], ("0", "0"), (0, 0)),
    ([(None, None), (None, None)], ("—", "—"), (None, None)),
    ([(12, None), (None, None)], ("12", "—"), (12, None)),
    ([(None, None), (12, 0)], ("12", "0"), (12, 0)),
]


@pytest.mark.parametrize(("counts", "shown", "exact"), UNKNOWN_COUNTS)
def test_a_sum_of_unknown_counts_alone_is_unknown(
    sqlite_url: str,
    counts: list[tuple[Count, Count]],
    shown: tuple[str, str],
    exact: tuple[Count, Count],
) -> None:
    ledger = Ledger(sqlite_url)
    made = []
    for number, (asked, answered) in enumerate(counts):
        record = run(str(number), status="failed")
        usage = replace(record.reading.usage, input_tokens=asked, output_tokens=answered)
        made.append(replace(record, reading=replace(record.reading, usage=usage)))
        ledger.settle(made[-1])
    found = table(ledger, Selection(), "model")
    assert found.rows[-1][2:4] == shown
    line = found.exact[-1]
    assert (line["input_tokens"], line["output_tokens"]) == tuple(it or 0 for it in exact)
    assert (line["input_known"], line["output_known"]) == tuple(it is not None for it in exact)
    for total in (Sum.of(made), ledger.totals(Selection()), sum((Sum.of([it]) for it in made), Sum())):
        assert (total.input_tokens, total.output_tokens) == exact
        told = totals_wire(total) or {}
        assert (told["input_tokens"], told["output_tokens"]) == tuple(it or 0 for it in exact)
        known = told.get("input_known", True), told.get("output_known", True)
        assert known == tuple(it is not None for it in exact)
    # Of the failed runs, and in all.
    wasted = {(line["tokens"], line["tokens_known"]) for line in waste(ledger, Selection()).exact}
    assert wasted == ({(sum(it or 0 for it in exact), any(known))} if counts else set())
    ledger.close()


BY = {
    "cell": ["cell 1", "cell 2", "cell 3", "cell 4"],
    "run": ["a" * 8, "b" * 8, "c" * 8, "d" * 8, "e" * 8],
    "model": ["smollm2", "other"],
    "notebook": ["/n1", "/n2", "—"],
    "tag": ["x", "y", "—"],
    "user": ["ada", "—"],
    "status": ["ok", "cached", "refused"],
}


SURE = {"estimated_runs": 0, "at_least_runs": 0, "at_most_runs": 0, "cost_estimated": False, "cost_bound": "exact"}

Known = tuple[str | None, Source, Bound]
EXACT: Known = ("1", "reported", "exact")
GUESSED: Known = ("1", "estimated", "exact")
LEAST: Known = ("1", "reported", "at_least")
MOST: Known = ("1", "reported", "at_most")
NOTHING: Known = (None, "unknown", "exact")
MARKS: list[tuple[list[Known], str]] = [
    ([EXACT, EXACT], "$2.00"),
    ([EXACT, GUESSED], "~$2.00"),
    ([EXACT, LEAST], "≥$2.00"),
    ([EXACT, NOTHING], "≥$1.00"),
    ([EXACT, MOST], "≤$2.00"),
    ([LEAST, MOST], "~$2.00"),
    ([MOST, NOTHING], "~$1.00"),
    ([GUESSED, LEAST], "~≥$2.00"),
    ([GUESSED, MOST], "~≤$2.00"),
    ([GUESSED, LEAST, MOST], "~$3.00"),
    ([NOTHING, NOTHING], "—"),
]


def known(*costs: Known) -> list[RunRecord]:
    """Whole runs that cost so much, each as surely as it says."""
    made = []
    for number, (usd, source, bound) in enumerate(costs):
        record = run(str(number))
        cost = Cost(None if usd is None else Decimal(usd), source, bound)
        made.append(replace(record, reading=replace(record.reading, cost=cost)))
    return made


@pytest.mark.parametrize(("costs", "shown"), MARKS)
def test_a_sum_is_as_sure_as_what_it_adds_up(ledger: Ledger, costs: list[Known], shown: str) -> None:
    records = known(*costs)
    made = table(filled(ledger, records), EVERYTHING, "model")
    assert [row[4] for row in made.rows] == [shown, shown]
    assert [row[4] for row in table(ledger, EVERYTHING, "run").rows[:-1]] == [
        numbers.cost(record.reading.cost) for record in records
    ], "a group of one run is marked as that run is"
    exact = made.as_dicts()[-1]
    mark = "~" * exact["cost_estimated"] + {"exact": "", "at_least": "≥", "at_most": "≤"}[exact["cost_bound"]]
    assert mark == shown.partition("$")[0].replace("—", "≥")
    doubtful = (exact["estimated_runs"], exact["at_least_runs"], exact["at_most_runs"])
    assert doubtful == (costs.count(GUESSED), costs.count(LEAST), costs.count(MOST))


def test_what_was_wasted_and_repriced_is_marked_too(ledger: Ledger) -> None:
    least, guessed = (replace(record, status="interrupted") for record in known(LEAST, GUESSED))
    filled(ledger, [least, replace(guessed, status="failed")])
    assert [row[3] for row in waste(ledger, EVERYTHING).rows] == ["≥$1.00", "~$1.00", "~≥$2.00"]
    assert waste_line(ledger, EVERYTHING).startswith("wasted ~≥$2.00: 1 interrupted (≥$1.00)")
    book = PriceBook()
    book.set("smollm2", Rates(Decimal(100_000), Decimal(0), cached=Decimal(1)))
    (_, total) = (made := repriced(ledger, EVERYTHING, book)).rows
    assert total == ("total", "2", "~≥$2.00", "≤$2.00", "~$0")
    assert (made.as_dicts()[-1]["today_estimated"], made.as_dicts()[-1]["today_bound"]) == (False, "at_most")


def filled(ledger: Ledger, records: list[RunRecord]) -> Ledger:
    for record in records:
        ledger.settle(record)
    return ledger


EVERYTHING = Selection()


@pytest.mark.parametrize("by", [*BY, "day"])
def test_each_grouping_has_its_lines_and_one_total(ledger: Ledger, by: str) -> None:
    made = table(filled(ledger, RUNS), EVERYTHING, by)
    assert made.columns == (by, "runs", "refused", "in", "out", "cost", "saved", "TTFT", "ms/token")
    names = [row[0] for row in made.rows]
    days = [record.started_at.astimezone().strftime("%Y-%m-%d") for record in (RUNS[0], RUNS[4])]
    assert names == [*BY.get(by, days), "total"]
    assert made.rows[-1][1:6] == ("5", "1", "40", "16", "≥$0.3000")
    assert made.note.startswith("1 of 5 runs without a price")
    several = "in a line of each of their tags, and once in the total: 1 of 5 runs; the lines add up to more"
    assert (several in made.note.splitlines()) is (by == "tag")
    if by != "tag":  # a run with two tags is in both lines, and once in the total
        assert sum(int(row[1]) for row in made.rows[:-1]) == 5
        assert [row[2] for row in made.rows] == [str(line["refused_runs"]) for line in made.exact]
        assert sum(int(row[2]) for row in made.rows[:-1]) == 1
    assert set(GROUPS) == {*BY, "day", "key", "team"}


def test_what_is_in_the_lines_of_several_tags_is_told_in_each(ledger: Ledger) -> None:
    made = table(filled(ledger, RUNS), EVERYTHING, "tag").as_dicts()
    found = {line["tag"]: (line["runs"], line["runs_in_several_lines"]) for line in made}
    assert found == {"x": (2, 1), "y": (1, 1), "—": (3, 0), "total": (5, 1)}
    assert "runs_in_several_lines" not in table(ledger, EVERYTHING, "user").as_dicts()[0]
    (_, total) = (alone := table(ledger, Selection(notebook="/n2"), "tag")).as_dicts()
    assert (total["runs"], total["runs_in_several_lines"], alone.note) == (1, 0, "")
    book = PriceBook()
    book.set("smollm2", Rates(input=Decimal(1), output=Decimal(1)))
    for by, said in (("tag", 1), ("user", 0)):
        assert repriced(ledger, EVERYTHING, book, by).note.count("the lines add up to more") == said


def shared(ledger: Ledger) -> None:
    """Runs with and without a key; one of them is in the ledger by its client's row, too."""
    ada, bob = (ledger.keys.add(name, name, "=search", Decimal(5))[0] for name in ("ada's", "=bob()"))
    for number, key in enumerate((ada, ada, bob)):
        made = run(f"s{number}", cost="0.1", user=key.user, key=key.key_id, team=key.team)
        ledger.settle(replace(made, duplicate=number == 0, client_run_id="c" if number == 0 else None))
    ledger.settle(run("c", cost="0.1", user="ada's"))
    ledger.settle(run("x", cost="7", key="0" * 12, team="-2"))


def test_keys_and_teams_have_all_of_their_runs_and_no_others(ledger: Ledger) -> None:
    shared(ledger)
    keys, teams, users = (table(ledger, EVERYTHING, by) for by in ("key", "team", "user"))
    assert [row[:2] for row in keys.rows] == [("ada's", "2"), ("=bob()", "1"), ("0" * 12, "1"), ("total", "4")]
    assert [(row[0], row[1], row[4]) for row in teams.rows] == [
        *(("=search", "3", "$0.3000"), ("-2", "1", "$7.00"), ("total", "4", "$7.30")),
    ]
    assert [row[:2] for row in users.rows] == [("ada's", "2"), ("=bob()", "1"), ("—", "1"), ("total", "4")]
    book = PriceBook()
    book.set("smollm2", Rates(Decimal(10_000), Decimal(20_000)))
    assert [row[:2] for row in repriced(ledger, EVERYTHING, book, "key").rows] == [row[:2] for row in keys.rows]
    assert [row[:2] for row in repriced(ledger, EVERYTHING, book, "user").rows] == [row[:2] for row in users.rows]


def test_a_key_without_a_team_is_on_the_bill_of_teams(ledger: Ledger) -> None:
    shared(ledger)
    ledger.settle(run("nobody's", cost="3", key="1" * 12))
    keys, teams = (table(ledger, EVERYTHING, by) for by in ("key", "team"))
    lines = [("=search", "3", "$0.3000"), ("-2", "1", "$7.00"), ("—", "1", "$3.00"), ("total", "5", "$10.30")]
    assert [(row[0], row[1], row[4]) for row in teams.rows] == lines
    assert teams.rows[-1][1:] == keys.rows[-1][1:], "both are of all that a shared engine ran"
    book = PriceBook()
    book.set("smollm2", Rates(Decimal(10_000), Decimal(20_000)))
    assert [row[:2] for row in repriced(ledger, EVERYTHING, book, "team").rows] == [line[:2] for line in lines]


def test_a_bill_is_exact_adds_up_and_computes_nothing(ledger: Ledger) -> None:
    shared(ledger)
    for by in GROUPS:
        made = table(ledger, EVERYTHING, by)
        rows = list(csv.DictReader(io.StringIO("".join(csv_lines(made)), newline="")))
        told = made.as_dicts()
        assert list(rows[0]) == list(told[-1])
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(told[-1]["cost_usd"])
        assert [row[by].removeprefix("'") for row in rows] == [str(row[by]) for row in told[:-1]]
        assert not any(value[:1] in "=+-@\t\r" for row in rows for value in row.values() if value), by
    (row, _) = csv.DictReader(io.StringIO("".join(csv_lines(table(ledger, EVERYTHING, "team"))), newline=""))
    assert float(row.pop("ttft_s")) == pytest.approx(0.2)
    assert row == {
        "team": "'=search",
        "runs": "3",
        "refused_runs": "0",
        "input_tokens": "30",
        "output_tokens": "12",
        "cost_usd": "0.3",
        "unpriced_runs": "0",
        "estimated_runs": "0",
        "at_least_runs": "0",
        "at_most_runs": "0",
        "cost_estimated": "false",
        "cost_bound": "exact",
        "saved_usd": "",
        "saved_estimated": "false",
        "saved_bound": "exact",
        "itl_mean_s": "0.01",
        "energy_j": "",
        "energy_runs": "0",
        "energy_per_output_token_j": "",
        "energy_estimated": "false",
        "energy_bound": "exact",
        "input_known": "true",
        "output_known": "true",
    }
    (header,) = csv_lines(table(ledger, Selection(user="nobody"), "user"))
    assert header.startswith("user,runs,")


def test_an_unknown_group_is_refused_with_the_nearest(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match=r"cannot group by 'modell' \(did you mean model\?\); use one of cell, run"):
        table(ledger, EVERYTHING, "modell")


def test_a_table_lines_up_and_shows_unknown_as_unknown(ledger: Ledger) -> None:
    assert len(repr(table(ledger, EVERYTHING, "cell")).splitlines()) == 2
    text = repr(table(filled(ledger, [RUNS[0], RUNS[2]]), EVERYTHING, "model"))
    assert text.splitlines() == [
        "model    runs  in  out      cost  saved    TTFT  ms/token",
        "smollm2     1  10    4   $0.1000      —  0.20 s      10.0",
        "other       1  10    4         —      —       —         —",
        "total       2  20    8  ≥$0.1000      —  0.20 s      10.0",
        "1 of 2 runs without a price, not in the cost; set one with %price",
    ]
    left = Table(("name", "says"), (("a", "x"), ("bbb", "y")), figures=False)
    assert repr(left) == "name  says\na     x\nbbb   y"
    assert left.as_dicts() == [{"name": "a", "says": "x"}, {"name": "bbb", "says": "y"}]


def test_waste_is_what_was_paid_for_and_gave_nothing_new(ledger: Ledger) -> None:
    assert waste(ledger, EVERYTHING).note == "nothing was wasted"
    assert waste_line(ledger, EVERYTHING) == ""
    greedy: dict[str, Any] = {"temperature": 0.0, "max_tokens": 9}
    records = [
        *(replace(run(f"g{n}", cost="0.10"), params=greedy, prompt_sha256="p") for n in range(3)),
        replace(run("other", cost="0.10"), params=greedy, prompt_sha256="q"),
        *(replace(run(f"s{n}", cost="0.01"), params={"seed": 7}, prompt_sha256="p") for n in range(2)),
        *(replace(run(f"r{n}", cost="5"), params={"temperature": 0.7}, prompt_sha256="p") for n in range(2)),
        run("i", cost="0.3", status="interrupted"),
        run("f", status="failed"),
        run("c", cost="0", status="cached"),
    ]
    made = waste(filled(ledger, records), EVERYTHING)
    assert made.rows == (
        ("interrupted", "1", "14", "$0.3000"),
        ("failed", "1", "14", "—"),
        ("run again unchanged", "3", "42", "$0.2100"),
        ("total", "5", "70", "≥$0.5100"),
    )
    assert made.note == "1 of these runs without a price, not in the cost"
    assert made.as_dicts()[1:3] == [
        {"wasted": "failed", "runs": 1, "tokens": 14, "cost_usd": None, "unpriced_runs": 1}
        | {**SURE, "cost_bound": "at_least", "tokens_known": True},
        {"wasted": "run again unchanged", "runs": 3, "tokens": 42, "cost_usd": "0.21", "unpriced_runs": 0}
        | {**SURE, "tokens_known": True},
    ]
    assert waste_line(ledger, EVERYTHING) == (
        "wasted ≥$0.5100: 1 interrupted ($0.3000), 1 failed (—), 3 run again unchanged ($0.2100)"
    )


def test_repricing_shows_the_difference_and_changes_nothing(ledger: Ledger) -> None:
    filled(ledger, [run("a", cost="0.1"), run("b", cost="0.2"), run("c", cost="0.3", model="other")])
    before = ledger.runs()
    book = PriceBook()
    book.set("smollm2", Rates(Decimal(10_000), Decimal(20_000)))  # 10 in and 4 out: $0.18 a run
    made = repriced(ledger, EVERYTHING, book)
    assert made.rows == (
        ("smollm2", "2", "$0.3000", "$0.3600", "+$0.0600"),
        ("other", "0", "—", "—", "—"),
        ("total", "2", "$0.3000", "$0.3600", "+$0.0600"),
    )
    assert made.note.startswith("over the runs with a price then and now; 1 run left out.")
    assert made.as_dicts()[0] == {
        "model": "smollm2",
        "runs": 2,
        "left_out_runs": 0,
        "cost_usd": "0.3",
        "cost_estimated": False,
        "cost_bound": "exact",
        "today_usd": "0.36",
        "today_estimated": False,
        "today_bound": "exact",
        "difference_usd": "0.06",
    }
    assert made.as_dicts()[1]["difference_usd"] is None
    assert ledger.runs() == before
    with pytest.raises(UsageError, match="cannot group by 'modell'"):
        repriced(ledger, Selection(notebook="none"), book, "modell")


def test_a_run_without_a_price_then_makes_no_difference_now(ledger: Ledger) -> None:
    filled(ledger, [run("a", cost="0.1"), run("b")])
    book = PriceBook()
    book.set("smollm2", Rates(Decimal(10_000), Decimal(20_000)))
    assert repriced(ledger, EVERYTHING, book).rows[0] == ("smollm2", "1", "$0.1000", "$0.1800", "+$0.0800")
    book.set("smollm2", Rates(Decimal(5_000), Decimal(0)))
    assert repriced(ledger, EVERYTHING, book).rows[0][-1] == "−$0.0500"


def test_a_price_is_looked_up_once_for_each_model(ledger: Ledger) -> None:
    class Counting(PriceBook):
        asked = 0

        def rates(self, info: EngineInfo, at: datetime | None = None) -> Rates:
            self.asked += 1
            return super().rates(info, at)

    book = Counting()
    repriced(filled(ledger, [run(str(n), model="m" if n % 2 else "n") for n in range(9)]), EVERYTHING, book)
    assert book.asked == 2


def test_numbers_for_programs_are_exact(ledger: Ledger) -> None:
    made = table(filled(ledger, [FULL, run("x")]), EVERYTHING, "model").as_dicts()
    assert made[0] == {
        "model": FULL.info.name,
        "runs": 1,
        "refused_runs": 0,
        "input_tokens": 412,
        "output_tokens": 118,
        "cost_usd": "123.456789012345",
        "unpriced_runs": 0,
        **SURE,
        "saved_usd": "0.0001",
        "saved_estimated": False,
        "saved_bound": "exact",
        "ttft_s": 0.1,
        "itl_mean_s": pytest.approx(0.011),
        "energy_j": 12.5,
        "energy_runs": 1,
        "energy_per_output_token_j": pytest.approx(12.5 / 118),
        "energy_estimated": False,
        "energy_bound": "at_most",
        "input_known": True,
        "output_known": True,
    }
    assert [made[1][name] for name in ("energy_j", "energy_runs", "energy_per_output_token_j")] == [None, 0, None]
    assert (made[1]["cost_usd"], made[1]["unpriced_runs"], made[2]["runs"]) == (None, 1, 2)
    json.dumps(made)


METERED = {"energy_source": "measured", "energy_bound": "exact"}


def test_energy_is_shown_where_there_is_any_and_says_of_how_many_runs(ledger: Ledger) -> None:
    plain = table(filled(ledger, [run("a", model="far", cost="1")]), EVERYTHING, "model")
    assert plain.columns[-1] == "ms/token"
    assert plain.note == ""
    metered = [
        run("b", model="near", cost="1", energy_j=1_234.0, **METERED),
        run("c", model="near", cost="1", energy_j=0.06, **METERED | {"energy_source": "estimated"}),
        run("d", model="shared", cost="1", energy_j=30.0, **METERED | {"energy_bound": "at_most"}),
    ]
    made = table(filled(ledger, metered), EVERYTHING, "model")
    assert made.columns[-2:] == ("energy", "energy/token")
    assert {row[0]: row[-2:] for row in made.rows} == {
        "far": ("—", "—"),
        "near": ("~1.23 kJ", "~154 J"),
        "shared": ("≤30.0 J", "≤7.50 J"),
        "total": ("~≤1.26 kJ", "~≤105 J"),
    }
    assert made.note == "the energy is that of 3 of 4 runs"


def test_energy_by_cell_stands_beside_its_cell(ledger: Ledger) -> None:
    filled(
        ledger, [run("1", cell_id="a", notebook="/n"), run("2", cell_id="b", notebook="/n", energy_j=5.0, **METERED)]
    )
    rows = table(ledger, Selection(notebook="/n")).rows
    assert [(row[0], row[-2]) for row in rows] == [("cell 1", "—"), ("cell 2", "5.00 J"), ("total", "5.00 J")]


def test_a_name_can_be_total_and_ids_can_begin_alike(ledger: Ledger) -> None:
    filled(ledger, [run("abcdefghijkl1", model="total", cost="1"), run("abcdefghijkl2", cost="2")])
    assert [row[:2] + row[4:5] for row in table(ledger, EVERYTHING, "model").rows] == [
        ("total", "1", "$1.00"),
        ("smollm2", "1", "$2.00"),
        ("total", "2", "$3.00"),
    ]
    made = table(ledger, EVERYTHING, "run")
    assert [row[:2] for row in made.rows] == [("abcdefghijkl", "1"), ("abcdefghijkl", "1"), ("total", "2")]
    assert [row["run"] for row in made.as_dicts()] == ["abcdefghijkl1", "abcdefghijkl2", "total"]


CELLS = [
    run("1", cell_id="a", notebook="/n", cost="1"),
    run("2", cell_id="b", notebook="/n", cost="2"),
    run("3", cell_id="b", notebook="/n", cost="3", session="other kernel"),
    run("4", cell_id="b", notebook="/n", cost="0", status="cached"),
    run("5", cell_id="c", notebook="/n", status="failed"),
    run("6", cell_id="b", notebook="/copy", cost="6"),
    run("7", cell_id="d", notebook=None, session="s", cost="7"),
    run("8", cell_id="d", notebook=None, session="t", cost="8"),
]


@pytest.mark.parametrize(
    ("notebook", "cell", "expected"),
    [
        ("/n", None, "23"),  # c ran later but gave nothing; b's replay gave nothing new
        ("/n", "1", "1"),
        ("/n", "cell 2", "23"),
        ("/n", "b", "23"),
        ("/copy", "1", "6"),
        (None, None, "8"),
        (None, "5", "7"),
    ],
)
def test_a_cell_is_found_by_number_by_id_and_as_the_latest(
    ledger: Ledger, notebook: str | None, cell: str | None, expected: str
) -> None:
    filled(ledger, CELLS)
    assert "".join(record.run_id for record in cell_runs(ledger, Selection(notebook=notebook), cell)) == expected


def test_an_id_that_is_only_a_place_is_another_cell_in_another_kernel(ledger: Ledger) -> None:
    """nbstripout numbers the cells anew, so that the third of yesterday need not be the third of today."""
    ran = [
        ("1", "0", "old"),
        ("2", "1", "old"),
        ("3", "1", "old"),
        ("4", "1", "new"),
        ("5", "x", "old"),
        ("6", "x", "new"),
    ]
    filled(ledger, [run(name, cell_id=its, notebook="/n", session=session, cost=name) for name, its, session in ran])
    where = Selection(notebook="/n")
    shown = [(row[0], row[1], row[4]) for row in table(ledger, where).rows]
    expected = [("cell 1", "1", "$1.00"), ("cell 2", "2", "$5.00"), ("cell 3", "1", "$4.00"), ("cell 4", "2", "$11.00")]
    assert shown[:-1] == expected
    found = {
        cell: "".join(it.run_id for it in cell_runs(ledger, where, cell)) for cell in ("1", "2", "3", "cell 4", "x")
    }
    assert found == {"1": "1", "2": "23", "3": "4", "cell 4": "56", "x": "56"}


def test_a_benchs_row_is_no_call_to_project_from(ledger: Ledger) -> None:
    bench = [replace(run(f"b{n}", cost="7", session="s"), params={"requests": 100}) for n in range(3)]
    filled(ledger, [run("1", cost="0.01", session="s"), *bench])
    for cell in (None, "1"):
        (call,) = cell_runs(ledger, EVERYTHING, cell)
        assert call.run_id == "1"
        made = project([call], "1e6/day").table()
        assert made.rows[3][:3] == ("a day", "$10,000.00", "$10,000.00")
    with pytest.raises(UsageError, match="no complete run to project from"):
        cell_runs(ledger, Selection(user="nobody"))


@pytest.mark.parametrize("requests", [(100,), (1,), (1, 8, 16)], ids=["a level", "its warm-up", "as it is by default"])
def test_where_a_bench_ran_alone_there_is_nothing_to_project_from(ledger: Ledger, requests: tuple[int, ...]) -> None:
    filled(ledger, [replace(run(f"b{count}", cost="7"), params={"requests": count}) for count in requests])
    with pytest.raises(UsageError, match="no complete run to project from; run a cell first"):
        cell_runs(ledger, EVERYTHING)


COMPARED = ("compare:0123456789ab", "data:0123456789ab/4")


def test_a_cell_that_compares_is_projected_by_one_of_its_prompts(ledger: Ledger) -> None:
    """No call costs what the variants and the judge of a comparison cost on average."""
    ran = [(1, "variant:terse@1"), (3, "variant:long one@2"), (3, "variant:long one@2"), (9, "judge")]
    rows = [run(f"{at}", cell_id="c", cost=f"{cost}", tags=(*COMPARED, its)) for at, (cost, its) in enumerate(ran)]
    filled(ledger, [run("before", cell_id="c", cost="7"), *rows])
    for cell in (None, "1"):
        with pytest.raises(UsageError, match=r"choose one with --tag: variant:terse@1, 'variant:long one@2', judge$"):
            cell_runs(ledger, EVERYTHING, cell)
        (call,) = cell_runs(ledger, replace(EVERYTHING, tags=("variant:terse@1",)), cell)
        assert call.reading.cost.usd == 1
    assert len(cell_runs(ledger, replace(EVERYTHING, tags=("variant:long one@2",)))) == 2
    filled(ledger, [run("after", cell_id="d", cost="5", tags=("compare:mine", "b", "c"))])
    assert [it.run_id for it in cell_runs(ledger, EVERYTHING)] == ["after"], "tags of one's own say nothing"


def test_a_cell_that_is_none_is_told(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no complete run to project from; run a cell first"):
        cell_runs(ledger, EVERYTHING)
    with pytest.raises(UsageError, match="--cell '9' is not a cell that ran here"):
        cell_runs(filled(ledger, CELLS), EVERYTHING, "9")
