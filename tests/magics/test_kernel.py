"""The magics in a real kernel."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.examples import first
from tests.kernels import Kernel, is_told, running_kernel
from tokmagic.core.record import RunRecord, source_sha256
from tokmagic.ledgers import Ledger

LONG = "Write a very long story about a lighthouse keeper and the sea."
LONG_TOKENS = 1600


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('kernel')}/ledger.sqlite"


@pytest.fixture(scope="module")
def kernel(tiny_home: Path, ledger_url: str) -> Iterator[Kernel]:
    with running_kernel(
        TOKMAGIC_HOME=str(tiny_home), TOKMAGIC_LEDGER=ledger_url, JPY_SESSION_NAME="/tmp/books/one.ipynb"
    ) as running:
        loaded = running.run("%load_ext tokmagic\n%price smollm2 --input 0.15 --output 0.60")
        assert loaded.ok, loaded.error
        yield running


def rows(url: str, cell_id: str) -> list[RunRecord]:
    ledger = Ledger(url)
    try:
        return [record for record in ledger.runs() if record.cell_id == cell_id]
    finally:
        ledger.close()


@pytest.mark.model
def test_a_cell_streams_and_its_numbers_agree_everywhere(kernel: Kernel, ledger_url: str) -> None:
    # Long enough that even a quick machine takes several of the sidebar's intervals for it.
    source = f"%%generate --max-tokens {LONG_TOKENS} --into out\n{LONG}"
    ran = kernel.run(source, cell_id="cell-a", until=is_told("cell-a"))
    assert ran.ok, ran.error
    (record,) = rows(ledger_url, "cell-a")
    usage = record.reading.usage
    assert (record.status, usage.output_tokens, usage.output_source) == ("ok", LONG_TOKENS, "measured")
    assert record.notebook == "/tmp/books/one.ipynb"

    wire = [row for snapshot in ran.snapshots for row in snapshot["rows"] if row["run_id"] == record.run_id]
    counts = [row["output_tokens"] or 0 for row in wire]
    assert counts == sorted(counts)
    assert len({count for count in counts if 0 < count < LONG_TOKENS}) > 2, "no count was shown while it ran"
    last = wire[-1]
    assert (last["status"], last["input_tokens"], last["output_tokens"]) == ("ok", usage.input_tokens, LONG_TOKENS)
    assert Decimal(last["cost_usd"]) == record.reading.cost.usd
    assert (last["ttft_s"], last["itl_mean_s"]) == (record.reading.ttft_s, record.reading.itl_mean_s)

    loading = [snapshot["model"] for snapshot in ran.snapshots if snapshot["model"]["state"] == "loading"]
    stages = list(dict.fromkeys(str(model["detail"]) for model in loading))
    assert stages[:2] == ["reading the tokenizer", "importing torch and transformers"]
    texts = list(dict.fromkeys(display["data"]["text/plain"] for display in ran.displays))
    assert texts[:2] == [f"loading: {stage}" for stage in stages[:2]]
    assert "prefill: waiting for the first token" in texts
    totals = [snapshot["totals"]["notebook"] or {"unpriced_runs": 0} for snapshot in ran.snapshots]
    assert {total["unpriced_runs"] for total in totals} == {0}

    final = ran.displays[-1]
    assert final["metadata"]["tokmagic"] == last
    assert last["source_sha256"] == source_sha256(source)
    assert "text/markdown" in final["data"]
    text = kernel.run("print(out.text)").stdout
    grown = [shown for shown in texts if 0 < len(shown) < len(text) and text.startswith(shown)]
    assert len(grown) > 2, "the answer was not streamed"
    assert grown == sorted(grown, key=len)
    assert ran.results == [], "streamed once, it must not be shown a second time"
    counted = kernel.value("out.usage.output_tokens, len(out.tokens), _ is None")
    assert counted == f"({LONG_TOKENS}, {LONG_TOKENS}, False)"
    shown = kernel.run("out")
    assert shown.displays[-1]["data"]["text/plain"].startswith(text[:20])


@pytest.mark.model
def test_totals_are_the_sum_of_the_notebooks_runs(kernel: Kernel, ledger_url: str) -> None:
    ran = kernel.run("%%generate --max-tokens 4\nSay hi.", cell_id="cell-b", until=is_told("cell-b"))
    totals = ran.snapshots[-1]["totals"]["notebook"]
    ledger = Ledger(ledger_url)
    records = ledger.runs()
    ledger.close()
    assert totals["runs"] == len(records)
    assert totals["output_tokens"] == sum(record.reading.usage.output_tokens or 0 for record in records)
    assert Decimal(totals["cost_usd"]) == sum(record.reading.cost.usd or 0 for record in records)


@pytest.mark.model
def test_an_interrupt_keeps_the_text_settles_the_row_and_raises(kernel: Kernel, ledger_url: str) -> None:
    sent: list[float] = []

    def interrupt(message: dict[str, Any]) -> None:
        data = message["content"].get("data", {})
        rows_now = data.get("rows", []) if isinstance(data, dict) else []
        if not sent and any(row["cell_id"] == "cell-i" and (row["output_tokens"] or 0) >= 5 for row in rows_now):
            sent.append(time.monotonic())
            kernel.manager.interrupt_kernel()

    ran = kernel.run(f"%%generate --max-tokens 2000 --into cut\n{LONG}", cell_id="cell-i", on_message=interrupt)
    assert sent, "nothing was streamed before the end"
    assert not ran.ok
    assert ran.error.startswith("GenerationInterrupted: ")
    assert "\n" not in ran.error
    (record,) = rows(ledger_url, "cell-i")
    assert (record.status, record.finish_reason) == ("interrupted", "interrupted")
    tokens = record.reading.usage.output_tokens
    assert tokens is not None
    assert 5 <= tokens < 2000
    expected = (
        record.reading.usage.input_tokens * record.rates.input + tokens * record.rates.output  # type: ignore[operator]
    ) / 1_000_000
    assert record.reading.cost.usd == expected
    assert kernel.value("len(cut.tokens), cut.status, len(cut.text) > 0") == f"({tokens}, 'interrupted', True)"
    again = kernel.run("%%generate --max-tokens 3\nSay hi.", cell_id="cell-i")
    assert again.ok, again.error


@pytest.mark.model
def test_the_sidebar_may_stop_a_run_while_the_kernel_is_busy(kernel: Kernel, ledger_url: str) -> None:
    comm = kernel.open_comm("tokmagic.control")
    kernel.send_comm(comm, {"v": 1, "type": "hello", "path": "books/one.ipynb", "widgets": False})
    state = kernel.wait_comm(comm)
    assert (state["type"], state["complete"]) == ("snapshot", True)
    assert {row["cell_id"] for row in state["rows"]} >= {"cell-a", "cell-b", "cell-i"}
    assert state["model"]["state"] == "ready"
    kernel.send_comm(comm, {"v": 1, "type": "dance"})
    assert kernel.wait_comm(comm)["type"] == "error"


def _draft(seq: int, base: int | None, text: str, offset: int = 0) -> dict[str, Any]:
    place = {"cell_id": "cell-d", "seq": seq, "base": base, "offset": offset, "deleted": 0}
    return {"v": 1, "type": "draft", "text": text, **place}


def _answer(kernel: Kernel, comm: str) -> dict[str, Any]:
    while (answer := kernel.wait_comm(comm))["state"] == "counting":
        pass
    return answer


@pytest.mark.model
def test_a_draft_is_counted_while_the_kernel_is_busy_and_as_the_run_counts_it(kernel: Kernel, ledger_url: str) -> None:
    assert kernel.run("subject = 'a lighthouse keeper'").ok
    subshell = kernel.create_subshell()
    comm = kernel.open_comm("tokmagic.control", subshell)
    source = "%%generate --max-tokens 3\nTell me of {{ subject }}"
    kernel.send_comm(comm, _draft(1, None, source), subshell)
    first = _answer(kernel, comm)
    busy = kernel.send("import time\ntime.sleep(100)\nprint('slept')")
    kernel.wait_busy(busy)
    kernel.send_comm(comm, _draft(2, 1, ", and of the sea", len(source)), subshell)
    second = _answer(kernel, comm)
    kernel.send_comm(comm, _draft(3, 1, "?", len(source)), subshell)
    assert _answer(kernel, comm)["state"] == "lost"
    kernel.manager.interrupt_kernel()
    assert "slept" not in kernel.wait_idle(busy).stdout, "the answers came only when the cell had ended"

    assert (first["input_source"], second["input_source"]) == ("counted", "counted")
    assert second["input_tokens"] > first["input_tokens"]
    assert kernel.run(f"{source}, and of the sea", cell_id="cell-d").ok
    (record,) = rows(ledger_url, "cell-d")
    assert record.reading.usage.input_tokens == second["input_tokens"]
    assert Decimal(second["low_usd"]) <= (record.reading.cost.usd or 0) <= Decimal(second["high_usd"])
    kernel.send_comm(comm, _draft(4, None, source), subshell)
    assert _answer(kernel, comm)["context_tokens"] == 8192


BACKGROUND = """
import threading
from tokmagic.runs import api
came = threading.Event()
def background():
    with api.session().import_lock:
        came.set()
