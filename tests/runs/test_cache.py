"""The answer cache: what is identical, what a replay says of itself, and what a person types; both databases."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands import command_in
from tests.kernels import Kernel, is_told, running_kernel
from tokmagic import reports as report
from tokmagic.core.budget import Budget
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import CacheStatus, EngineInfo, Selection, Sum
from tokmagic.core.stream import Finished, Started, Token, Usage
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import BudgetError, UsageError
from tokmagic.formatting import numbers
from tokmagic.magics.cache import table
from tokmagic.prices import reprice
from tokmagic.runs import api, cache
from tokmagic.runs.generation import Choice
from tokmagic.runs.live import row_wire
from tokmagic.runs.session import Session

Make = Callable[..., Session]
GREEDY = Prompt((Message("user", "Why?"),), Sampling(temperature=0))
DOLLARS = Rates(input=Decimal(1), output=Decimal(2), source="%price")
ODD = ["\U0001f469\u200d\U0001f680", "\r\n", "a\0b", "\udce9", " \u2028\ufeff", "$x$ <b>\t", ""]
SMOLLM = EngineInfo(
    "smollm2",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "local",
    revision="abc",
    device="cuda:0",
    dtype="bfloat16",
    quant="nf4",
    tokenizer_sha256="f00",
)
CHAT = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?"))
FULL = Prompt(CHAT, Sampling(100, 0.5, 0.9, 40, 0.1, 1.1, ("a", "b"), 7, 2))


@pytest.fixture
def ledger_url(database_url: str) -> str:
    """Everything here holds for each database."""
    return database_url


@pytest.fixture
def session(make_session: Make) -> Session:
    return many_answers(make_session(store_text=True))


def answer_with(session: Session, *scripts: Script) -> ScriptedEngine:
    """Give a session one model, which answers with these scripts in turn."""
    engine = ScriptedEngine("m", scripts)
    session.models.engine = lambda _name=None: engine  # type: ignore[method-assign]
    session.prices.set("m", DOLLARS)
    return engine


def many_answers(session: Session) -> Session:
    """Give a session a model whose answers differ from run to run."""
    answer_with(session, *[Script.of_text([f"answer {number}"], input_tokens=7) for number in range(20)])
    return session


def ask(**sampling: Any) -> Prompt:
    return replace(GREEDY, sampling=Sampling(**sampling))


def statuses(session: Session, *prompts: Prompt, **options: Any) -> list[str]:
    return [session.generate(prompt, **options).raise_for_status().status for prompt in prompts]


def kept(session: Session) -> int:
    return session.ledger().cache_status().answers


# What is identical


def test_a_key_is_one_for_ever() -> None:
    """Written down, so that a change of what is digested is made on purpose, with a new version."""
    assert cache.key(SMOLLM, FULL) == "2c6022ad07ce76d3742f63b7b3d0472b0d77ad6ef511d04715eac00be661ca3e"


OTHERS: dict[str, tuple[EngineInfo, Prompt]] = {
    **{
        name: (replace(SMOLLM, **{name: other}), FULL)
        for name, other in {
            "model_id": "x/y",
            "engine": "endpoint",
            "revision": "abd",
            "device": "cpu",
            "dtype": "float16",
            "quant": None,
            "tokenizer_sha256": "f01",
        }.items()
    },
    **{
        f"sampling {name}": (SMOLLM, replace(FULL, sampling=replace(FULL.sampling, **{name: other})))
        for name, other in {
            "max_tokens": 101,
            "temperature": 0.51,
            "top_p": 0.91,
            "top_k": 41,
            "min_p": None,
            "repetition_penalty": 1.0,
            "stop": ("a",),
            "seed": None,
            "n": 1,
            "json_schema": "{}",
            "logprobs": True,
        }.items()
    },
    "server": (replace(SMOLLM, server="http://localhost:8000/v1"), FULL),
    "completion": (SMOLLM, replace(FULL, completion=True)),
    "no history": (SMOLLM, replace(FULL, messages=CHAT[-1:])),
    "other history": (SMOLLM, replace(FULL, messages=(*CHAT[:2], Message("assistant", "Hello!"), CHAT[3]))),
    "role": (SMOLLM, replace(FULL, messages=(Message("user", "Be brief."), *CHAT[1:]))),
    "split": (SMOLLM, replace(FULL, messages=(*CHAT[:3], Message("user", "Why"), Message("user", "?")))),
}


@pytest.mark.parametrize("part", OTHERS)
def test_each_part_of_the_question_makes_another_key(part: str) -> None:
    assert cache.key(*OTHERS[part]) != cache.key(SMOLLM, FULL)


@pytest.mark.parametrize("part", ["info", "usage"])
def test_an_answer_that_a_later_version_kept_is_read_without_what_it_says_more(part: str) -> None:
    """A team's ledger is used by several versions at once."""
    kept = answer(Choice("Hi", (), "stop"))
    body = json.loads(cache.dump("k", kept).partition(" ")[2])
    body[part]["of_later"] = 1
    text = json.dumps(body)
    digest = hashlib.sha256(("k\n" + text).encode()).hexdigest()
    assert cache.parse("k", "r1", f"{digest} {text}") == kept


