"""Runs of the local engine at the same time: each gets what it gets alone, and only its share of the time."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import played
from tests.engines.held import held
from tests.engines.test_local_engine import STORY, ask, configured, finished, ids_of, model_folder, text_of
from tests.examples import first
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt
from tokmagic.core.stream import Event, Started, Token
from tokmagic.engines.base import Engine, ModelSpec
from tokmagic.engines.local import engine as local
from tokmagic.errors import ContextError, ModelError, TokmagicError, UsageError
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.model

SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}'
)
GPU = "a GPU that is played"
RUNS: dict[str, Prompt] = {
    "greedy": ask(STORY, temperature=0, max_tokens=30),
    "greedy, shorter": ask("Name two seas.", temperature=0, max_tokens=7),
    "sampled": ask("Why do cats purr?", temperature=0.9, top_p=0.9, seed=3, max_tokens=25),
    "several": ask("Say yes or no.", temperature=1.2, seed=5, n=3, max_tokens=20),
    "with a penalty": ask("List some fruits.", temperature=0, repetition_penalty=1.3, max_tokens=20),
    "with log probabilities": ask("What is rain?", temperature=0.7, min_p=0.05, seed=9, logprobs=True, max_tokens=15),
    "with a schema": ask("Is it so?", temperature=0, json_schema=SCHEMA, max_tokens=40),
    "a long prompt": ask("word " * 700, temperature=0, max_tokens=5),
}


@pytest.fixture(scope="module", params=["a CPU", pytest.param(GPU, marks=pytest.mark.slow)])
def session(
    tiny_home: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Session]:
    ledger = tmp_path_factory.mktemp("batches") / "ledger.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == GPU:
            played(patch)
        opened = Session(TokMagic(home=str(tiny_home), ledger=f"sqlite:///{ledger}"))
        yield opened
        opened.close()


@pytest.fixture
def engine(session: Session) -> Engine:
    return session.load("smollm2")


def together(engine: Engine, prompts: list[Prompt]) -> list[list[Event]]:
    """The events of runs that are submitted before the first of them has ended."""
    with held():
        streams = [engine.stream(prompt) for prompt in prompts]
    return [list(stream) for stream in streams]


def answers(events: list[Event], n: int = 1) -> list[Any]:
    """All that a person sees of a run, and what is counted."""
    logprobs = [
        pytest.approx(it.logprob, abs=1e-3) for event in events if isinstance(event, Token) for it in event.logprobs
    ]
    end = finished(events)
    return [[ids_of(events, choice) for choice in range(n)], end.reasons, end.usage.output_tokens, end.tails, logprobs]


def test_each_run_gets_what_it_gets_alone(engine: Engine) -> None:
    alone = [answers(list(engine.stream(prompt)), prompt.sampling.n) for prompt in RUNS.values()]
    beside = [
        answers(events, prompt.sampling.n)
        for events, prompt in zip(together(engine, list(RUNS.values())), RUNS.values(), strict=True)
    ]
    assert dict(zip(RUNS, beside, strict=True)) == dict(zip(RUNS, alone, strict=True))


def test_runs_at_once_take_turns_by_the_token(engine: Engine) -> None:
    one, other = together(engine, [ask(STORY, temperature=0, max_tokens=30), ask("Hi", temperature=0, max_tokens=30)])
    first, last = [[event.at_ns for event in events if isinstance(event, Token)] for events in (one, other)]
    assert first[0] < last[-1]
    assert last[0] < first[-1]


def test_a_run_joins_one_that_is_under_way(engine: Engine) -> None:
    long, short = ask(STORY, temperature=0, max_tokens=200), ask("Hi", temperature=0, max_tokens=3)
    alone = ids_of(list(engine.stream(long))), ids_of(list(engine.stream(short)))
    with held() as let:
        stream = engine.stream(long)
        let(10)
        begun = [next(stream) for _ in range(5)]
        joining = engine.stream(short)
    joined, rest = list(joining), [*begun, *stream]
    assert (ids_of(rest), ids_of(joined)) == alone
    assert joined[-1].at_ns < rest[-1].at_ns  # type: ignore[union-attr]


def test_device_seconds_add_up_to_the_busy_time(engine: Engine) -> None:
    runs = together(engine, list(RUNS.values()))
    began = min(events[0].prefill_ns or 0 for events in runs if isinstance(events[0], Started))
    busy_s = (max(finished(events).at_ns for events in runs) - began) / 1e9
    shares = [finished(events).device_s or 0 for events in runs]
    assert all(share > 0 for share in shares)
    assert sum(shares) == pytest.approx(busy_s, rel=0.01)


def test_making_another_prompt_ready_is_none_of_a_runs_device_seconds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long one takes a while to tokenise, and a process's first schema seconds."""
    slow_s, encode = 0.25, Tokenizer.encode

    def slowly(tokenizer: Tokenizer, prompt: Prompt) -> tuple[int, ...]:
        time.sleep(slow_s if "slow" in prompt.messages[0].content else 0)
        return encode(tokenizer, prompt)

    monkeypatch.setattr(Tokenizer, "encode", slowly)
    with held() as let:
        going = engine.stream(ask(STORY, temperature=0))
        let(3)
        begun = [next(going) for _ in range(3)]
        joining = engine.stream(ask("slow", temperature=0))
    joined = list(joining)
    one, other = finished([*begun, *going]), finished(joined)
    assert isinstance(begun[0], Started)
    assert isinstance(joined[0], Started)
    for run, from_ns in ((one, begun[0].prefill_ns or 0), (other, joined[0].submitted_ns)):
        taken_s = (run.at_ns - from_ns) / 1e9
        assert taken_s > slow_s
        assert 0 < (run.device_s or 0) <= taken_s - slow_s


