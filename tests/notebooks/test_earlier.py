"""What changed between two runs, what could explain it, and which cells belong together: pure, no kernel."""

from __future__ import annotations

import string
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokmagic.core.money import Bound, Cost, Rates, Tier
from tokmagic.core.record import EngineInfo, Status
from tokmagic.core.stream import Source, Usage
from tokmagic.notebooks.align import Pair, RanCell, align
from tokmagic.notebooks.cells import SavedCell
from tokmagic.notebooks.freeze import frozen
from tokmagic.notebooks.kept import CellSnapshot, Decoding, Frozen, RunSnapshot, drawn
from tokmagic.notebooks.reproduce.compare import Comparison, compare
from tokmagic.runs.generation import answers_sha256

INFO = EngineInfo("m", "org/model", "local", "abc", "cpu", "bfloat16", tokenizer_sha256="1" * 64)
ENV = {"python": "3.11.7", "torch": "2.8.0", "transformers": "5.17.0"}
PRICED = Rates(Decimal("0.15"), Decimal("0.6"), source="%price")
TIMED = Rates(device_hour=Decimal("2"), source="list price: H100")


def run(answer: str = "Hello.", prompt: str = "p1", **more: Any) -> RunSnapshot:
    values: dict[str, Any] = {
        "run_id": "r1",
        "status": "ok",
        "info": INFO,
        "drawn": "greedy",
        "params": {"max_tokens": 9, "temperature": 0.0},
        "prompt_sha256": prompt * 32,
        "usage": Usage(input_tokens=9, output_tokens=3, cached_input_tokens=0),
        "finish_reason": "stop",
        "cost": Cost(Decimal("0.00000315"), "measured"),
        "rates": PRICED,
        "env": ENV,
        "answer_sha256": answers_sha256([answer]),
        "answer": answer,
    }
    return RunSnapshot(**{**values, **more})


def compared(before: RunSnapshot, now: RunSnapshot) -> Comparison:
    (found,) = compare([CellSnapshot("a", 1, (before,))], [RanCell(SavedCell(1, "a"), (now,))])
    return found


def seen(it: Comparison) -> tuple[str, list[str], list[str]]:
    return it.state, [change.what for change in it.changes], [str(reason) for reason in it.reasons]


OTHER = run("Hallo.")


@pytest.mark.parametrize(
    ("now", "reasons"),
    [
        (OTHER, []),
        (replace(OTHER, env={**ENV, "torch": "2.9.1"}), ["torch: 2.8.0 → 2.9.1"]),
        (replace(OTHER, env={**ENV, "driver": "570.1", "image": "lab:2"}), ["driver: — → 570.1", "image: — → lab:2"]),
        (replace(OTHER, info=replace(INFO, dtype="float32")), ["its dtype: bfloat16 → float32"]),
        (replace(OTHER, info=replace(INFO, quant="nf4")), ["its quantisation: — → nf4"]),
        (replace(OTHER, info=replace(INFO, revision="abd")), ["its revision: abc → abd"]),
        (replace(OTHER, info=replace(INFO, name="n")), []),
        (
            replace(OTHER, info=replace(INFO, tokenizer_sha256="2" * 64)),
            ["its tokenizer: 111111111111 → 222222222222"],
        ),
        (
            replace(OTHER, params={"max_tokens": 9, "seed": 4}, drawn="seeded"),
            ["temperature: 0.0 → —", "seed: — → 4"],
        ),
        (replace(OTHER, rates=TIMED, cost=OTHER.cost), []),
    ],
)
def test_whatever_differs_is_listed_where_the_answer_changed(now: RunSnapshot, reasons: list[str]) -> None:
    assert seen(compared(run(), now)) == ("changed", ["text"], reasons)


def test_nothing_is_listed_where_the_answer_is_the_same() -> None:
    now = run(env={**ENV, "torch": "2.9.1"}, info=replace(INFO, dtype="float32"), run_id="r2")
    assert seen(compared(run(), now)) == ("same", [], [])