def test_where_the_template_names_the_date_each_day_is_another_question() -> None:
    one, other = (replace(SMOLLM, dated=form) for form in ("%d %b %Y", "26 Jul 2024"))
    today = replace(SMOLLM, dated=f"{datetime.now():%d %b %Y}")
    assert len({cache.key(it, FULL) for it in (one, today, other, SMOLLM)}) == 3, "the date counts, not its form"
    plain = replace(FULL, completion=True)
    assert cache.key(one, plain) == cache.key(SMOLLM, plain), "which no template fills in"


def test_the_key_knows_every_sampling_option() -> None:
    asked = {name.removeprefix("sampling ") for name in OTHERS if name.startswith("sampling ")}
    assert asked == set(Sampling.__dataclass_fields__)


def test_what_makes_no_difference_makes_no_other_key() -> None:
    one = cache.key(SMOLLM, FULL)
    assert cache.key(replace(SMOLLM, name="mine", device="cuda:1", context_tokens=8192), FULL) == one
    assert cache.key(SMOLLM, replace(FULL, sampling=replace(FULL.sampling, stop=("b", "a", "b")))) == one
    zeros = [replace(GREEDY, sampling=Sampling(temperature=zero)) for zero in (0, 0.0, -0.0)]
    assert len({cache.key(SMOLLM, prompt) for prompt in zeros}) == 1


def test_half_characters_are_not_the_whole_one() -> None:
    halves = Prompt((Message("user", "\ud83d\ude00"),))
    assert cache.key(SMOLLM, halves) != cache.key(SMOLLM, Prompt((Message("user", "\U0001f600"),)))


ANY_TEXT = st.text(st.characters(exclude_categories=()))


def answer(*choices: Choice) -> cache.Answer:
    usage = Usage(input_tokens=7, output_tokens=5, input_source="measured", output_source="estimated")
    return cache.Answer("r1", replace(SMOLLM, name="", device_name="A GPU"), usage, 0.25, choices)


@given(ANY_TEXT, st.lists(st.integers(0, 2**40)), ANY_TEXT)
def test_what_is_kept_comes_back_as_it_was(text: str, tokens: list[int], other: str) -> None:
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for text in (text, other)]
    before = answer(Choice(texts[0], tuple(tokens), "stop"), Choice(texts[1], (), "length", reasoning=texts[0]))
    written = cache.dump("k", before)
    assert "\0" not in written
    written.encode()
    assert cache.parse("k", "r1", written) == before


