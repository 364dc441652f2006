"""``tokmagic reproduce``: what is the same, what changed, and why. The cells run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.commands import CITY, FREEZE, GREEDY, LOOP, SAMPLED, SEEDED, SETUP, Command, Desk
from tests.servers import ANSWER, USAGE, chunk, serve, streams, usage_chunk
from tokmagic.ledgers import Ledger
from tokmagic.notebooks.reproduce import Course, Task
from tokmagic.notebooks.reproduce import reproduce as reproduce_by
from tokmagic.runs.session import Session


def runs_of(desk: Desk) -> int:
    ledger = Ledger(desk.url)
    try:
        return len(ledger.runs())
    finally:
        ledger.close()


def test_a_notebook_that_gives_the_same_passes_and_nothing_of_the_persons_is_touched(
    desk: Desk, reproduce: Command
) -> None:
    before = {it.name: it.read_bytes() for it in desk.folder.iterdir() if it.suffix in (".ipynb", ".json")}
    with_runs = runs_of(desk)
    done = reproduce(desk)
    assert (done.status, done.err) == (0, ""), done
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert rows[:5] == [
        "cell model drawn text in out cost",
        "3 (c2) s greedy same 9 5 $0.00000435",
        "4 (c3) s seeded same 9 5 $0.00000435",
        "5 (c4) s sampled not compared 9 5 $0.00000435",
        "6 (c5), run 1 of 3 s greedy same 9 5 $0.00000435",
    ]
    assert done.out.splitlines()[-2:] == [
        "cell 5 (c4): not compared: sampled without a seed",
        "5 runs compared with nb.tokmagic.json: the same",
    ]
    after = {it.name: it.read_bytes() for it in desk.folder.iterdir() if it.suffix in (".ipynb", ".json")}
    # The notebook has a cell that freezes it, and that left the file alone.
    assert (after, runs_of(desk)) == (before, with_runs)


def test_answers_from_the_cache_count_as_what_they_would_have_cost(empty: Desk, reproduce: Command) -> None:
    several = "import tokmagic\ntokmagic.generate('Hi', temperature=0, n=2)"
    empty.freeze(CITY, GREEDY, GREEDY, several, several)
    assert [cell["runs"][0]["status"] for cell in empty.body()["cells"]] == ["ok", "cached", "ok", "cached"]
    done = reproduce(empty, "--json")
    assert (done.status, done.states()) == (0, [(f"cell {i} (c{i - 1})", "same") for i in (3, 4, 5, 6)])
    assert [run["now"]["status"] for run in done.json["runs"]] == ["ok"] * 4


def test_without_texts_in_the_ledger_the_digests_still_tell(empty: Desk, reproduce: Command) -> None:
    empty.freeze(CITY, GREEDY, TOKMAGIC_STORE_TEXT="off")
    assert reproduce(empty).status == 0
    empty.answer("In ", "autumn ", "the ", "maples ", "glow.")
    done = reproduce(empty)
    assert done.status == 1
    assert done.out.splitlines()[2] == "cell 3 (c2): the text changed"


def test_another_answer_is_told_with_its_first_difference(desk: Desk, reproduce: Command) -> None:
    desk.answer("In ", "spring ", "the ", "plums ", "bloom ", "too.")
    done = reproduce(desk)
    assert (done.status, done.err) == (1, "")
    told = done.out.splitlines()
    assert told[1].startswith("3 (c2)")
    assert "5 → 6" in told[1]
    at = told.index(
        "cell 3 (c2): the text changed from character 15 on: “In spring the cherries bloom.” → “In spring the plums "
        "bloom too.”; output tokens 5 → 6; cost $0.00000435 → $0.00000495"
    )
    assert told[at + 1].startswith("  nothing recorded differs: ")
    assert told[-1] == "5 of 5 compared runs changed (against nb.tokmagic.json)"


def test_what_is_allowed_to_change_is_told_and_fails_nothing(desk: Desk, reproduce: Command) -> None:
    desk.answer(input_tokens=10)
    assert reproduce(desk, "--allow", "cost").status == 1
    done = reproduce(desk, "--allow", "cost", "--allow", "tokens", "--json")
    assert (done.status, done.json["changed"]) == (0, 0)
    assert [change["what"] for change in done.json["runs"][0]["changes"]] == ["input tokens", "cost"]


def test_a_price_that_came_later_explains_a_cost(empty: Desk, reproduce: Command) -> None:
    unpriced, _ = SETUP.split("\n%price")
    empty.write(unpriced, CITY, GREEDY, FREEZE)
    empty.execute()
    body = empty.body()
    for name in ("rates", "cost"):  # as where no list price is known
        body["cells"][0]["runs"][0].pop(name)
    empty.refreeze(body)
    empty.write(SETUP, CITY, GREEDY)
    (run,) = reproduce(empty, "--json").json["runs"]
    assert [it["what"] for it in run["changes"]] == ["cost"]
    assert [(it["what"], it["was"]) for it in run["differences"]] == [("the rates", "—")]


def test_a_cost_by_the_devices_time_is_left_out_only_where_it_is(empty: Desk, reproduce: Command) -> None:
    left_out = "they are shown, not compared"
    empty.freeze(CITY, GREEDY)
    empty.write(SETUP.replace("--input 0.15 --output 0.60", "--gpu-hour 2.5"), CITY, GREEDY, FREEZE)
    done = reproduce(empty)
    assert "cost $0.00000435 → $" in done.out
    assert left_out not in done.out
    empty.execute(TOKMAGIC_LEDGER=f"sqlite:///{empty.folder}/other.sqlite")
    done = reproduce(empty)
    assert (done.status, left_out in done.out) == (0, True)


def test_an_edited_prompt_comes_first_since_all_follows_from_it(desk: Desk, reproduce: Command) -> None:
    desk.answer("No.")
    desk.write(
        *(SETUP, CITY, GREEDY.replace("Why", "Who would"), SEEDED.replace("--seed 3", "--seed 4"), SAMPLED, LOOP)
    )
    done = reproduce(desk)
    lines = done.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("cell 3 (c2): the text changed"))
    assert lines[at + 1] == "  the prompt itself changed: everything else follows from it"
    assert lines[at + 2].startswith("  what differs: the prompt: ")
    at = next(i for i, line in enumerate(lines) if line.startswith("cell 4 (c3): the text changed"))
    assert lines[at + 1] == "  what differs: seed: 3 → 4"
    assert done.status == 1


def test_options_that_make_no_sense_differ_from_those_of_now(desk: Desk, reproduce: Command) -> None:
    desk.answer("In ", "spring.")
    body = desk.body()
    body["cells"][0]["runs"][0]["params"]["n"] = "many"
    desk.refreeze(body)
    assert {"what": "n", "was": "many", "now": "1"} in reproduce(desk, "--json").json["runs"][0]["differences"]


# Which run is which


def test_cells_that_came_and_went_are_told(desk: Desk, reproduce: Command) -> None:
    # Frozen where nothing told the cells: they are known by their prompts and their order.
    desk.refreeze({**desk.body(), "cells": [{"runs": cell["runs"]} for cell in desk.body()["cells"]]})
    desk.write(SETUP, CITY, "%%generate --seed 1\nNew.", GREEDY, SAMPLED, LOOP)
    done = reproduce(desk, "--json")
    by_state: dict[str, list[str]] = {}
    for cell, state in done.states():
        by_state.setdefault(state, []).append(cell)
    assert by_state["same"] == ["cell 4 (c3)", *["cell 6 (c5)"] * 3]
    assert by_state["new"] == ["cell 3 (c2)"]
    assert len(by_state["changed"]) == 1
    assert done.status == 1
    assert reproduce(desk, "--allow", "runs").status == 0


def test_a_run_that_is_missing_from_a_loop_is_told(desk: Desk, reproduce: Command) -> None:
    desk.write(SETUP, CITY, GREEDY, SEEDED, SAMPLED, LOOP.replace(", 'three'", ""))
    done = reproduce(desk)
    assert done.status == 1
    assert "cell 6 (c5), run 3 of 3: run ok → —" in done.out
    assert "  the cell did not run this prompt now" in done.out


def test_runs_of_a_cell_are_known_by_what_they_asked_whatever_their_order(desk: Desk, reproduce: Command) -> None:
    frozen_ids = [run["run_id"] for run in desk.body()["cells"][3]["runs"]]
    desk.write(SETUP, CITY, GREEDY, SEEDED, SAMPLED, LOOP.replace("'one', 'two', 'three'", "'three', 'two'"))
    loop = reproduce(desk, "--json").json["runs"][-3:]
    assert [run["before"]["run_id"] for run in loop] == [frozen_ids[2], frozen_ids[1], frozen_ids[0]]
    assert [run["state"] for run in loop] == ["same", "same", "changed"]
    assert loop[2]["now"] is None


def test_cells_with_the_same_id_are_both_told(desk: Desk, reproduce: Command) -> None:
    body = desk.body()
    cell = {**body["cells"][0], "id": "c2", "cell": 3}
    run = cell["runs"][0]
    desk.refreeze({**body, "cells": [{**cell, "runs": [{**run, "answer_sha256": "0" * 64}]}, cell]})
    done = reproduce(desk, "--json")
    # The first is the notebook's, and the other has none.
    changes = [(run["state"], [it["kind"] for it in run["changes"]]) for run in done.json["runs"]]
    assert changes.count(("changed", ["text"])) == 1
    assert changes.count(("changed", ["runs"])) == 1
    assert done.status == 1


def test_what_runs_the_cells_can_be_given(desk: Desk, make_session: Callable[..., Session]) -> None:
    tasks: list[Task] = []

    def runs_nothing(task: Task) -> Course:
        tasks.append(task)
        return Course()

    report = reproduce_by(make_session(), str(desk.notebook), executor=runs_nothing, budget_usd="0.5")
    (task,) = tasks
    assert (task.folder, task.names[2], task.document.cells[2].source) == (desk.folder, "cell 3 (c2)", GREEDY)
    environment = {name: task.environment[f"TOKMAGIC_{name}"] for name in ("CACHE", "STORE_TEXT", "BUDGET_DAY")}
    assert environment == {"CACHE": "off", "STORE_TEXT": "on", "BUDGET_DAY": "0.5"}
    assert not Path(task.environment["TOKMAGIC_LEDGER"].removeprefix("sqlite:///")).parent.exists()
    assert [change.now for it in report.changed for change in it.changes] == ["—"] * 5


# Endpoints


def test_an_endpoints_answers_are_compared_and_marked(
    empty: Desk, reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serve(streams(ANSWER)) as endpoint:
        add = f"%load_ext tokmagic\n%model add far m --api-base {endpoint.url} --api-key-name MY_KEY\n%model use far"
        rates = "\n%price far --input 0.15 --output 0.60 --cached 0.05"
        empty.write(add + rates, "%%generate --temperature 0 --max-tokens 9\nHi", FREEZE)
        empty.execute()
        text = empty.frozen.read_text(encoding="utf-8")
        assert "sk-very-secret" not in text
        assert f'"server": "{endpoint.url}"' in text
        done = reproduce(empty)
        assert done.status == 0
        assert "real runs at endpoints: 1, cost: ≤$0.0000036\n" in done.out
        endpoint.script = streams([*ANSWER[:2], chunk("p!"), chunk(reason="stop"), usage_chunk()])
        done = reproduce(empty)
        assert done.status == 1
        assert "(at an endpoint, which guarantees nothing)" in done.out
        assert "  a server guarantees nothing: the model behind the name" in done.out
        # Without its key it is not asked at all: nothing is billed, and it broke no promise.
        monkeypatch.delenv("MY_KEY")
        done = reproduce(empty)
        assert "cell 2 (c1): status ok → refused\n" in done.out
        assert "real runs at endpoints" not in done.out
        monkeypatch.setenv("MY_KEY", "sk-very-secret")
        # Of the same tokens more were cached there, so that the same answer costs less.
        cached = {**USAGE, "prompt_tokens_details": {"cached_tokens": 8}}
        endpoint.script = streams([*ANSWER[:-1], usage_chunk(cached)])
        (run,) = reproduce(empty, "--json").json["runs"]
        assert [change["kind"] for change in run["changes"]] == ["cost"]
        assert [it["what"] for it in run["differences"]] == ["input tokens that the server had cached"]