@pytest.mark.parametrize("config", first(1, [{}, {"no_repeat_ngram_size": 2}]), ids=["here", "by transformers"])
def test_what_is_waited_for_another_models_pass_is_no_device_second(
    session: Session, tmp_path: Path, config: dict[str, Any]
) -> None:
    import torch

    from tokmagic.engines.local.passes import alone

    model = configured(model_folder(Path(session.settings.home)), tmp_path, eos_token_id=2, **config)
    engine = session.load(model, keep_others=True)
    list(engine.stream(ask("Hi", temperature=0, max_tokens=2)))  # what is slow the first time
    with alone(torch.device(engine.info.device or "cpu")):
        stream = engine.stream(ask(STORY, temperature=0, max_tokens=5))
        begun = next(stream)
        time.sleep(2)
    events = [begun, *stream]
    assert isinstance(begun, Started)
    taken_s = (finished(events).at_ns - begun.submitted_ns) / 1e9
    assert 0 < (finished(events).device_s or 0) <= taken_s - 1.9
    session.models.unload(model)


def test_a_beginning_that_prompts_share_is_computed_once(engine: Engine) -> None:
    shared = "The rules of the house are long. " * 140
    prompts = [ask(f"{shared}Question {number}?", temperature=0, max_tokens=3) for number in range(16)]
    alone = [ids_of(list(engine.stream(prompt))) for prompt in prompts]
    runs = together(engine, prompts)
    usages = [finished(events).usage for events in runs]
    submitted = sum(usage.input_tokens or 0 for usage in usages)
    computed = submitted - sum(usage.cached_input_tokens or 0 for usage in usages)
    assert min(usage.input_tokens or 0 for usage in usages) > 1000
    assert computed <= 0.15 * submitted
    assert [ids_of(events) for events in runs] == alone
    for events in runs:  # what is told at the beginning is what is told at the end
        assert isinstance(events[0], Started)
        assert events[0].usage.cached_input_tokens == finished(events).usage.cached_input_tokens


def test_the_same_prompt_twice_computes_its_last_token_twice(engine: Engine) -> None:
    one, other = together(engine, [ask(STORY, temperature=0)] * 2)
    assert ids_of(one) == ids_of(other)
    usage = finished(other).usage
    assert usage.cached_input_tokens == (usage.input_tokens or 0) - 1


