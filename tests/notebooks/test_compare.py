"""What changed between two runs, and what could explain it: pure, no kernel."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.notebooks.runs import ENV, INFO, PRICED, TIMED, run
from tokmagic.core.money import Cost, Rates, Tier
from tokmagic.core.stream import Usage
from tokmagic.notebooks.reproduce.compare import Comparison, RanCell, compare
from tokmagic.notebooks.snapshots import CellSnapshot, Decoding, RunSnapshot, decoding


def compared(before: RunSnapshot, now: RunSnapshot) -> Comparison:
    (found,) = compare([CellSnapshot("a", 1, (before,))], [RanCell("a", 1, (now,))])
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
            replace(OTHER, params={"max_tokens": 9, "seed": 4}, decoding="seeded"),
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


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [("stop", "length", "changed"), ("stop", None, "same"), (None, "length", "same"), (None, None, "same")],
)
def test_a_finish_reason_that_nobody_gave_is_no_other_one(before: str | None, now: str | None, state: str) -> None:
    assert compared(run(finish_reason=before), run(finish_reason=now)).state == state


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
    before = run(decoding="seeded", params={"seed": 1, "temperature": 1.0})
    found = compared(before, replace(before, answer_sha256="x", **change))
    assert ("this is expected" in found.why) is expected
    greedy = compared(run(), replace(run(), answer_sha256="x", **change))
    assert "expected" not in greedy.why


def test_where_nothing_differs_that_is_said() -> None:
    assert compared(run(), OTHER).why.startswith("nothing recorded differs: ")
    far = replace(INFO, engine="endpoint")
    assert compared(run(info=far), replace(OTHER, info=far)).why.startswith("a server guarantees nothing: ")


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


TIERED = replace(PRICED, tiers=(Tier(200_000, Decimal("0.3"), Decimal("0.9")),))
SHADOWED = replace(PRICED, shadow_model="openai/gpt-5-mini", shadow=TIERED)


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (PRICED, replace(PRICED, input=Decimal("0.30")), "input 0.15, output 0.6 → input 0.3, output 0.6"),
        (
            TIERED,
            replace(TIERED, tiers=(Tier(200_000, Decimal("0.4"), Decimal("0.9")),)),
            (
                "input 0.15, output 0.6; above 200,000 input tokens input 0.3, output 0.9 → input 0.15, output 0.6; "
                "above 200,000 input tokens input 0.4, output 0.9"
            ),
        ),
        (
            PRICED,
            TIERED,
            "input 0.15, output 0.6 → input 0.15, output 0.6; above 200,000 input tokens input 0.3, output 0.9",
        ),
        (PRICED, SHADOWED, ""),
        (SHADOWED, replace(SHADOWED, output=Decimal(1)), "input 0.15, output 0.6 → input 0.15, output 1"),
    ],
    ids=["its input", "what a tier costs", "a tier", "what stands beside it", "its output, with another beside it"],
)
def test_a_cost_alone_is_explained_by_rates_and_the_servers_cache_alone(before: Rates, now: Rates, says: str) -> None:
    then = run(rates=now, cost=Cost(Decimal("0.0000045")), env={"torch": "3"})
    found = compared(run(rates=before), then)
    told = " → ".join(f"{it} (%price)" for it in says.split(" → "))
    assert seen(found) == ("changed", ["cost"], [f"the rates: {told}"] if says else [])
    assert found.why == ""


@pytest.mark.parametrize(
    ("before", "now", "state", "why"),
    [
        (run(decoding="sampled"), OTHER, "not compared", "sampled without a seed"),
        (run(decoding=None), replace(OTHER, decoding="sampled"), "not compared", "sampled without a seed"),
        (run(status="interrupted"), OTHER, "not compared", "it was incomplete then (interrupted)"),
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
        RanCell("a", 1, (run(),)),
        RanCell("d", 2, (run(prompt="p9"),)),
        RanCell("c", 3, ended=False),
    ]
    found = [(it.name, it.state, it.why) for it in compare(before, now)]
    assert found == [
        ("cell 1 (a), run 1 of 2", "same", ""),
        ("cell 1 (a), run 2 of 2", "changed", "the cell did not run this prompt now"),
        ("cell 2 (d)", "new", "it was not there when the notebook was frozen"),
        ("cell 3 (c)", "not compared", "the notebook failed before it"),
        ("cell 2 (b)", "changed", "the notebook no longer has this cell"),
    ]


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
    assert decoding(params, greedy) == expected