def test_another_prompt_is_named_first_and_as_what_the_rest_follows_from() -> None:
    found = compared(run(), replace(OTHER, prompt_sha256="p2" * 32, env={"torch": "3"}))
    assert [reason.what for reason in found.reasons][:2] == ["the prompt", "python"]
    assert found.why == "the prompt itself changed: everything else follows from it"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"env": {**ENV, "torch": "2.9.1"}}, True),
        ({"info": replace(INFO, device="cuda:0")}, True),
        ({"info": replace(INFO, device="cpu:0")}, False),
        ({"env": {**ENV, "transformers": "5.18"}}, False),
    ],
)
def test_a_seed_is_expected_to_draw_anew_elsewhere(change: dict[str, Any], expected: bool) -> None:
    before = run(drawn="seeded", params={"seed": 1, "temperature": 1.0})
    found = compared(before, replace(before, answer_sha256="x", **change))
    assert ("this was to be expected" in found.why) is expected
    greedy = compared(run(), replace(run(), answer_sha256="x", **change))
    assert "expected" not in greedy.why


def test_where_nothing_differs_that_is_said() -> None:
    assert compared(run(), OTHER).why.startswith("nothing that is recorded differs: ")
    far = replace(INFO, engine="endpoint")
    assert compared(run(info=far), replace(OTHER, info=far)).why.startswith("a server makes no promise: ")


def test_a_text_is_shown_from_its_first_difference() -> None:
    long = "x" * 50
    found = compared(run(f"{long}ab\ncd"), run(f"{long}aB"))
    assert found.changes[0].where == f"from character 52 on: “…{'x' * 29}ab cd” → “…{'x' * 29}aB”"
    assert compared(run("a\x1b[2J"), run("b")).changes[0].where == "from character 1 on: “a[2J” → “b”"
    assert compared(run("ab"), run("abc")).changes[0].where == "from character 3 on: “ab” → “abc”"
    assert compared(replace(run(), answer=None), OTHER).changes[0].where == ""


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        (run(), run(cost=Cost(Decimal("0.1"))), True),
        (run(), run(cost=Cost(None)), True),
        (run(status="cached", cost=Cost(Decimal(0), saved_usd=Decimal("0.00000315"))), run(), False),
        (run(rates=TIMED), run(rates=TIMED, cost=Cost(Decimal("0.1"))), False),
        (run(rates=None), run(rates=TIMED, cost=Cost(Decimal("0.1"))), False),
        (run(rates=PRICED), run(rates=TIMED, cost=Cost(Decimal("0.1"))), True),
        (run(rates=TIMED), run(rates=PRICED, cost=Cost(Decimal("0.1"))), True),
    ],
)
def test_a_cost_is_compared_where_tokens_are_priced(before: RunSnapshot, now: RunSnapshot, changed: bool) -> None:
    assert compared(before, now).state == ("changed" if changed else "same")


def test_a_cost_that_is_not_sure_is_marked() -> None:
    least = run(cost=Cost(Decimal("0.1"), "estimated", "at_least"))
    hit = run(status="cached", cost=Cost(Decimal(0), "reported", "at_most", saved_usd=Decimal("0.2")))
    (change,) = compared(least, hit).changes
    assert (change.was, change.now) == ("~≥$0.1", "≤$0.2")


def test_a_cost_alone_is_explained_by_rates_and_the_servers_cache_alone() -> None:
    dearer = replace(PRICED, input=Decimal("0.30"))
    now = run(rates=dearer, cost=Cost(Decimal("0.0000045")), env={"torch": "3"})
    found = compared(run(), now)
    assert seen(found) == (
        "changed",
        ["cost"],
        ["the rates: input 0.15, output 0.6 (%price) → input 0.3, output 0.6 (%price)"],
    )
    assert found.why == ""


@pytest.mark.parametrize(
    ("before", "now", "state", "why"),
    [
        (run(drawn="sampled"), OTHER, "not compared", "sampled without a seed"),
        (run(drawn=None), replace(OTHER, drawn="sampled"), "not compared", "sampled without a seed"),
        (run(status="interrupted"), OTHER, "not compared", "it had not ended well then (interrupted)"),
        (run(), replace(OTHER, status="failed"), "changed", ""),
    ],
)
def test_what_cannot_repeat_is_not_compared(before: RunSnapshot, now: RunSnapshot, state: str, why: str) -> None:
    found = compared(before, now)
    assert (found.state, found.why) == (state, why)


def test_a_run_that_has_no_answer_now_is_not_explained_by_what_a_server_had_cached() -> None:
    refused = replace(OTHER, status="refused", usage=Usage(), params={"max_tokens": 99})
    assert seen(compared(run(), refused)) == ("changed", ["status"], ["max_tokens: 9 → 99", "temperature: 0.0 → —"])