def test_closing_one_ends_that_one(engine: Engine) -> None:
    prompts = [ask(text, temperature=0, max_tokens=60) for text in ("Hi", STORY, "Name two seas.")]
    alone = [ids_of(list(engine.stream(prompt))) for prompt in prompts]
    with held() as let:
        streams = [engine.stream(prompt) for prompt in prompts]
        let(10)
        begun = [next(streams[1]) for _ in range(4)]
        streams[1].close()
    closed, others = [*begun, *streams[1]], [list(streams[0]), list(streams[2])]
    assert finished(closed).reasons == ("interrupted",)
    assert ids_of(closed) == alone[1][: len(ids_of(closed))]
    assert [ids_of(events) for events in others] == [alone[0], alone[2]]


def test_one_closed_before_it_begins_is_told_so(engine: Engine) -> None:
    with held():
        first, waiting = engine.stream(ask(STORY, max_tokens=40)), engine.stream(ask(STORY, max_tokens=2000))
        waiting.close()
    assert finished(list(waiting)).reasons == ("interrupted",)
    assert finished(list(first)).reasons == ("length",)


WRONG: dict[str, tuple[Prompt, type[TokmagicError], str]] = {
    "over the context": (ask("word " * 9000, temperature=0), ContextError, "shorten the prompt"),
    "several greedy answers": (ask("Hi", n=2), UsageError, "add --temperature"),
    "a schema that is none": (ask("Hi", json_schema='{"type": 5}'), UsageError, "schema"),
}


@pytest.mark.parametrize(("prompt", "kind", "says"), WRONG.values(), ids=WRONG)
def test_a_prompt_that_cannot_run_fails_alone(
    engine: Engine, prompt: Prompt, kind: type[TokmagicError], says: str
) -> None:
    good = ask(STORY, temperature=0, max_tokens=20)
    expected = ids_of(list(engine.stream(good)))
    one, wrong, other = [engine.stream(it) for it in (good, prompt, good)]
    with pytest.raises(kind, match=says):
        list(wrong)
    assert [ids_of(list(one)), ids_of(list(other))] == [expected, expected]


