"""An opened row: a cell's runs and one of them in full, told when it is asked for, from what there is."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo, Reading, RunRecord
from tokmagic.core.stream import Logprob, Usage
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import UsageError
from tokmagic.explain import parts_of
from tokmagic.runs.details import changes
from tokmagic.runs.details.service import MOST_RUNS
from tokmagic.runs.details.snippets import as_curl, as_python
from tokmagic.runs.details.wire import MOST_CHARS, Changes, Detail, Request, detail_wire, parse
from tokmagic.runs.session import Session
from tokmagic.runs.token_times import Piece

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "wire" / "detail.json").read_text(encoding="utf-8"))
ASK = (Message("system", "Be brief."), Message("user", 'Say "hi" to O\'Hara\nfor $5.'))
INFO = EngineInfo("gpt", "openai/gpt-5-mini", "endpoint", server="https://api.example.com/v1")
SPEC = ModelSpec("openai/gpt-5-mini", api_base="https://api.example.com/v1", api_key_name="EXAMPLE_API_KEY")

Make = Callable[..., Session]


def record(run_id: str = "a2", **change: Any) -> RunRecord:
    usage = Usage(input_tokens=412, output_tokens=3, input_source="counted", output_source="reported")
    reading = Reading(usage, Cost(Decimal("0.0011"), "reported"), 0.204, None, 0.6, 0.0111)
    started = datetime(2026, 11, 24, 9, 15, 2, 120000, tzinfo=UTC)
    params = {"max_tokens": 256, "temperature": 0.5, "n": 1}
    made = RunRecord(run_id, started, "ok", INFO, "p2", params, cell_id="c", reading=reading, rates=Rates(source="set"))
    return replace(made, **change)


def ask(session: Session, run_id: str | None = None, cell_id: str = "c") -> dict[str, Any]:
    return session.detail({"v": 1, "type": "detail", "cell_id": cell_id, "seq": 3, "run_id": run_id})


def test_the_messages_are_the_fixture() -> None:
    request = parse(FIXTURE["request"])
    assert request == Request("c", 3, None)
    before = record("a1", params={"max_tokens": 256, "n": 1}, prompt_sha256="p1")
    detail = Detail(
        record(),
        ASK,
        [("system", 5), ("user", 9), ("template overhead", 12)],
        [Piece("Hi", None), Piece(" there", 11.25), Piece("!", 40.0)],
        True,
        [Logprob("Hi", -0.105), Logprob(" there", -2.5), Logprob("!", -0.01)],
        Changes("a1", changes.settings(before, record()), [("-", "Say hi."), ("+", 'Say "hi".')], False),
        "import tokmagic\n",
        None,
        {"curl": "server"},
    )
    assert detail_wire(request, [before, record()], detail, more=True) == FIXTURE["answers"][0]
    assert detail_wire(replace(request, seq=4), [], None, more=False) == FIXTURE["answers"][1]


def test_a_cells_runs_and_the_latest_in_full(make_session: Make) -> None:
    session = make_session(model="scripted")
    prompt = Prompt(ASK, Sampling(max_tokens=4))
    first = session.generate(prompt, cell_id="c")
    session.generate(Prompt((Message("user", "Other."),)), cell_id="other")
    second = session.generate(Prompt((*ASK[:1], Message("user", "Say hi.")), Sampling(max_tokens=5)), cell_id="c")
    answer = ask(session)
    assert [it["run_id"] for it in answer["runs"]] == [first.run_id, second.run_id]
    assert (answer["seq"], answer["more"], answer["run"]["run_id"]) == (3, False, second.run_id)
    run = answer["run"]
    assert [(it["role"], it["text"], it["cut"]) for it in run["messages"]] == [
        ("system", "Be brief.", False),
        ("user", "Say hi.", False),
    ]
    assert "".join(text for text, _ in run["answer"]["pieces"]) == second.text
    assert [ms is None for _, ms in run["answer"]["pieces"]] == [True, *[False] * 4]
    assert run["changes"]["since"] == first.run_id
    assert {it["name"]: (it["before"], it["after"]) for it in run["changes"]["settings"]} == {"max_tokens": (4, 5)}
    assert ["+", "Say hi."] in run["changes"]["prompt"]
    assert run["missing"] == {"curl": "server", "parts": "tokenizer"}

    earlier = ask(session, first.run_id)["run"]
    assert (earlier["run_id"], earlier["changes"]) == (first.run_id, None)


def test_after_a_restart_the_ledger_tells_what_it_kept(make_session: Make) -> None:
    before = make_session(model="scripted")
    before.notebook = "/n.ipynb"
    generation = before.generate(Prompt(ASK), cell_id="c")
    session = make_session(model="scripted")
    session.notebook = "/n.ipynb"
    run = ask(session)["run"]
    assert run["answer"]["pieces"] == [[generation.text, None]]
    assert run["missing"]["times"] == "times"


def test_texts_that_are_not_kept_are_missing_in_words(make_session: Make) -> None:
    before = make_session(model="scripted", store_text=False)
    before.notebook = "/n.ipynb"
    before.generate(Prompt(ASK), cell_id="c")
    assert ask(before)["run"]["answer"] is not None, "this kernel's memory has it, as the cell's output does"
    session = make_session(model="scripted", store_text=False)
    session.notebook = "/n.ipynb"
    run = ask(session)["run"]
    assert (run["messages"], run["parts"], run["python"], run["answer"]) == (None, None, None, None)
    assert run["missing"] == dict.fromkeys(("messages", "parts", "python", "curl", "answer"), "texts")
    assert run["params"]["max_tokens"] == 256


def test_a_run_that_was_refused_or_gave_nothing_says_so(make_session: Make) -> None:
    """Not that its answer was not kept: there is none."""
    session = make_session(model="scripted")
    session.notebook = "/n.ipynb"
    session.prices.set("scripted", Rates(input=Decimal(1000), output=Decimal(1000), source="%price"))
    assert session.generate(Prompt(ASK), cell_id="c", budget="0.000001").status == "refused"
    run = ask(session)["run"]
    assert run["answer"] is None
    assert (run["missing"]["answer"], run["messages"][-1]["text"]) == ("refused", ASK[-1].content)
    engine = ScriptedEngine("empty", [Script.of_text([], input_tokens=3)])
    session.models.add("empty", ModelSpec("scripted"))
    session.models._engines["empty"] = engine
    session.generate(Prompt(ASK), "empty", cell_id="c")
    run = ask(session)["run"]
    assert (run["answer"], run["missing"]["answer"]) == (None, "nothing")


def test_a_cell_without_runs_and_a_place_of_another_kernel_have_none(make_session: Make) -> None:
    before = make_session(model="scripted")
    before.notebook = "/n.ipynb"
    before.generate(Prompt(ASK), cell_id="3")
    session = make_session(model="scripted")
    session.notebook = "/n.ipynb"
    for cell_id in ("none", "3"):
        assert (ask(session, cell_id=cell_id)["runs"], ask(session, cell_id=cell_id)["run"]) == ([], None)


def test_only_the_latest_runs_are_told(make_session: Make) -> None:
    session = make_session(model="scripted")
    for number in range(MOST_RUNS + 1):
        session.ledger().settle(record(f"r{number}", notebook=None, session=session.session_id))
    answer = ask(session)
    assert (len(answer["runs"]), answer["more"], answer["runs"][-1]["run_id"]) == (MOST_RUNS, True, f"r{MOST_RUNS}")


@pytest.mark.model
def test_the_parts_of_a_prompt_add_up_to_its_input(make_session: Make, tiny_home: Path) -> None:
    session = make_session(home=str(tiny_home), model="smollm2")
    session.parts = lambda model, prompt: parts_of(session, model, prompt)
    generation = session.generate(Prompt(ASK, Sampling(max_tokens=2, temperature=0)), cell_id="c")
    parts = ask(session)["run"]["parts"]
    assert [name for name, _ in parts] == ["system", "user", "template overhead"]
    assert sum(tokens for _, tokens in parts) == generation.usage.input_tokens


def test_long_texts_are_cut_and_say_so(make_session: Make) -> None:
    session = make_session(model="scripted")
    session.generate(Prompt((Message("system", "s" * MOST_CHARS), Message("user", "u" * 10))), cell_id="c")
    run = ask(session)["run"]
    assert [(len(it["text"]), it["cut"]) for it in run["messages"]] == [(MOST_CHARS, False), (0, True)]
    cut = detail_wire(Request("c", 1, None), [], Detail(record(), pieces=[Piece("x" * 10**6, None)]), more=False)
    assert len(cut["run"]["answer"]["pieces"][0][0]) == MOST_CHARS
    assert cut["run"]["answer"]["cut"] is True


def test_a_probability_of_zero_is_no_number_on_the_wire() -> None:
    detail = Detail(record(), pieces=[], logprobs=[Logprob("a", float("-inf")), Logprob("b", -1.0)])
    message = detail_wire(Request("c", 1, None), [], detail, more=False)
    assert message["run"]["answer"]["logprobs"] == [["a", None], ["b", -1.0]]
    json.dumps(message, allow_nan=False)


@pytest.mark.parametrize("change", [{"cell_id": 3}, {"seq": None}, {"seq": True}, {"run_id": 4}], ids=repr)
def test_a_request_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'detail'"):
        parse({**FIXTURE["request"], **change})


def test_prompts_are_compared_line_by_line_unless_they_are_long() -> None:
    one = [Message("user", "a\nb\nc\nd\ne")]
    other = [Message("user", "a\nb\nc\nD\ne")]
    assert changes.lines(one, other) == [("…", ""), (" ", "c"), ("-", "d"), ("+", "D"), (" ", "e")]
    assert changes.lines(one, one) == []
    assert changes.lines(one, [Message("system", "a\nb\nc\nd\ne")]) is not None
    assert changes.lines(one, [Message("user", "\n" * changes.MOST_LINES)]) is None


def test_python_that_asks_for_the_same() -> None:
    whole = record(params={"max_tokens": 9, "n": 1, "stop": ["\n"], "completion": True, "ignore_eos": True})
    for messages in (ASK, ASK[1:], (Message("user", "half \ud83d"),)):
        call = ast.parse(as_python(whole, messages)).body[1]
        assert isinstance(call, ast.Expr)
        assert isinstance(call.value, ast.Call)
        (prompt,) = map(ast.literal_eval, call.value.args)
        given = {str(it.arg): ast.literal_eval(it.value) for it in call.value.keywords}
        assert given == {"model": "gpt", "max_tokens": 9, "n": 1, "stop": ("\n",), "completion": True}
        listed = [{"role": it.role, "content": it.content} for it in messages]
        assert prompt == (messages[0].content if len(messages) == 1 else listed)


def test_curl_names_the_keys_variable_and_never_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_API_KEY", "sk-secret")
    text = as_curl(record(), ASK, SPEC)
    assert text is not None
    assert "sk-secret" not in text
    words = shlex.split(text.replace("\\\n", ""))
    assert words[:3] == ["curl", "--no-buffer", "https://api.example.com/v1/chat/completions"]
    assert "Authorization: Bearer $EXAMPLE_API_KEY" in words
    body = json.loads(words[-1])
    assert body["messages"] == [{"role": it.role, "content": it.content} for it in ASK]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("openai/gpt-5-mini", 256, 0.5)
    given_as_name = as_curl(record(), ASK, replace(SPEC, api_key_name="sk_secret"))
    assert given_as_name is not None
    assert "sk_secret" not in given_as_name
    no_key = as_curl(record(), ASK, replace(SPEC, api_key_name=None))
    assert no_key is not None
    assert "Authorization" not in no_key


def test_there_is_no_curl_without_a_server_or_for_what_it_does_not_take() -> None:
    assert as_curl(record(info=replace(INFO, server=None)), ASK, SPEC) is None
    assert as_curl(record(params={"top_k": 3, "max_tokens": 4}), ASK, replace(SPEC, server="openai")) is None