@given(st.integers(0, 10_000), st.characters())
def test_what_is_damaged_is_nothing(at: int, wrong: str) -> None:
    written = cache.dump("k", answer(Choice("Because.", (1, 2), "stop")))
    at %= len(written)
    cut, changed = written[:at], f"{written[:at]}{wrong}{written[at + 1 :]}"
    assert cache.parse("k", "r1", cut) is None
    assert changed == written or cache.parse("k", "r1", changed) is None
    assert cache.parse("another", "r1", written) is None


# Replays


def test_an_identical_run_is_replayed_byte_for_byte_at_no_cost(make_session: Make) -> None:
    session = make_session(store_text=True)
    answer_with(session, Script.of_text(ODD, input_tokens=7, ttft_s=0.5), Script.of_text(["other"]))
    session.notebook = "/n.ipynb"
    first = session.generate(GREEDY, cell_id="c1")
    session.prices.set("m", replace(DOLLARS, input=Decimal(3)))
    shown: list[str] = []
    again = session.generate(GREEDY, cell_id="c2", tags=["t"], watcher=type("W", (), {"token": shown.append}))
    assert first.status == "ok"
    assert (again.text, again.choices, again.usage) == ("".join(ODD), first.choices, first.usage)
    assert again.tokens == first.tokens == tuple(range(len(ODD)))
    assert shown == ["".join(ODD)], "at once"
    before, row = session.ledger().runs()
    assert (before, row) == (first.record, again.record)
    assert (row.status, row.finish_reason, row.replay_of) == ("cached", "stop", first.run_id)
    assert (row.cell_id, row.notebook, row.tags, row.run_id == first.run_id) == ("c2", "/n.ipynb", ("t",), False)
    assert (row.reading.usage.input_source, row.reading.usage.output_source) == ("measured", "measured")
    cost = row.reading.cost
    assert (cost.usd, cost.saved_usd) == (0, Decimal("0.000035")), "7 × 3 + 7 × 2 per million, the rates of now"
    assert before.reading.cost.usd == Decimal("0.000021")
    assert again.footer == "7 → 7 tokens · $0 · m · cached · saved $0.000035"
    reading = row.reading
    times = (reading.ttft_s, reading.latency_s, reading.itl_mean_s, reading.output_tokens_per_s, reading.device_s)
    assert (*times, reading.spark_ms) == (*[None] * 5, ())
    wire = row_wire(row)
    assert (wire["status"], wire["cost_usd"], wire["saved_usd"], wire["ttft_s"]) == ("cached", "0", "0.000035", None)
    assert session.ledger().texts(row.run_id) == session.ledger().texts(first.run_id)
    assert session.ledger().cache_status() == CacheStatus(1, session.ledger().cache_status().size_bytes, Sum.of([row]))


def test_reports_leave_replays_out_of_latencies_and_show_what_was_saved(session: Session) -> None:
    statuses(session, *[GREEDY] * 4)
    (line, total) = report.table(session.ledger(), session.selection, "model").rows
    assert line[1:] == ("4", "28", "4", "$0.000009", "$0.000027", "0.20 s", "—")
    assert total[1:] == line[1:]
    assert session.ledger().totals(Selection()).cost_usd == Decimal("0.000009")


def test_a_changed_temperature_is_a_miss(session: Session) -> None:
    prompts = [ask(temperature=0.5, seed=1), ask(temperature=0.5, seed=1), ask(temperature=0.6, seed=1)]
    assert statuses(session, *prompts) == ["ok", "cached", "ok"]


def test_a_changed_history_is_a_miss(session: Session) -> None:
    chat = replace(FULL, sampling=GREEDY.sampling)
    other = replace(chat, messages=(*CHAT[:2], Message("assistant", "Hello!"), CHAT[3]))
    assert statuses(session, chat, other, chat, other) == ["ok", "ok", "cached", "cached"]


def test_another_model_is_a_miss(session: Session) -> None:
    session.generate(GREEDY)
    answer_with(session, Script.of_text(["another file's answer"]))
    assert session.generate(GREEDY).text == "another file's answer"