def test_runs_that_are_missing_or_new_are_told() -> None:
    before = [CellSnapshot("a", 1, (run(), run())), CellSnapshot("b", 2, (run(),)), CellSnapshot("c", 3, (run(),))]
    now = [
        RanCell(SavedCell(1, "a"), (run(),)),
        RanCell(SavedCell(2, "d"), (run(prompt="p9"),)),
        RanCell(SavedCell(3, "c"), ended=False),
    ]
    found = [(it.name, it.state, it.why) for it in compare(before, now)]
    assert found == [
        ("cell 1 (a), run 1 of 2", "same", ""),
        ("cell 1 (a), run 2 of 2", "changed", "the cell did not run this prompt now"),
        ("cell 2 (d)", "new", "it was not there when the notebook was frozen"),
        ("cell 3 (c)", "not compared", "the notebook failed before it"),
        ("cell 2 (b)", "changed", "the notebook no longer has this cell"),
    ]


# Which cell is which


def paired(pairs: list[Pair]) -> list[tuple[int | None, int | None]]:
    """The runs' own numbers of before beside the cells' numbers of now."""
    return [
        (int(it.before.runs[0].run_id) if it.before else None, it.now.saved.number if it.now else None) for it in pairs
    ]


def headless(*prompts: str) -> list[CellSnapshot]:
    return [CellSnapshot(None, None, (run(prompt=it, run_id=str(i)),)) for i, it in enumerate(prompts, 1)]


def ran(*prompts: str, **rows: str) -> list[RanCell]:
    """Cells of now; an empty prompt runs nothing. ``c2="7"``: the second one's output shows run 7."""
    found = []
    for number, it in enumerate(prompts, 1):
        shown = rows.get(f"c{number}")
        saved = SavedCell(number, f"c{number}", ({"run_id": shown},) if shown else ())
        found.append(RanCell(saved, (run(prompt=it),) if it else ()))
    return found


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (headless("a", "b"), ran("", "a", "", "b"), [(1, 2), (2, 4)]),
        (headless("a", "b", "c"), ran("a", "x", "c"), [(1, 1), (2, 2), (3, 3)]),
        (headless("a", "b", "c"), ran("a", "c"), [(1, 1), (3, 2), (2, None)]),
        (headless("a", "c"), ran("a", "b", "c"), [(1, 1), (None, 2), (2, 3)]),
        (headless("a", "a", "a"), ran("a", "a"), [(1, 1), (2, 2), (3, None)]),
        (headless("a", "b"), ran("", ""), [(1, None), (2, None)]),
        # What an output shows goes before any guess.
        (headless("a", "b"), ran("a", "b", c2="1", c1="2"), [(2, 1), (1, 2)]),
        (headless("a", "b"), ran("", "b", c1="1"), [(1, 1), (2, 2)]),
    ],
)
def test_cells_without_ids_are_known_by_outputs_prompts_and_order(
    before: list[CellSnapshot], now: list[RanCell], expected: list[tuple[int | None, int | None]]
) -> None:
    assert paired(align(before, now)) == expected


def test_a_cell_that_was_removed_is_no_other_cell() -> None:
    before = [CellSnapshot(f"c{i}", i, (run(run_id=str(i)),)) for i in (1, 2)]
    now = [RanCell(SavedCell(1, "c1"), (run(),)), RanCell(SavedCell(2, "new"), (run(),))]
    assert paired(align(before, now)) == [(1, 1), (None, 2), (2, None)]
    # Where no id is the same the notebook was made anew: then the order counts.
    now = [RanCell(SavedCell(i, f"new{i}"), (run(),)) for i in (1, 2)]
    assert paired(align(before, now)) == [(1, 1), (2, 2)]


def test_of_cells_with_one_id_none_is_lost() -> None:
    before = [CellSnapshot("c1", 1, (run(run_id=str(i)),)) for i in (1, 2)]
    assert paired(align(before, [RanCell(SavedCell(1, "c1"), (run(),))])) == [(1, 1), (2, None)]


