"""What Run All will cost: each cell as its run would be, from its history, against the budgets, and nothing is run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import some
from tests.ledgers.test_store import run
from tokmagic.core.budget import Budget
from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, PastRun, Reading, Selection, Status, source_sha256
from tokmagic.core.stream import Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import ScriptedEngine
from tokmagic.errors import UsageError
from tokmagic.ledgers import Ledger
from tokmagic.runs.drafts.likely import Likely, LikelySum, Span, likely
from tokmagic.runs.session import Session

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "wire" / "forecast.json").read_text(encoding="utf-8"))
DOLLARS = Rates(input=Decimal(1000), output=Decimal(1000), source="%price")
"""$0.001 a token, so that costs are told from tokens at a glance."""
Make = Callable[..., Session]


def D(text: str) -> Decimal:
    return Decimal(text)


def past(output: int | None, source: str = "s", device_s: float | None = None) -> PastRun:
    return PastRun("id", 10, output, device_s, source)


def spend(runs: list[PastRun], span: tuple[str, str | None] = ("0.01", "0.3"), rates: Rates = DOLLARS) -> Likely:
    least, most = span
    return likely(runs, "s", 10, "counted", rates, Span(D(least), None if most is None else D(most)))


def test_without_a_history_a_run_costs_between_its_least_and_its_most() -> None:
    assert spend([]) == Likely(None, D("0.01"), D("0.3"), 0, False, D("0.3"))
    assert spend([past(None)]).usd is None


def test_one_run_gives_a_middle_and_no_interval() -> None:
    assert spend([past(40)]) == Likely(D("0.05"), D("0.01"), D("0.3"), 1, False, D("0.3"))


def test_several_runs_give_students_prediction_interval() -> None:
    """Mean 50 and s 10 of three: t with two degrees of freedom is 4.303, so ± 4.303 · 10 · √(4/3) tokens."""
    found = spend([past(40), past(50), past(60)])
    assert (found.usd, found.runs, found.predicted) == (D("0.06"), 3, True)
    assert float(found.high or 0) == pytest.approx(0.06 + 4.303 * 0.01 * (4 / 3) ** 0.5, abs=1e-9)
    assert float(found.low or 0) == pytest.approx(0.06 - 4.303 * 0.01 * (4 / 3) ** 0.5, abs=1e-9)
    same = spend([past(40), past(40)])
    assert (same.low, same.usd, same.high) == (D("0.05"), D("0.05"), D("0.05"))


def test_an_interval_never_leaves_what_is_possible() -> None:
    wide = spend([past(0), past(290)])
    assert (wide.low, wide.high) == (D("0.01"), D("0.3"))


def test_runs_of_the_present_text_count_before_those_of_an_earlier_one() -> None:
    mixed = spend([past(40, "old"), past(100), past(100)])
    assert (mixed.usd, mixed.runs, mixed.edited) == (D("0.11"), 2, False)
    edited = spend([past(40, "old"), past(60, "old")])
    assert (edited.usd, edited.edited, edited.predicted) == (D("0.06"), True, False)
    assert (edited.low, edited.high) == (D("0.01"), D("0.3"))


CACHED = replace(DOLLARS, cached=Decimal(100), cache_write=Decimal(1250))
"""Of ten tokens in: $0.01 without a cache, $0.001 from one, $0.0125 where they are written to it."""


@pytest.mark.parametrize(
    ("parts", "asked", "usd", "low"),
    [
        ([(0, 0)], 10, "0.05", "0.01"),
        ([(None, None)], 10, "0.05", "0.01"),
        ([(10, 0)], 10, "0.041", "0.001"),
        ([(8, 0)], 10, "0.0428", "0.001"),
        ([(0, 10)], 10, "0.0525", "0.01"),
        ([(10, 0), (10, 0)], 10, "0.041", "0.041"),
        ([(10, 0), (0, 10)], 10, "0.04675", "0.001"),
        ([(8, 0)], 20, "0.0456", "0.002"),
        ([(10, 0)], 5, "0.0405", "0.0005"),
    ],
)
def test_what_a_servers_cache_had_of_a_prompt_it_is_likely_to_have_again(
    ledger: Ledger, parts: list[tuple[int | None, int | None]], asked: int, usd: str, low: str
) -> None:
    """Runs of ten tokens in and forty out; a prompt of another length is cached by as large a share."""
    for number, (cached, written) in enumerate(parts):
        usage = Usage(input_tokens=10, output_tokens=40, cached_input_tokens=cached, cache_write_input_tokens=written)
        ledger.settle(run(f"r{number}", cell_id="c", reading=Reading(usage), env={"source_sha256": "s"}))
    found = likely(
        ledger.histories(Selection(), 20)["c"], "s", asked, "counted", CACHED, Span(D("0.001") * asked, D("0.3"))
    )
    assert (found.usd, found.low) == (D(usd), D(low))
    assert found.high is not None
    assert found.high >= D(usd)


def test_by_the_hour_the_devices_time_is_what_repeats() -> None:
    hourly = Rates(device_hour=D("3600"), source="%price")
    found = spend([past(5, device_s=0.5), past(9, device_s=0.5)], ("0", None), hourly)
    assert (found.low, found.usd, found.high, found.most) == (D("0.5"), D("0.5"), D("0.5"), None)


AMOUNT = st.integers(0, 10**6).map(lambda it: Decimal(it) / 10**6)


@given(st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, st.booleans()), max_size=6))
def test_a_sum_lies_within_its_parts(parts: list[tuple[Decimal, Decimal, Decimal, bool]]) -> None:
    found = [Likely(sorted(it[:3])[1], sorted(it[:3])[0], sorted(it[:3])[2], 3, it[3]) for it in parts]
    total = LikelySum.of(found)
    assert total.usd == sum((it.usd or D("0") for it in found), D("0"))
    assert sum((it.low or D("0") for it in found), D("0")) <= (total.low or D("0")) + D("1E-9")
    assert total.high is not None
    assert total.usd is not None
    assert total.low is not None
    assert total.low <= total.usd + D("1E-9")
    assert total.usd - D("1E-9") <= total.high <= sum((it.high or D("0") for it in found), D("1E-9"))


@pytest.mark.parametrize(
    ("histories", "least", "low", "usd", "high"),
    [
        # One cell: what is possible cuts its interval off, 55 ± 12.706 · 63.64 · √(3/2) tokens.
        ([(10, 100)], "0.01", "0.01", "0.065", "0.11"),
        # Two that cost little or much: not √2 times what is possible of one, but all that is possible of both.
        ([(10, 100)] * 2, "0.01", "0.02", "0.13", "0.22"),
        # Ten with 20 runs each: √10 · 2.093 · 46.17 · √(21/20) tokens, which is within what is possible of ten.
        ([(10, 100) * 10] * 10, "0.01", "0.336877", "0.65", "0.963123"),
        # Of one the least, of the other nine √9 · 2.093 · 46.17 · √(21/20) tokens.
        ([(10, 100), *[(10, 100) * 10] * 9], "0.01", "0.297946", "0.65", "0.992054"),
        # What always costs the same adds nothing.
        ([(10, 100), (40, 40), (40, 40, 40)], "0.01", "0.11", "0.165", "0.21"),
    ],
)
def test_what_is_cut_off_of_a_cells_interval_is_no_width_that_adds_up(
    histories: list[tuple[int, ...]], least: str, low: str, usd: str, high: str
) -> None:
    """Answers of 0 to 100 tokens to ten, at $0.001 a token."""
    found = [spend([past(output) for output in outputs], (least, "0.11")) for outputs in histories]
    total = LikelySum.of(found)
    assert total.usd == D(usd)
    assert float(total.low or 0) == pytest.approx(float(low), abs=2e-6)
    assert float(total.high or 0) == pytest.approx(float(high), abs=2e-6)


@pytest.mark.parametrize("usual", [(10, 100), (10, 10, 10, 10, 100), (1, 2, 5, 20, 100)])
def test_95_percent_of_notebooks_cost_what_was_forecast(usual: tuple[int, ...]) -> None:
    """Eight cells with 15 runs each, whose answers are drawn from these lengths, and one run more of each."""
    drawn = np.random.default_rng(5).choice(usual, (some(500), 8, 16)).tolist()
    hits = 0
    for notebook in drawn:
        total = LikelySum.of([spend([past(it) for it in cell[:-1]], ("0.01", "0.11")) for cell in notebook])
        hits += (total.low or 0) <= D("0.001") * sum(10 + cell[-1] for cell in notebook) <= (total.high or 0)
    assert hits / len(drawn) >= 0.92


def test_a_sum_has_no_upper_end_where_a_part_has_none() -> None:
    total = LikelySum.of([Likely(D("1"), D("0"), None, 1, False), Likely(None, D("2"), D("3"), 0, False)])
    assert total == LikelySum(D("3"), D("2"), None)


@pytest.fixture
def session(make_session: Make) -> Session:
    made = make_session(model="scripted")
    made.prices.set("scripted", DOLLARS)
    return made


def last(answers: list[dict[str, Any]], ended: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The last answer, once the model's tokenizer was read in the background."""
    deadline = time.monotonic() + 60
    while not ended(answers[-1]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended(answers[-1])
    json.dumps(answers[-1], allow_nan=False)
    return answers[-1]


def asked(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    session.forecast("page", request, answers.append)
    return last(answers, lambda it: it["done"])


def ask(session: Session, *sources: str) -> dict[str, Any]:
    """Ask as the sidebar does, and return the last answer."""
    cells = [{"id": f"c{at}", "source": source} for at, source in enumerate(sources)]
    return asked(session, {"v": 1, "type": "forecast", "seq": 1, "cells": cells})


def earlier(session: Session, cell: str, source: str, *outputs: int) -> None:
    """Put complete runs of a cell into the ledger."""
    for output in outputs:
        usage = Usage(input_tokens=12, output_tokens=output, input_source="measured", output_source="measured")
        record = run(cell_id=cell, session=session.session_id, reading=Reading(usage, Cost()))
        info = EngineInfo("scripted", "scripted", "scripted")
        session.ledger().settle(replace(record, info=info, env={"source_sha256": source_sha256(source)}))


ONE = "%%generate --max-tokens 30\nTell me."


def test_cells_are_forecast_in_order_from_their_histories(session: Session) -> None:
    earlier(session, "c0", ONE, 10, 10)
    answer = ask(session, ONE, "%%generate --max-tokens 8\nMore.", "%%tokens\nHow many?", "%%generate --dry-run\nX")
    first, second, third, fourth = answer["cells"]
    assert (first["fate"], first["likely_usd"], first["predicted"]) == ("runs", "0.022", True)
    assert (second["likely_usd"], second["likely_low_usd"], second["likely_high_usd"]) == (None, "0.012", "0.02")
    assert [it["fate"] for it in (third, fourth)] == ["free", "free"]
    assert answer["total"] == {
        "likely_usd": "0.034",
        "low_usd": "0.034",
        "high_usd": "0.042",
        "cached": 0,
        "without_history": 1,
        "unpriced": 0,
        "unknown": 0,
    }
    assert session.ledger().totals(session.selection).runs == 2, "nothing was run"


PYTHON = "answer = tokmagic.generate('Name three rivers.')"


def python_runs(
    session: Session,
    execution: str,
    *costs: str,
    source: str = PYTHON,
    tags: tuple[str, ...] = (),
    status: Status = "ok",
) -> None:
    """Put an execution of a Python cell into the ledger that ran prompts for so much each."""
    info = EngineInfo("scripted", "scripted", "scripted")
    env = {"source_sha256": source_sha256(source), "execution": execution}
    for cost in costs:
        reading = Reading(
            Usage(input_tokens=12, output_tokens=5, input_source="measured", output_source="measured"),
            Cost(D(cost), "measured"),
        )
        record = run(cell_id="c0", session=session.session_id, reading=reading, status=status)
        session.ledger().settle(replace(record, info=info, env=env, tags=tags))


def test_code_that_runs_prompts_is_forecast_from_what_its_executions_cost(session: Session) -> None:
    """Of all its prompts together: the number that the bill will have."""
    unknown = "which prompts its code runs, only a run tells"
    assert [(it["fate"], it["reason"]) for it in ask(session, PYTHON)["cells"]] == [("unknown", unknown)]
    python_runs(session, "a", "0.01", "0.02")
    (once,) = ask(session, PYTHON)["cells"]
    assert (once["fate"], once["model"], once["likely_usd"], once["likely_high_usd"]) == (
        "runs",
        "scripted",
        "0.03",
        None,
    )
    python_runs(session, "b", "0.01", "0.02")
    answer = ask(session, PYTHON, "%%compare\n--- variant a\nx")
    (twice, compares) = answer["cells"]
    assert (twice["likely_usd"], twice["likely_runs"], twice["predicted"]) == ("0.03", 2, True)
    assert (compares["fate"], compares["reason"]) == ("unknown", "this magic makes a forecast of its own")
    assert (answer["total"]["likely_usd"], answer["total"]["unknown"]) == ("0.03", 1)
    (changed,) = ask(session, f"{PYTHON}\nmore()")["cells"]
    assert (changed["fate"], changed["likely_usd"]) == ("unknown", None), "other code may run other prompts"


def test_an_execution_of_which_runs_are_left_out_tells_no_cost(session: Session) -> None:
    python_runs(session, "a", *["0.01"] * 15)
    python_runs(session, "b", *["0.01"] * 15)
    (found,) = ask(session, PYTHON)["cells"]
    assert (found["likely_usd"], found["likely_runs"]) == ("0.15", 1), "of the older one only five were looked at"
    python_runs(session, "c", *["0.01"] * 25)
    assert ask(session, PYTHON)["cells"][0]["fate"] == "unknown"


def test_an_execution_that_was_interrupted_tells_no_cost(session: Session) -> None:
    """What it ran before is a part of what the next one will cost."""
    python_runs(session, "a", "0.01", "0.01")
    python_runs(session, "a", "0.005", status="interrupted")
    (found,) = ask(session, PYTHON)["cells"]
    assert (found["fate"], found["likely_usd"]) == ("unknown", None)
    python_runs(session, "b", *["0.01"] * 5)
    (found,) = ask(session, PYTHON)["cells"]
    assert (found["likely_usd"], found["likely_runs"]) == ("0.05", 1)


def test_a_comparison_in_code_is_not_forecast_from_what_its_first_execution_cost(session: Session) -> None:
    """The second one reads all from the ledger."""
    python_runs(session, "a", "0.01", "0.02", tags=("compare:abc", "data:d/2", "variant:v@c"))
    assert ask(session, PYTHON)["cells"][0]["fate"] == "unknown"


def test_what_may_come_from_the_cache_may_cost_nothing(session: Session) -> None:
    """Only a run fills the template in, so only a run knows its key."""
    source = "%%generate --max-tokens 5 --seed 1\nSay {{ words | join }}."
    session.variables = lambda: {"words": ["a"]}
    (first,) = ask(session, source)["cells"]
    assert (first["fate"], first["likely_usd"], first["likely_low_usd"], first["likely_runs"]) == ("runs", None, "0", 0)
    assert D(first["likely_high_usd"]) > D("0.005")
    (drawn,) = ask(session, source.replace("--seed 1", "--temperature 1"))["cells"]
    assert D(drawn["likely_low_usd"]) > 0, "another answer each time is never replayed"
    (unread,) = ask(session, source.replace("--seed 1", "--seed 1 --no-cache"))["cells"]
    assert D(unread["likely_low_usd"]) > 0
    earlier(session, "c0", source, 3, 3)
    (ran,) = ask(session, source)["cells"]
    assert (ran["likely_usd"], ran["likely_low_usd"], ran["predicted"]) == ("0.015", "0", False)
    replay = run(cell_id="c0", session=session.session_id, status="cached", reading=Reading(Usage(), Cost(D("0"))))
    info = EngineInfo("scripted", "scripted", "scripted")
    session.ledger().settle(replace(replay, info=info, env={"source_sha256": source_sha256(source)}))
    (again,) = ask(session, source)["cells"]
    assert (again["likely_usd"], again["likely_low_usd"], again["likely_high_usd"]) == ("0", "0", "0.015")


def test_templates_are_filled_where_the_variables_exist(session: Session) -> None:
    source = "%%generate --max-tokens 5\n{{ text }}"
    session.variables = lambda: {"text": "one two three " * 50}
    (known,) = ask(session, source)["cells"]
    session.variables = dict
    (empty,) = ask(session, source)["cells"]
    (partial,) = ask(session, f"{source} And?")["cells"]
    assert (known["fate"], known["reason"]) == ("runs", None)
    assert (empty["fate"], partial["fate"], partial["input_source"]) == ("unknown", "runs", "estimated")
    for it in (empty, partial):
        assert "only a run fills in" in it["reason"]
    earlier(session, "c0", source, 3)
    (remembered,) = ask(session, source)["cells"]
    assert (remembered["input_tokens"], remembered["input_source"]) == (12, "estimated"), "as long as when it ran"


def test_what_the_cache_has_costs_nothing_and_so_does_what_it_will_have(session: Session) -> None:
    source = "%%generate --max-tokens 5 --seed 1\nTell me."
    cells = ask(session, source, source, source.replace("--seed 1", "--seed 1 --no-cache"))["cells"]
    assert [it["fate"] for it in cells] == ["runs", "cached", "runs"], "the first one's answer is kept for the second"
    renewed = (
        source.replace("--seed 1", "--temperature 1 --refresh"),
        source.replace("--seed 1", "--temperature 1 --cache"),
    )
    assert [it["fate"] for it in ask(session, *renewed, renewed[0])["cells"]] == ["runs", "cached", "runs"]
    session.generate(Prompt((Message("user", "Tell me."),), Sampling(max_tokens=5, seed=1)))
    assert ask(session, source.replace("--seed 1", "--seed 1 --refresh"))["cells"][0]["fate"] == "runs"
    other = source.replace("Tell", "Ask")
    cells = ask(session, source, other, other, f"{source} ")["cells"]
    assert [it["fate"] for it in cells] == ["cached", "runs", "cached", "runs"]
    assert cells[0]["likely_usd"] == "0"


def test_a_conversation_goes_on_with_what_the_cells_above_add_to_it(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said before is input, too, and only a run tells the answers among it."""
    monkeypatch.setattr(
        ScriptedEngine, "count", lambda _self, prompt: sum(len(it.content.split()) for it in prompt.messages)
    )
    options = "--chat talk --seed 1 --max-tokens 5"
    anew, on, apart = (f"%%generate {it}" for it in (f"{options} --reset", options, "--chat other --max-tokens 5"))
    sources = f"{anew}\nOne two three.", f"{on}\nFour.", f"{on}\nFive six.", f"{apart}\nSeven."
    unsure = "cells above it go on with its conversation, and only a run tells what is answered there"

    def told() -> list[tuple[int, str, str | None]]:
        return [(it["input_tokens"], it["input_source"], it["reason"]) for it in ask(session, *sources)["cells"]]

    wanted = [(3, "counted", None), (4, "estimated", unsure), (6, "estimated", unsure), (1, "counted", None)]
    assert told() == wanted
    session.chats["talk"] = [Message("user", "what was said " * 50), Message("assistant", "before")]
    assert told() == wanted, "the first of them begins it anew"
    (alone,) = ask(session, sources[1])["cells"]
    assert (alone["input_tokens"], alone["input_source"]) == (152, "counted")
    (_, behind) = ask(session, "%%generate --model $which --chat talk\nHi.", sources[1])["cells"]
    assert (behind["input_source"], behind["reason"]) == ("estimated", unsure)


def test_what_is_not_known_is_said(session: Session) -> None:
    session.models.add("unpriced", ModelSpec("scripted"))
    cells = ask(
        session,
        "%%generate --model nobody\nHi",
        "%%generate --max-tokens many\nHi",
        "%%generate --model $chosen\nHi",
        "%%compare\nHi",
        "%%generate --model unpriced\nHi",
    )["cells"]
    assert [it["fate"] for it in cells] == ["unknown", "unknown", "unknown", "unknown", "runs"]
    for it, word in zip(cells, ("nobody", "max-tokens", "$name", "forecast", "%price"), strict=True):
        assert word in it["reason"]
    assert cells[4]["likely_low_usd"] is None


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ([], ("0", "0", "0")),
        (["%%compare\nHi"], (None, None, None)),
        (["%%generate --model unpriced\nHi", "%%compare\nHi"], (None, None, None)),
        (["%%generate --model unpriced\nHi", "%%tokens\nHi"], ("0", "0", None)),
    ],
    ids=["none", "unknown", "unpriced", "one is free"],
)
def test_a_sum_of_unknown_costs_alone_is_unknown(
    session: Session, sources: list[str], told: tuple[str | None, ...]
) -> None:
    session.models.add("unpriced", ModelSpec("scripted"))
    total = ask(session, *sources)["total"]
    assert (total["likely_usd"], total["low_usd"], total["high_usd"]) == told


def test_against_budgets_the_first_cell_that_may_be_refused_is_named(session: Session) -> None:
    """A prompt has 12 tokens: a run of 30 more may cost $0.042, and one of 10 more costs $0.022."""
    earlier(session, "c0", ONE, 10, 10)
    earlier(session, "c1", ONE, 10, 10)
    for cap, verdict, cell in (("1", "fits", None), ("0.05", "may-exceed", "c1"), ("0.043", "exceeds", "c1")):
        session.ledger().set_budget(Budget("month", D(cap), user=session.user))
        (told,) = ask(session, ONE, ONE)["budgets"]
        assert (told["verdict"], told["cell_id"], told["left_usd"]) == (verdict, cell, cap)
    session.ledger().drop_budget(Budget("month", user=session.user))
    session.ledger().set_budget(Budget("cell", D("0.03"), notebook=session.budget_notebook))
    (told,) = ask(session, ONE)["budgets"]
    assert (told["scope"], told["verdict"], told["cell_id"]) == ("cell", "may-exceed", "c0")


def test_the_messages_are_the_fixture(session: Session) -> None:
    earlier(session, "c0", ONE, 10, 10)
    session.ledger().set_budget(Budget("month", D("0.05"), user=session.user))
    assert asked(session, FIXTURE["request"]) == FIXTURE["answer"]


@pytest.mark.model
def test_a_tokenizer_is_read_in_the_background_and_then_it_counts(make_session: Make, tiny_home: Path) -> None:
    session = make_session(home=str(tiny_home), model="smollm2")
    session.prices.set("smollm2", DOLLARS)
    (cell,) = ask(session, "%%generate --max-tokens 5 --temperature 0\nWhy is the sky blue?")["cells"]
    prompt = Prompt((Message("user", "Why is the sky blue?"),), Sampling(max_tokens=5, temperature=0))
    generation = session.generate(prompt)
    assert (cell["input_source"], cell["input_tokens"]) == ("counted", generation.usage.input_tokens)
    assert session.ledger().totals(session.selection).runs == 1


@pytest.mark.parametrize(
    "change", [{"seq": "1"}, {"cells": {}}, {"cells": [{"id": 1, "source": "x"}]}, {"cells": ["x"]}]
)
def test_a_request_of_another_shape_is_refused(session: Session, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'forecast'"):
        session.forecast("page", {**FIXTURE["request"], **change}, lambda _answer: None)


def test_a_draft_has_the_middle_of_its_cells_history(session: Session) -> None:
    earlier(session, "c0", ONE, 10, 14)
    answers: list[dict[str, Any]] = []
    told = {"cell_id": "c0", "seq": 1, "base": None, "offset": 0, "deleted": 0, "text": ONE}
    session.draft("page", told, answers.append)
    last(answers, lambda it: it["state"] == "counted")
    assert (answers[-1]["likely_usd"], answers[-1]["likely_runs"]) == ("0.024", 2)
    assert D(answers[-1]["low_usd"]) <= D(answers[-1]["likely_low_usd"]) < D("0.024")
    session.draft("page", {**told, "cell_id": "new"}, answers.append)
    assert (answers[-1]["likely_usd"], answers[-1]["likely_runs"]) == (None, 0)