def test_memory_that_runs_out_ends_the_run_that_needs_too_much(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokmagic.engines.local.decoder import Decoder

    forward = Decoder.forward

    def short_of_memory(self: Decoder, segments: Any) -> Any:
        # As torch's own allocator says it on a CPU.
        if any(segment.cache.length > 60 for segment in segments):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")
        return forward(self, segments)

    prompts = [ask(text, temperature=0, max_tokens=limit) for text, limit in (("Hi", 10), (STORY, 60), ("Yes?", 10))]
    alone = [ids_of(list(engine.stream(prompt))) for prompt in prompts]
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", short_of_memory)
        streams = [engine.stream(prompt) for prompt in prompts]
        with pytest.raises(ModelError, match=r"out of memory: .* failed at \d+ output tokens; shorten the prompt"):
            list(streams[1])
        assert [ids_of(list(streams[0])), ids_of(list(streams[2]))] == [alone[0], alone[2]]
    assert [ids_of(list(engine.stream(prompt))) for prompt in prompts] == alone


def test_what_memory_would_not_hold_beside_the_others_waits_for_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the first prompt and its answer, and for no other one beside it."""
    prompts = [ask(STORY, temperature=0, max_tokens=30), ask("Hi", temperature=0, max_tokens=30)]
    alone = [ids_of(list(engine.stream(prompt))) for prompt in prompts]
    monkeypatch.setattr("tokmagic.engines.local.inference.available_bytes", lambda _device: 1000)
    first, second = together(engine, prompts)
    assert [ids_of(first), ids_of(second)] == alone
    assert isinstance(second[0], Started)
    assert finished(first).at_ns <= (second[0].prefill_ns or 0)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="in a batch"),
        pytest.param({"no_repeat_ngram_size": 2}, marks=pytest.mark.slow, id="by itself"),
    ],
)
def test_answers_that_memory_cannot_hold_are_refused_before_they_begin(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Memory for four sequences of the shortest room, and none of a longer one."""
    with contextlib.closing(Session(TokMagic(home=str(tiny_home), ledger=f"sqlite:///{tmp_path}/l.sqlite"))) as session:
        model = "here"
        spec = ModelSpec(configured(model_folder(tiny_home), tmp_path, **settings), device="cpu")
        session.models.add(model, spec)
        need = session.load(model).need()
        assert need is not None
        assert need.cache is not None
        free = 4 * need.cache.size(128)
        monkeypatch.setattr("tokmagic.engines.local.memory.free_ram", lambda: free)
        asked = {
            "one": ask("Hi", temperature=0, max_tokens=20),
            "many": ask("Hi", temperature=1.0, seed=1, n=12, max_tokens=60),
            "long": ask("Hi", temperature=0, max_tokens=700),
            "one again": ask("Hi", temperature=0, max_tokens=20),
        }
        found = {name: session.generate(prompt, model, cache=False) for name, prompt in asked.items()}
        assert {name: it.status for name, it in found.items()} == {
            "one": "ok",
            "many": "failed",
            "long": "failed",
            "one again": "ok",
        }
        assert found["one"].tokens == found["one again"].tokens
        for name, said in (("many", "12 answers of up to "), ("long", "1 answer of up to ")):
            told = str(found[name].error)
            assert told.startswith(f"the KV cache for {said}")
            assert told.endswith(" GiB free; lower --max-tokens, or -n, or shorten the prompt")
            assert "\n" not in told
            assert (found[name].usage.output_tokens or 0, found[name].cost.usd or 0) == (0, 0)


def test_what_only_transformers_can_do_runs_by_itself_in_between(session: Session, tmp_path: Path) -> None:
    model = configured(model_folder(Path(session.settings.home)), tmp_path, no_repeat_ngram_size=2, eos_token_id=2)
    engine = session.load(model, keep_others=True)
    runs = together(engine, [ask(STORY, temperature=0, max_tokens=20)] * 3)
    assert len({tuple(ids_of(events)) for events in runs}) == 1
    pairs = list(zip(ids_of(runs[0]), ids_of(runs[0])[1:], strict=False))
    assert len(set(pairs)) == len(pairs)
    spans = [(events[0], finished(events)) for events in runs]
    for (_, before), (after, _) in itertools.pairwise(spans):
        assert isinstance(after, Started)
        assert before.at_ns <= (after.prefill_ns or 0)
    session.models.unload(model)


@pytest.mark.slow
def test_unloading_waits_for_what_runs_and_what_comes_later_is_told(session: Session, engine: Engine) -> None:
    streams = [engine.stream(ask(STORY, temperature=0, max_tokens=30)) for _ in range(3)]
    engine.close()
    for stream in streams:
        assert text_of(list(stream))
    assert engine.state == "unloaded"
    assert text_of(list(session.load("smollm2").stream(ask("Hi", max_tokens=3))))


@pytest.mark.slow
def test_a_prompt_that_is_handed_in_as_its_model_is_unloaded_ends(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread was kept waiting just when it had found the model's thread, which then ended."""
    engine, found, unloaded = session.load("smollm2"), threading.Event(), threading.Event()
    submits, ended = local._Worker.submit, list[object]()

    def submit(it: Any, work: Any, *, is_prompt: bool = False) -> Any:
        if is_prompt:
            found.set()
            unloaded.wait(3)
        return submits(it, work, is_prompt=is_prompt)

    def ask_it() -> None:
        try:
            ended.append(text_of(list(engine.stream(RUNS["greedy, shorter"]))))
        except ModelError as error:
            ended.append(error)

    monkeypatch.setattr(local._Worker, "submit", submit)
    asks = threading.Thread(target=ask_it, daemon=True)
    asks.start()
    assert found.wait(60)
    engine.close()
    unloaded.set()
    asks.join(20)
    assert len(ended) == 1, "it would wait for ever"