def test_only_what_repeats_is_cached_unless_it_is_asked_for(session: Session) -> None:
    drawn = ask(temperature=0.7)
    assert statuses(session, drawn, drawn, ask(), ask()) == ["ok"] * 4
    assert kept(session) == 0
    assert statuses(session, drawn, drawn, cache=True) == ["ok", "cached"]
    assert statuses(session, drawn) == ["ok"]
    assert statuses(session, ask(seed=0), ask(seed=0)) == ["ok", "cached"]


def test_a_run_may_stay_out_of_the_cache(session: Session) -> None:
    assert statuses(session, GREEDY, GREEDY, cache=False) == ["ok", "ok"]
    assert kept(session) == 0
    first = session.generate(GREEDY).text
    assert session.generate(GREEDY, cache=False).text != first
    assert session.generate(GREEDY).text == first


def test_an_answer_may_be_renewed(session: Session) -> None:
    first = session.generate(GREEDY).text
    renewed = session.generate(GREEDY, refresh=True)
    assert (renewed.status, renewed.text == first) == ("ok", False)
    again = session.generate(GREEDY)
    assert (again.status, again.text, again.record.replay_of) == ("cached", renewed.text, renewed.run_id)
    assert kept(session) == 1
    drawn = ask(temperature=0.7)
    renewed = session.generate(drawn, refresh=True)
    assert session.generate(drawn, cache=True).text == renewed.text, "asking for a renewal asks for the cache"


def test_off_is_off_whatever_is_asked(make_session: Make) -> None:
    session = make_session(model="scripted", store_text=True, cache=False)
    assert statuses(session, GREEDY, GREEDY, cache=True) == ["ok", "ok"]
    assert statuses(session, GREEDY, refresh=True) == ["ok"]
    assert kept(session) == 0
    session.settings.cache = True
    assert statuses(session, GREEDY, GREEDY) == ["ok", "cached"]


def test_no_answer_is_kept_where_texts_are_not(make_session: Make) -> None:
    session = make_session(model="scripted", store_text=False)
    assert statuses(session, GREEDY, GREEDY, cache=True) == ["ok", "ok"]
    session.ledger().keep_answer("k", "r", "text", 1000)
    assert kept(session) == 0


def test_several_samples_are_replayed_together(session: Session) -> None:
    usage = Usage(input_tokens=3, output_tokens=3, input_source="measured", output_source="measured")
    tokens = (Token(1, "one", 11), Token(2, "two", 12, 1), Token(3, "!", 13, 1))
    end = Finished(3, ("length", "stop"), usage, ("", "?"))
    answer_with(session, Script((Started(0, usage, 0), *tokens, end)))
    first, again = (session.generate(ask(temperature=1.0, seed=1, n=2)) for _ in range(2))
    assert again.status == "cached"
    assert again.choices == first.choices == (Choice("one", (11,), "length"), Choice("two!?", (12, 13), "stop"))


def test_a_saving_whose_price_is_unknown_is_unknown(make_session: Make) -> None:
    session = make_session(model="scripted", store_text=True)
    _, again = (session.generate(GREEDY) for _ in range(2))
    assert (again.cost.usd, again.cost.saved_usd) == (0, None)
    assert again.footer == "12 → 19 tokens · $0 · scripted · cached · saved —"
    session.prices.set("scripted", DOLLARS)
    session.generate(GREEDY)
    hits = session.ledger().cache_status().hits
    assert (hits.runs, hits.saved_usd, hits.unpriced_hits) == (2, Decimal("0.00005"), 1)


CHEAPER = replace(DOLLARS, cached=Decimal("0.1"))
DEARER = replace(DOLLARS, cache_write=Decimal(3))