def test_a_cell_whose_runs_started_in_another_order_is_the_same() -> None:
    several = CellSnapshot(None, None, (run(prompt="a"), run(prompt="z")))
    now = [
        RanCell(SavedCell(1, "c1"), (run(prompt="x"),)),
        RanCell(SavedCell(2, "c2"), (run(prompt="z"), run(prompt="a"))),
        RanCell(SavedCell(3, "c3"), (run(prompt="b"),)),
    ]
    pairs = align([several, *headless("b")], now)
    assert [it.now for it in pairs if it.before is several] == [now[1]]


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc "), max_size=6))
def test_no_cell_is_lost_or_taken_twice(before: list[str], now: list[str]) -> None:
    kept, cells = headless(*before), ran(*(it.strip() for it in now))
    pairs = align(kept, cells)
    assert sorted(id(it.before) for it in pairs if it.before) == sorted(map(id, kept))
    ran_something = [id(it.now) for it in pairs if it.now and it.now.runs]
    assert ran_something == [id(cell) for cell in cells if cell.runs]


# How an answer is drawn


@pytest.mark.parametrize(
    ("params", "greedy", "expected"),
    [
        ({"temperature": 0.0, "seed": 3}, None, "greedy"),
        ({}, True, "greedy"),
        ({"seed": 3}, True, "greedy"),
        ({"top_p": 0.9}, True, "sampled"),
        ({"temperature": 0.7}, True, "sampled"),
        ({"temperature": 0.7, "seed": 0}, True, "seeded"),
        ({"seed": 0}, None, "seeded"),
        ({}, False, "sampled"),
        ({}, None, "sampled"),
    ],
)
def test_how_an_answer_is_drawn(params: dict[str, Any], greedy: bool | None, expected: Decoding) -> None:
    assert drawn(params, greedy) == expected


# The file

some_text = st.text(max_size=20)
optional_text = st.none() | some_text
counts = st.none() | st.integers(0, 10**12)
amounts = st.decimals(0, 10**6, places=6, allow_nan=False)
json_values = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | some_text
names = st.text(string.ascii_lowercase, min_size=1, max_size=6)
tiers = st.builds(Tier, st.integers(1, 10**6), amounts, amounts, st.none() | amounts)
rates = st.builds(
    Rates,
    *[st.none() | amounts] * 5,
    source=some_text,
    version=st.none() | st.text(min_size=1, max_size=8),
    tiers=st.lists(tiers, max_size=2).map(tuple),
)
sources = st.sampled_from(get_args(Source))
infos = st.builds(
    EngineInfo,
    *[some_text] * 3,
    *[optional_text] * 4,
    context_tokens=st.none(),
    tokenizer_sha256=optional_text,
    greedy=st.none() | st.booleans(),
)
runs = st.builds(
    RunSnapshot,
    run_id=some_text,
    status=st.sampled_from(get_args(Status)),
    info=infos,
    drawn=st.sampled_from([*get_args(Decoding), None]),
    params=st.dictionaries(names, json_values.filter(lambda it: it is not None), max_size=4),
    prompt_sha256=optional_text,
    usage=st.builds(Usage, input_tokens=counts, output_tokens=counts, reasoning_tokens=counts, input_source=sources),
    finish_reason=optional_text,
    cost=st.builds(Cost, st.none() | amounts, sources, st.sampled_from(get_args(Bound)), saved_usd=st.none() | amounts),
    rates=st.none() | rates,
    env=st.dictionaries(names, json_values, max_size=4),
    answer_sha256=optional_text,
    answer=optional_text | st.just("half of a character: \ud83d"),
)
cells = st.builds(CellSnapshot, optional_text, st.none() | st.integers(1, 999), st.lists(runs, max_size=3).map(tuple))


@given(st.builds(Frozen, some_text, some_text, st.lists(cells, max_size=3).map(tuple)))
def test_what_is_written_is_read_again(it: Frozen) -> None:
    data = frozen.dump(it).encode("utf-8", "backslashreplace")
    assert frozen.parse(data, "x") == it
    assert frozen.dump(frozen.parse(data, "x")) == frozen.dump(it)


def test_an_upgrade_is_one_line_of_a_diff() -> None:
    def lines(torch: str) -> set[str]:
        runs = tuple(run(run_id=str(i), env={**ENV, "torch": torch}) for i in range(3))
        return set(frozen.dump(Frozen("nb.ipynb", "0.1.0", (CellSnapshot("a", 1, runs),))).splitlines())

    assert lines("2.8.0") - lines("2.9.1") == {'  "torch": "2.8.0",'}