thread = threading.Thread(target=background)
thread.start()
print(came.wait(0.3))
"""


@pytest.mark.model
def test_the_background_imports_only_while_no_cell_runs(kernel: Kernel) -> None:
    assert kernel.run(BACKGROUND).stdout == "False\n"
    # The thread may need more than the moment between two cells to wake up.
    end = time.monotonic() + 60
    while kernel.run("print(came.is_set())").stdout != "True\n":
        assert time.monotonic() < end
        time.sleep(0.1)


BAD = [
    ("%%generate --max-tokns 3\nHi", "--max-tokens"),
    ("%%generate -m smolm2\nHi", "did you mean smollm2"),
    ("%%generate\nHi {{ nobody }}", "'nobody' is undefined"),
    ("%%generate\nHi {% if %}", "--literal"),
    ("%%generate\n   \n", "the prompt is empty"),
    ("%%generate --temperature -1\nHi", "--temperature is -1"),
    ("%%generate --temperature nan\nHi", "--temperature is nan"),
    ("%%generate --max-tokens 0\nHi", "--max-tokens is 0"),
    ("%%generate --budget 0\nHi", "--budget is 0; give a number above 0"),
    ("%cost project", "--calls 1e6/day"),
    ("%cost projekt", "did you mean project?"),
    ("%%generate --json-schema x\nHi", "--json-schema cannot evaluate 'x': NameError"),
    ("%%generate -n 2\nHi", "add --temperature"),
    ("%%generate -m /nowhere/at/all\nHi", "does not exist"),
    ("%%generate\n{{ 'word ' * 9000 }}", "8,192"),
    ("%model add x smollm2 --quant nf5", "nf5"),
    ("%model use smolm2", "did you mean smollm2"),
    ("%price smollm2 --input -1 --output 2", "--input"),
    ("%price smollm2 --input 1e-9 --output 2", "picodollar"),
    ("%cost bye", "did you mean by"),
    ("%cost # so far", "# begins no comment on an option line; put it on a line of its own"),
    ("%budget day 5 # enough", "# begins no comment"),
    ("%price smollm2 --input 1 --output 2 # new", "# begins no comment"),
    ("%model use smollm2 # the small one", "# begins no comment"),
    ("%%generate --max-tokens 3 # short\nHi", "# begins no comment"),
    ("%generate What is a river", "begin the cell with %%generate (two percent signs)"),
    ("%generate --max-tokens", "begin the cell with %%generate (two percent signs)"),
    ("%price smollm2 0.15 0.60", "'0.15' is no rate's name; write %price MODEL --input 0.15 --output 0.60"),
    ("%price --input 0.15 --output 0.60", "the model is missing whose rates these are; write %price MODEL"),
    ("%price --as openai/gpt-5-mini", "the model is missing"),
    ("%compare --over x", "begin the cell with %%compare (two percent signs)"),
    ("%%generate --system 'open\nHi", "quotation"),
    ("%%generate --into 2x\nHi", "--into"),
    ("%model add gpu smollm2 --device cuda\n%model load gpu", "CUDA"),
    ("%model add e gpt --api-base localhost:8000", "is not a server URL"),
]


@pytest.mark.model
@pytest.mark.parametrize(("source", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_gets_one_line_with_its_mend(kernel: Kernel, source: str, says: str) -> None:
    ran = kernel.run(source)
    assert not ran.ok
    assert says in ran.error
    assert "\n" not in ran.error


@pytest.mark.model
def test_chat_templates_expansion_and_options(kernel: Kernel) -> None:
    kernel.run("persona = 'You are Ada. Answer in two words.'\nlimit = 4\ntopic = 'a \"quoted\" thing'")
    assert kernel.run("%%generate --chat c --system $persona --max-tokens {limit} --into one\nAbout {{ topic }}").ok
    roles = "[m.role for m in {}.prompt.messages]"
    assert kernel.value("one.prompt.messages[0].content") == "'You are Ada. Answer in two words.'"
    assert kernel.run("%%generate --chat c --max-tokens 4 --into two\nMore").ok
    assert kernel.value(roles.format("two")) == "['system', 'user', 'assistant', 'user']"
    assert kernel.run("%%generate --chat c --reset --max-tokens 4 --into three\nAnew").ok
    assert kernel.value(roles.format("three")) == "['user']"
    assert kernel.run("%%generate --literal --max-tokens 2 --into four\n{{ x }} --- $5 # {").ok
    assert kernel.value("four.prompt.messages[0].content") == "'{{ x }} --- $5 # {'"
    assert kernel.run("%%generate -n 2 --temperature 0.9 --seed 1 --max-tokens 4 --into five\nHi").ok
    assert kernel.value("len(five.choices), five.usage.output_tokens <= 8") == "(2, True)"
    quiet = kernel.run("%%generate --quiet --max-tokens 2\nHi")
    assert (quiet.displays, quiet.ok) == ([], True)
    dry = kernel.run("%%generate --dry-run\nHi")
    assert "nothing was run" in dry.results[0]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("own", "magic", "shows"),
    [
        ({"cap": 2}, "%budget day {cap + 1} --tokens $most", "$3.00, 70 tokens"),
        ({"name": "mine"}, "%model add $name scripted", "mine"),
        ({"text": "one two three"}, "%tokens text", "three"),
        ({"text": "seen"}, "%tokens [it for it in [text] if it == text][0]", "seen"),
        ({"most": 5}, "%budget day {most}", "$5.00"),
        ({}, "%budget day {most}", "$70.00"),
    ],
    ids=["words", "a name", "an expression", "a comprehension", "before the notebook's", "none of its own"],
)
def test_a_magic_in_a_function_sees_its_variables(
    kernel: Kernel, own: dict[str, object], magic: str, shows: str
) -> None:
    assert kernel.run("most = 70").ok
    ran = kernel.run(f"def f({', '.join(own)}):\n    shown = {magic}\n    return shown\nf(**{own})")
    kernel.run("%budget off")
    assert ran.ok, ran.error
    assert shows in ran.results[-1]["data"]["text/plain"]


@pytest.mark.parametrize(
    "code",
    first(
        1,
        [
            """subprocess.run([sys.executable, '-c', "import tokmagic; tokmagic.generate('Hi', 'scripted')"])""",
            "subprocess.run([sys.executable, '-m', 'tokmagic.cli', 'run', '-m', 'scripted', '-'], input=b'Hi')",
        ],
    ),
    ids=["a worker process", "the command"],
)
def test_what_a_kernel_starts_counts_for_its_notebook_and_is_under_its_budget(kernel: Kernel, code: str) -> None:
    kernel.run("import subprocess, sys, tokmagic")
    runs = "sum(it.notebook == '/tmp/books/one.ipynb' for it in tokmagic.ledger().runs())"
    before = int(kernel.value(runs))
    assert kernel.value(f"{code}.returncode") == "0"
    assert int(kernel.value(runs)) == before + 1
    assert kernel.run("%budget notebook --tokens 3").ok
    assert kernel.value(f"{code}.returncode") == "1"
    kernel.run("%budget off")


def test_loading_is_light_and_can_be_undone(tmp_path: Path, ledger_url: str) -> None:
    with running_kernel(TOKMAGIC_HOME=str(tmp_path), TOKMAGIC_LEDGER=ledger_url) as kernel:
        assert kernel.run("%load_ext tokmagic").ok
        heavy = "[m for m in ('torch', 'transformers', 'sqlalchemy', 'jinja2', 'ipywidgets') if m in sys.modules]"
        assert kernel.value(f"__import__('sys') and (lambda sys: {heavy})(__import__('sys'))") == "[]"
        for line in ("%reload_ext tokmagic", "%model", "%config TokMagic.store_text = False", "%unload_ext tokmagic"):
            ran = kernel.run(line)
            assert ran.ok, ran.error
        assert not kernel.run("%model").ok
        assert kernel.run("%load_ext tokmagic").ok
        assert kernel.run("%model").ok


@pytest.mark.slow
def test_a_killed_kernel_leaves_its_run_interrupted(tmp_path: Path) -> None:
    url, script = f"sqlite:///{tmp_path}/ledger.sqlite", tmp_path / "slow.json"
    script.write_text(json.dumps({"pieces": ["word "] * 6000, "itl_s": 0.02, "pace": 1}), encoding="utf-8")
    with running_kernel(TOKMAGIC_HOME=str(tmp_path), TOKMAGIC_LEDGER=url) as kernel:
        kernel.run(f"%load_ext tokmagic\n%model add s scripted:{script}\n%model use s")
        kernel.run("%%generate --max-tokens 3\nHi", cell_id="before")
        kernel.send(f"%%generate --max-tokens 6000\n{LONG}", cell_id="killed")
        deadline = time.monotonic() + 60
        streamed = 0
        while streamed < 30 and time.monotonic() < deadline:
            message = kernel.client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "comm_msg":
                rows_now = message["content"]["data"].get("rows", [])
                streamed = max([row["output_tokens"] or 0 for row in rows_now if row["cell_id"] == "killed"], default=0)
        assert streamed >= 30
        os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
        ledger = Ledger(url)
        before, killed = _until_dead(ledger)
        ledger.close()
    assert (before.status, before.reading.usage.output_tokens) == ("ok", 3)
    assert (killed.status, killed.finish_reason) == ("interrupted", "interrupted")
    assert killed.reading.usage.input_tokens is None or killed.reading.usage.input_tokens > 0


def _until_dead(ledger: Ledger) -> list[RunRecord]:
    """The operating system takes a moment to release what a killed process held."""
    deadline = time.monotonic() + 30
    while (records := ledger.runs())[-1].status == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return records


@pytest.mark.model
def test_budgets_from_the_magic_to_the_refused_row(kernel: Kernel, ledger_url: str) -> None:
    ready = kernel.run("%model add s scripted\n%price s --input 1000 --output 1000\n%budget notebook 0.10 --warn 0.5")
    assert ready.ok, ready.error
    assert "notebook" in ready.displays[-1]["data"]["text/html"]
    # 12 tokens in and 18 out at a thousandth of a dollar each; $0.032 may be used by the first run.
    one = kernel.run("%%generate -m s --max-tokens 20\nHi.", cell_id="cell-b1")
    two = kernel.run("%%generate -m s --max-tokens 20\nHi there.", cell_id="cell-b2")
    assert (one.ok, two.ok) == (True, True)
    assert "BudgetWarning: the notebook's budget is " in two.stdout
    three = kernel.run("%%generate -m s --max-tokens 80\nHi you.", cell_id="cell-b3", until=is_told("cell-b3"))
    assert not three.ok
    assert three.error.startswith("BudgetError: this run may cost up to $0.0920, the notebook's budget of $0.1000 has ")
    (refused,) = rows(ledger_url, "cell-b3")
    assert (refused.status, refused.error) == ("refused", three.error.removeprefix("BudgetError: "))
    (shown,) = [budget for budget in three.snapshots[-1]["budgets"] if budget["scope"] == "notebook"]
    assert (shown["cap_usd"], shown["warn_at"]) == ("0.1", 0.5)
    assert Decimal(shown["used_usd"]) > Decimal("0.06")

    asked = kernel.run("%budget cell --tokens 5\n")
    assert asked.ok, asked.error
    nobody = kernel.run("%%generate -m s --max-tokens 1\nHi.", cell_id="cell-b4")
    assert nobody.error.startswith("BudgetError: the prompt has 12 tokens, more than the 5")
    assert "--yes confirms it" in nobody.error
    assert kernel.run("%%generate -m s --max-tokens 1 --yes\nHi.", cell_id="cell-b4").ok
    assert kernel.run("%budget off").ok
    assert kernel.run("%%generate -m s --max-tokens 80\nHi you.", cell_id="cell-b3").ok


@pytest.mark.model
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%budget day -5", "BudgetError: %budget day is -5; give a number above 0"),
        ("%budget day 0", "BudgetError: %budget day is 0; give a number above 0"),
        ("%budget day five", "BudgetError: %budget day is 'five'; "),
        ("%budget day 5EUR", "BudgetError: %budget day is '5EUR'; give a number in USD"),
        (
            "%budget weekly 5",
            "UsageError: scope 'weekly' is unknown; use list, cell, notebook, day, month, off; see %budget",
        ),
        ("%budget notebok 5", "UsageError: scope 'notebok' is unknown (did you mean notebook?)"),
        ("%budget day", "UsageError: %budget day needs a cap"),
        ("%budget day 5 --warn 80", "UsageError: --warn is 80; give a share"),
        ("%budget day --tokens -3", "BudgetError: --tokens is -3; give a whole number above 0"),
        ("%budget day off", "UsageError: there is no budget for the day to switch off"),
    ],
)
def test_bad_budgets_are_told_in_one_line(kernel: Kernel, line: str, expected: str) -> None:
    ran = kernel.run(line)
    assert not ran.ok
    assert ran.error.startswith(expected)
    assert "\n" not in ran.error


@pytest.mark.slow
def test_two_kernels_that_write_500_runs_each_at_once_lose_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    runs = "import tokmagic\nfor _ in range(500):\n    tokmagic.generate('Hi.', 's', max_tokens=2)"
    environment = {"TOKMAGIC_HOME": str(tmp_path), "TOKMAGIC_LEDGER": url}
    with running_kernel(**environment) as one, running_kernel(**environment) as other:
        for kernel in (one, other):
            assert kernel.run("%load_ext tokmagic\n%model add s scripted\n%price s --input 1 --output 2").ok
        with ThreadPoolExecutor() as both:
            ran = list(both.map(lambda kernel: kernel.run(runs, timeout_s=300), (one, other)))
        assert [it.error for it in ran] == ["", ""]
    with closing(Ledger(url)) as ledger:
        records = ledger.runs()
    assert len({record.run_id for record in records}) == 1_000
    sessions = Counter(record.session for record in records)
    assert sorted(sessions.values()) == [500, 500]
    assert {(record.status, record.reading.cost.usd) for record in records} == {("ok", Decimal("0.000016"))}


SLOWLY = """%model add far scripted:{script}
import tokmagic
answers = tokmagic.generate_many([f"Question {{it}}" for it in range(4)], "far", concurrency=1, cache=False)"""


@pytest.mark.slow
def test_many_runs_say_how_far_they_are_and_leave_no_line_behind(kernel: Kernel, tmp_path: Path) -> None:
    script = tmp_path / "far.json"
    script.write_text(json.dumps({"pieces": ["One ", "two."], "ttft_s": 0.4, "itl_s": 0.05, "pace": 1.0}))
    ran = kernel.run(SLOWLY.format(script=script), cell_id="cell-far")
    assert ran.ok, ran.error
    texts = [display["data"].get("text/plain", "") for display in ran.displays]
    told = [text for text in texts if " of 4 prompts, " in text]
    assert told
    assert "to come: " in told[0]
    assert texts[-1] == ""