def ends(**usage: Any) -> Script:
    """A script of a server that reports 10 tokens each way, but for what ``usage`` says."""
    known = Usage(input_tokens=10, output_tokens=10, input_source="reported", output_source="reported")
    given = replace(known, cached_input_tokens=0, cache_write_input_tokens=0)
    return Script((Started(0, known, 0), Token(1, "Because"), Finished(2, ("stop",), replace(given, **usage))))


@pytest.mark.parametrize(
    ("rates", "usage", "saved"),
    [
        (CHEAPER, {}, "$0.00003"),
        (CHEAPER, {"output_source": "estimated"}, "~$0.00003"),
        (CHEAPER, {"cached_input_tokens": None}, "≤$0.00003"),
        (DEARER, {"cache_write_input_tokens": None}, "≥$0.00003"),
        (DEARER, {"cache_write_input_tokens": None, "output_source": "estimated"}, "~≥$0.00003"),
    ],
    ids=["sure", "estimated", "at most", "at least", "both"],
)
def test_what_is_saved_is_as_sure_as_its_bill_would_be(
    session: Session, rates: Rates, usage: dict[str, Any], saved: str
) -> None:
    answer_with(session, ends(**usage))
    session.prices.set("m", rates)
    first, again = (session.generate(GREEDY) for _ in range(2))
    assert (again.status, again.cost.usd) == ("cached", 0)
    assert again.footer.endswith(f" tokens · $0 · m · cached · saved {saved}"), "that it costs nothing is sure"
    (kept,) = session.ledger().runs(Selection(status="cached"))
    assert kept == again.record
    wire = row_wire(kept)
    assert (wire["cost_usd"], wire["cost_source"], wire["cost_bound"]) == ("0", first.cost.source, first.cost.bound)
    assert reprice(kept, session.prices) == again.cost
    assert numbers.cost(first.cost) == saved
    by_status = report.table(session.ledger(), session.selection, "status")
    assert [row[4:6] for row in by_status.rows] == [(saved, "—"), ("$0", saved), (saved, saved)]
    exact = by_status.as_dicts()[1]
    assert (exact["cost_estimated"], exact["cost_bound"]) == (False, "exact")
    mark = "~" * exact["saved_estimated"] + {"exact": "", "at_least": "≥", "at_most": "≤"}[exact["saved_bound"]]
    assert mark == saved.partition("$")[0]
    assert table(session).rows[0][-1] == saved


def test_savings_without_a_price_make_their_sum_a_lower_bound(session: Session) -> None:
    answer_with(session, ends())
    session.prices.set("m", Rates())
    statuses(session, GREEDY, GREEDY)
    session.prices.set("m", DOLLARS)
    statuses(session, GREEDY)
    assert [row[5] for row in report.table(session.ledger(), session.selection, "model").rows] == ["≥$0.00003"] * 2
    assert table(session).rows[0][-1] == "≥$0.00003"


def test_where_device_time_is_the_bill_that_is_what_was_saved(session: Session) -> None:
    answer_with(session, Script.of_text(["a", "b"], ttft_s=1.0, itl_s=1.0))
    session.prices.set("m", Rates(device_hour=Decimal("0.36"), source="list price, somewhere"))
    first, again = (session.generate(GREEDY) for _ in range(2))
    assert first.cost.usd == Decimal("0.0002"), "2 s at $0.36 an hour"
    assert (again.cost.usd, again.cost.saved_usd, again.cost.compute_usd) == (0, Decimal("0.0002"), None)
    assert again.footer.endswith("saved $0.0002 at list price")


def test_a_hit_passes_where_a_budget_is_used_up(session: Session) -> None:
    session.generate(GREEDY)
    session.ledger().set_budget(Budget("day", Decimal("0.000009"), user=session.user))
    with pytest.raises(BudgetError):
        session.generate(ask(seed=1)).raise_for_status()
    assert session.generate(GREEDY).raise_for_status().status == "cached"
    (day,) = session.standings()
    assert (day.spent_usd, day.spent_tokens) == (Decimal("0.000009"), 8), "the original's, once"


def test_only_what_ended_well_is_kept(session: Session) -> None:
    class Interrupt:
        def token(self, _text: str) -> None:
            raise KeyboardInterrupt

    assert session.generate(GREEDY, watcher=Interrupt()).status == "interrupted"
    answer_with(session, Script.of_text(["half an "], error="the device fell off the bus"), Script.of_text(["answer"]))
    assert session.generate(GREEDY).status == "failed"
    usage = Usage(input_tokens=3, output_tokens=1)
    endless = Script((Started(0, usage, 0), Token(1, "no end")))
    broken = Script((Started(0, usage, 0), Token(1, "x", 1), Finished(2, ("error",), usage)))
    answer_with(session, endless, broken)
    assert statuses(session, ask(seed=1), ask(seed=2)) == ["ok", "ok"]
    assert kept(session) == 0
    answer_with(session, Script.of_text(["a", "b", "c"]))
    cut = ask(temperature=0, max_tokens=2)
    assert statuses(session, cut, cut) == ["ok", "cached"]


def test_what_would_not_come_back_as_it_was_is_not_kept(session: Session) -> None:
    """JSON joins two halves of a character that stand side by side, which no tokenizer's decoder makes."""
    answer_with(session, Script.of_text(["\ud83d", "\ude00"]), Script.of_text(["other"]))
    assert statuses(session, GREEDY, GREEDY, GREEDY) == ["ok", "ok", "cached"]


def test_other_sessions_of_the_ledger_share_its_answers(session: Session, make_session: Make) -> None:
    first = session.generate(GREEDY)
    other = make_session(store_text=True)
    engine = ScriptedEngine("by another name", [Script.of_text([f"answer {n}"], input_tokens=7) for n in range(20)])
    other.models.engine = lambda _name=None: engine  # type: ignore[method-assign]
    again = other.generate(GREEDY)
    assert (again.status, again.text, again.model) == ("cached", first.text, "by another name")


# What a person types


def test_from_python(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(model="scripted", store_text=True)
    monkeypatch.setattr(api, "_session", session)

    def ended(**options: Any) -> str:
        return api.generate("Why?", **options).status

    assert [ended(seed=1), ended(seed=1), ended(seed=1, refresh=True), ended(seed=1, cache=False)] == [
        *("ok", "cached", "ok", "ok")
    ]
    assert [ended(), ended(cache=True), ended(cache=True)] == ["ok", "ok", "cached"]
    for wrong in ({"cache": "yes"}, {"refresh": None}, {"cache": False, "refresh": True}):
        with pytest.raises(UsageError, match=r"give (True or False|one of them)"):
            ended(**wrong)


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "0x10"])
def test_a_limit_that_is_none_is_told_before_anything_runs(
    make_session: Make, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TOKMAGIC_CACHE_BYTES", value)
    session = make_session(model="scripted", store_text=True)
    with pytest.raises(UsageError, match=f"TOKMAGIC_CACHE_BYTES is '{value}'; give a whole number of bytes"):
        session.generate(GREEDY)
    assert session.ledger().runs() == []


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = command_in(tmp_path, capsys)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return command("run", "--input", "1", "--output", "2", *words, text="Why?", TOKMAGIC_MODEL="scripted")

    first, again = run("--seed", "1"), run("--seed", "1")
    assert first.stdout.startswith("This answer is scripted")
    assert again.stdout == first.stdout
    assert again.stderr == "12 → 19 tokens · $0 · scripted · cached · saved $0.00005\n"
    shown = json.loads(run("--seed", "1", "--json").stdout)
    assert (shown["status"], shown["cost_usd"], shown["saved_usd"]) == ("cached", "0", "0.00005")
    for option in ("--no-cache", "--refresh"):
        assert json.loads(run("--seed", "1", "--json", option).stdout)["status"] == "ok"
    assert [json.loads(run("--json", "--cache").stdout)["status"] for _ in range(2)] == ["ok", "cached"]
    wrong = run("--no-cache", "--refresh")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--no-cache" in wrong.stderr


@pytest.fixture
def kernel(tmp_path: Path, sqlite_url: str) -> Iterator[Kernel]:
    with running_kernel(TOKMAGIC_HOME=str(tmp_path), TOKMAGIC_LEDGER=sqlite_url, TOKMAGIC_MODEL="scripted") as running:
        loaded = running.run("%load_ext tokmagic\n%price scripted --input 1 --output 2")
        assert loaded.ok, loaded.error
        yield running


@pytest.mark.slow
def test_in_a_notebook(kernel: Kernel, sqlite_url: str) -> None:
    def table(source: str = "%cache") -> str:
        ran = kernel.run(source)
        assert ran.ok, ran.error
        return str(ran.results[0]["data"]["text/plain"])

    assert " ".join(table().split()) == "cache answers size at most hits saved on 0 0 bytes 256 MiB 0 —"
    first = kernel.run("%%generate --seed 1 --chat c --into one\nWhy?", cell_id="a")
    again = kernel.run("%%generate --seed 1 --chat c --reset --into two\nWhy?", cell_id="b", until=is_told("b"))
    assert first.ok
    assert again.ok, again.error
    values = "two.status, two.text == one.text, two.tokens == one.tokens, len(two.text)"
    assert kernel.value(values) == "('cached', True, True, 92)"
    footer = "12 → 19 tokens · $0 · scripted · cached · saved $0.00005"
    assert kernel.value("two.footer") == repr(footer)
    final = again.displays[-1]
    assert footer in final["data"]["text/plain"]
    wire = [row for snapshot in again.snapshots for row in snapshot["rows"] if row["cell_id"] == "b"]
    assert wire[-1] == final["metadata"]["tokmagic"]
    assert (wire[-1]["status"], wire[-1]["cost_usd"], wire[-1]["saved_usd"]) == ("cached", "0", "0.00005")
    assert again.snapshots[-1]["totals"]["notebook"]["cost_usd"] == "0.00005", "only the first was paid for"
    assert again.results == [], "shown once"
    assert kernel.run("%%generate --seed 1 --chat c --into three\nAnd then?").ok
    assert kernel.value("[m.content == two.text for m in three.prompt.messages]") == "[False, True, False]"
    assert table().splitlines()[1].split()[:2] == ["on", "2"]
    assert table().splitlines()[1].split()[-2:] == ["1", "$0.00005"]
    assert table("%cost by status").count("$0.00005") == 2, "saved, in its line and in the total"

    def status(options: str) -> str:
        ran = kernel.run(f"%%generate {options} --into it\nWhy?")
        assert ran.ok, ran.error
        return kernel.value("it.status")

    assert [status(f"--seed 1 {option}") for option in ("--no-cache", "--refresh", "")] == [
        *("'ok'", "'ok'", "'cached'")
    ]
    assert [status(""), status("--cache"), status("--cache")] == ["'ok'", "'ok'", "'cached'"]
    assert table("%cache off").splitlines()[1].startswith("off")
    assert status("--seed 1") == "'ok'"
    assert table("%cache on").splitlines()[1].startswith("on")
    assert status("--seed 1") == "'cached'"
    assert table("%cache clear").splitlines()[1].split()[1] == "0"
    assert status("--seed 1") == "'ok'"
    told = "since texts are not kept (TOKMAGIC_STORE_TEXT=off)"
    assert told in table("%config TokMagic.store_text = False\n%cache")
    for source, says in (
        ("%cache of", "did you mean off"),
        ("%%generate --no-cache --refresh\nHi", "--refresh uses it"),
        ("%%generate --no-cache --cache\nHi", "--cache uses it"),
    ):
        wrong = kernel.run(source)
        assert not wrong.ok
        assert says in wrong.error
        assert "\n" not in wrong.error
