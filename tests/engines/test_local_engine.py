"""The local engine against the model itself: the same ids, exact counts, an end at once, memory given back.

Most of it is tried with the default model's stand-in of a few random layers (``tiny_home``), which answers in a moment
and to which no rounding of 16-bit weights belongs; the default model itself is compared with at the beginning.
torch and transformers are imported where they are used: each worker of the tests reads this file.
"""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.held import held
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Event, Finished, Started, Token
from tokmagic.engines.base import Engine, ModelSpec
from tokmagic.errors import ContextError, PromptError, UsageError
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.model

END = 2  # <|im_end|>
CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "prompts.json").read_text(encoding="utf-8")
)
SOME = [
    case for case in CASES if case["name"] in {"plain English", "Chinese, simplified", "emoji", "empty system message"}
]
SOME += [case for case in CASES if case["name"] in {"Python", "a conversation", "special-token look-alikes"}]
QUICK = {"special-token look-alikes"}
STORY = "Write a long story about a lighthouse keeper and the sea."


@pytest.fixture(scope="module")
def session(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    ledger = tmp_path_factory.mktemp("local") / "ledger.sqlite"
    opened = Session(TokMagic(home=str(tiny_home), ledger=f"sqlite:///{ledger}"))
    yield opened
    opened.close()


@pytest.fixture
def engine(session: Session) -> Engine:
    return session.load("smollm2")


def model_folder(home: Path) -> Path:
    (found,) = (home / "models").glob("*/config.json")
    return found.parent


@pytest.fixture(scope="module")
def folder(tiny_home: Path) -> Path:
    return model_folder(tiny_home)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


def load_bare(folder: Path) -> Any:
    """The model as transformers loads it, without any of our code."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto").eval()


@pytest.fixture(scope="module")
def bare(folder: Path) -> Any:
    return load_bare(folder)


@pytest.fixture(scope="module")
def exact_smollm(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The default model in transformers' own arithmetic."""
    ledger = tmp_path_factory.mktemp("exact") / "ledger.sqlite"
    opened = Session(TokMagic(home=str(model_home), ledger=f"sqlite:///{ledger}"))
    opened.models.add("exact", ModelSpec("smollm2", dtype="bf16"))
    yield opened.load("exact")
    opened.close()


@pytest.fixture(scope="module")
def bare_smollm(model_home: Path) -> Any:
    return load_bare(model_folder(model_home))


def ask(content: str, **sampling: Any) -> Prompt:
    return Prompt((Message("user", content),), Sampling(**{"max_tokens": 12, **sampling}))


def of_case(case: dict[str, Any], **sampling: Any) -> Prompt:
    messages = tuple(Message(message["role"], message["content"]) for message in case["messages"])
    return Prompt(messages, Sampling(**{"max_tokens": 12, **sampling}))


def bare_ids(
    model: Any, tokenizer: Tokenizer, prompt: Prompt, seed: int | None = None, end: int = END, **options: Any
) -> list[list[int]]:
    """The ids ``generate`` adds to the prompt, for each returned sequence, up to its end."""
    import torch

    ids = tokenizer.encode(prompt)
    if seed is not None:
        torch.manual_seed(seed)
    inputs = torch.tensor([ids])
    with torch.inference_mode():
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=prompt.sampling.max_tokens,
            **options,
        )
    rows = [row[len(ids) :].tolist() for row in out]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def ids_of(events: list[Event], choice: int = 0) -> list[int]:
    return [
        event.id for event in events if isinstance(event, Token) and event.choice == choice and event.id is not None
    ]


def text_of(events: list[Event]) -> str:
    end = events[-1]
    assert isinstance(end, Finished)
    return "".join(event.text for event in events if isinstance(event, Token)) + end.tails[0]


def finished(events: list[Event]) -> Finished:
    end = events[-1]
    assert isinstance(end, Finished)
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert isinstance(events[0], Started)
    assert end.usage.output_tokens == sum(isinstance(event, Token) for event in events)
    return end


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case["name"] in QUICK else pytest.mark.slow) for case in SOME],
    ids=[case["name"] for case in SOME],
)
def test_greedy_ids_and_counts_are_the_default_models_own(
    case: dict[str, Any], exact_smollm: Engine, bare_smollm: Any, tokenizer: Tokenizer
) -> None:
    info = exact_smollm.info
    assert (info.device, info.dtype, info.arithmetic) == ("cpu", "bfloat16", "as transformers")
    assert_greedy(exact_smollm, bare_smollm, tokenizer, of_case(case, temperature=0, max_tokens=40))


@pytest.mark.parametrize("case", SOME, ids=[case["name"] for case in SOME])
def test_greedy_ids_and_counts_are_the_models_own(
    case: dict[str, Any], engine: Engine, bare: Any, tokenizer: Tokenizer
) -> None:
    assert_greedy(engine, bare, tokenizer, of_case(case, temperature=0))


def assert_greedy(engine: Engine, bare: Any, tokenizer: Tokenizer, prompt: Prompt) -> None:
    events = list(engine.stream(prompt))
    (expected,) = bare_ids(bare, tokenizer, prompt, do_sample=False)
    assert ids_of(events) == expected
    usage = finished(events).usage
    assert usage.input_tokens == len(tokenizer.encode(prompt)) == engine.count(prompt)
    assert usage.output_tokens == len(expected)
    assert (usage.input_source, usage.output_source) == ("measured", "measured")
    assert (usage.cached_input_tokens, usage.reasoning_tokens) == (0, None)
    assert text_of(events) == tokenizer.decode(expected)


def test_stamps_run_forward_from_the_submission(engine: Engine) -> None:
    events = list(engine.stream(ask(STORY)))
    started, end = events[0], finished(events)
    assert isinstance(started, Started)
    assert started.prefill_ns is not None
    stamps = [event.at_ns for event in events if isinstance(event, Token)]
    order = [started.submitted_ns, started.prefill_ns, *stamps, end.at_ns]
    assert order == sorted(order)
    assert len(set(stamps)) == len(stamps)
    assert end.device_s == (end.at_ns - started.prefill_ns) / 1e9


def test_the_end_of_sequence_is_an_output_token(exact_smollm: Engine, bare_smollm: Any, tokenizer: Tokenizer) -> None:
    prompt = ask("Answer with the one word yes.", max_tokens=60, temperature=0)
    events = list(exact_smollm.stream(prompt))
    assert ids_of(events) == bare_ids(bare_smollm, tokenizer, prompt, do_sample=False)[0]
    assert (ids_of(events)[-1], finished(events).reasons) == (END, ("stop",))
    assert "<|im_end|>" not in text_of(events)


def test_max_tokens_is_a_limit_that_is_told(engine: Engine) -> None:
    for limit in (1, 3):
        events = list(engine.stream(ask(STORY, max_tokens=limit)))
        assert (finished(events).reasons, len(ids_of(events))) == (("length",), limit)


def test_sampling_draws_as_the_model_does(engine: Engine, bare: Any, tokenizer: Tokenizer) -> None:
    prompt = ask(STORY, temperature=0.9, top_p=0.9, top_k=40, seed=11)
    options = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "top_k": 40}
    (expected,) = bare_ids(bare, tokenizer, prompt, seed=11, **options)
    assert ids_of(list(engine.stream(prompt))) == expected


@pytest.mark.parametrize("options", [{"temperature": 2}, {"repetition_penalty": 2}, {"top_p": 1}, {"min_p": 1}])
def test_a_whole_number_is_a_number(engine: Engine, options: dict[str, int]) -> None:
    """Python's ``generate(temperature=2)``."""
    whole, same = ask(STORY, **options, seed=3), ask(STORY, **{name: float(it) for name, it in options.items()}, seed=3)
    assert ids_of(list(engine.stream(whole))) == ids_of(list(engine.stream(same)))


def test_the_same_seed_gives_the_same_text_and_another_seed_another(engine: Engine) -> None:
    def draw(seed: int) -> str:
        return text_of(list(engine.stream(ask(STORY, temperature=1.0, seed=seed))))

    import torch

    before = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(1, 5)}) > 1
    assert torch.equal(torch.get_rng_state(), before), "the notebook's own random state is left alone"


def configured(folder: Path, copy: Path, **config: Any) -> str:
    """The same weights with another generation config."""
    for file in folder.iterdir():
        if file.name not in {"generation_config.json", "tokmagic.json"}:
            (copy / file.name).symlink_to(file)
    (copy / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(copy)


def test_values_not_given_are_the_models_own(
    session: Session, folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """With a generation config that samples: that is what no options must mean."""
    config = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.92, "eos_token_id": END}
    model = load_bare(Path(configured(folder, tmp_path, **config)))
    engine = session.load(str(tmp_path), keep_others=True)
    default, cooler = ask(STORY, seed=3), ask(STORY, seed=3, temperature=0.2)
    assert ids_of(list(engine.stream(default))) == bare_ids(model, tokenizer, default, seed=3)[0]
    assert ids_of(list(engine.stream(cooler))) == bare_ids(model, tokenizer, cooler, seed=3, temperature=0.2)[0]
    greedy = ask(STORY, temperature=0)
    assert ids_of(list(engine.stream(greedy))) == bare_ids(model, tokenizer, greedy, do_sample=False)[0]
    session.models.unload(str(tmp_path))


@pytest.mark.slow
def test_several_samples_are_one_run(
    engine: Engine, bare: Any, tokenizer: Tokenizer, session: Session, folder: Path, tmp_path: Path
) -> None:
    prompt = ask("Say yes or no.", temperature=1.2, seed=5, n=2, max_tokens=24)
    options = {"do_sample": True, "temperature": 1.2, "num_return_sequences": 2}
    # One answer ends before the other: with an id that it was going to have.
    end = bare_ids(bare, tokenizer, prompt, seed=5, **options)[0][6]
    model = configured(folder, tmp_path, eos_token_id=end)
    expected = bare_ids(load_bare(tmp_path), tokenizer, prompt, seed=5, end=end, **options)
    assert [len(ids) for ids in expected] == [7, 24]
    session.load(model, keep_others=True)
    generation = session.generate(prompt, model)
    assert [list(choice.tokens) for choice in generation.choices] == expected
    assert generation.usage.output_tokens == sum(map(len, expected))
    assert generation.usage.input_tokens == len(tokenizer.encode(prompt))
    assert [choice.text for choice in generation.choices] == [tokenizer.decode(ids) for ids in expected]
    assert [choice.finish_reason for choice in generation.choices] == [
        "stop" if ids[-1] == end else "length" for ids in expected
    ]
    session.models.unload(model)
    with pytest.raises(UsageError, match="add --temperature"):
        list(engine.stream(ask("Hi", n=2)))


def test_log_probabilities_are_the_models_own_before_temperature(
    session: Session, engine: Engine, bare: Any, tokenizer: Tokenizer
) -> None:
    prompt = ask("Name two seas.", max_tokens=8, temperature=0.8, seed=4, n=2, logprobs=True)
    import torch

    generation = session.generate(prompt, "smollm2")
    asked = list(tokenizer.encode(prompt))
    for choice in generation.choices:
        with torch.inference_mode():
            logits = bare(torch.tensor([asked + list(choice.tokens)])).logits[0, len(asked) - 1 : -1].float()
        expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(choice.tokens).unsqueeze(1)).squeeze(1)
        assert len(choice.logprobs) == len(choice.tokens)
        assert [it.logprob for it in choice.logprobs] == pytest.approx(expected.tolist(), abs=1e-3)
        assert "".join(it.text for it in choice.logprobs).startswith(choice.text.rstrip("\ufffd"))
    (plain,) = session.generate(ask("Hi", max_tokens=2, temperature=0.0), "smollm2", cache=False).choices
    assert plain.logprobs == ()


def test_a_stop_string_ends_the_answer_and_its_ids_count(engine: Engine) -> None:
    whole = list(engine.stream(ask(STORY, max_tokens=40, temperature=0)))
    text = text_of(whole)
    stop = text[21:27]
    events = list(engine.stream(ask(STORY, max_tokens=40, temperature=0, stop=(stop, "never there"))))
    assert text_of(events) == text[: text.index(stop)]
    assert finished(events).reasons == ("stop",)
    count = len(ids_of(events))
    assert ids_of(events) == ids_of(whole)[:count]
    assert 0 < count < len(ids_of(whole))


def test_a_completion_is_fed_as_it_stands(engine: Engine, bare: Any, tokenizer: Tokenizer) -> None:
    prompt = Prompt(
        (Message("user", "The capital of France is"),), Sampling(max_tokens=5, temperature=0), completion=True
    )
    events = list(engine.stream(prompt))
    assert finished(events).usage.input_tokens == 5
    assert ids_of(events) == bare_ids(bare, tokenizer, prompt, do_sample=False)[0]


def test_a_text_without_a_token_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="the prompt is empty; write some text into the cell"):
        list(engine.stream(Prompt((Message("user", ""),), completion=True)))


def test_a_prompt_beyond_the_context_is_refused_with_both_counts(session: Session, engine: Engine) -> None:
    prompt = Prompt((Message("user", "word " * 9000),), Sampling(max_tokens=4), completion=True)
    count = engine.count(prompt)
    assert count > 8192
    generation = session.generate(prompt, "smollm2")
    assert isinstance(generation.error, ContextError)
    assert f"{count:,}" in str(generation.error)
    assert "8,192" in str(generation.error)
    record = session.ledger().runs()[-1]
    assert (record.run_id, record.status) == (generation.run_id, "refused")
    assert (record.reading.usage.output_tokens, record.reading.cost.usd) == (None, None)
    with pytest.raises(PromptError):
        generation.raise_for_status()


def test_half_a_character_is_refused_and_its_row_settled(session: Session) -> None:
    generation = session.generate(ask("broken \ud83d here"), "smollm2")
    assert generation.status == "refused"
    assert isinstance(generation.error, PromptError)
    assert session.ledger().runs()[-1].run_id == generation.run_id


def closed_after(engine: Engine, prompt: Prompt, tokens: int) -> list[Event]:
    """Close the stream when so many tokens came (0: at the start), and read it to its end."""
    with held() as let:
        stream = engine.stream(prompt)
        let(max(1, tokens))
        events: list[Event] = [next(stream)]
        while sum(isinstance(event, Token) for event in events) < tokens:
            events.append(next(stream))
        stream.close()
    return [*events, *stream]


def test_closing_in_mid_stream_ends_it_and_the_next_run_is_whole(
    engine: Engine, bare: Any, tokenizer: Tokenizer
) -> None:
    events = closed_after(engine, ask(STORY, max_tokens=2000), 5)
    assert finished(events).reasons == ("interrupted",)
    assert 5 <= len(ids_of(events)) < 500
    assert text_of(events) == tokenizer.decode(ids_of(events))
    prompt = ask(STORY, temperature=0)
    assert ids_of(list(engine.stream(prompt))) == bare_ids(bare, tokenizer, prompt, do_sample=False)[0]


def test_closing_during_a_long_prefill_ends_it_before_the_first_token(engine: Engine) -> None:
    prompt = Prompt((Message("user", "word " * 8000),), Sampling(max_tokens=50), completion=True)
    events = closed_after(engine, prompt, 0)
    assert (finished(events).reasons, ids_of(events)) == (("interrupted",), [])


def test_a_long_prompt_in_chunks_gives_the_same_ids(engine: Engine, bare: Any, tokenizer: Tokenizer) -> None:
    numbers = " ".join(str(number) for number in range(400))
    prompt = Prompt((Message("user", numbers),), Sampling(max_tokens=8, temperature=0), completion=True)
    assert engine.count(prompt) > 1024
    assert ids_of(list(engine.stream(prompt))) == bare_ids(bare, tokenizer, prompt, do_sample=False)[0]


def test_runs_of_two_threads_take_turns_and_a_waiting_one_can_be_closed(
    engine: Engine, bare: Any, tokenizer: Tokenizer
) -> None:
    prompts = [ask("Name a river.", temperature=0), ask("Name a colour.", temperature=0)]
    seen: dict[int, list[Event]] = {}

    def run(number: int) -> None:
        seen[number] = list(engine.stream(prompts[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, prompt in enumerate(prompts):
        assert ids_of(seen[number]) == bare_ids(bare, tokenizer, prompt, do_sample=False)[0]
    with held():
        first, second = engine.stream(ask(STORY, max_tokens=20)), engine.stream(ask(STORY, max_tokens=20))
        second.close()
    assert finished(list(first)).reasons == ("length",)
    assert finished(list(second)).reasons == ("interrupted",)


@pytest.mark.slow
def test_unloading_frees_the_model_and_it_loads_again(session: Session, engine: Engine) -> None:
    generation: Generation = session.generate(ask(STORY, temperature=0), "smollm2")
    model = weakref.ref(engine._inference._model)  # type: ignore[attr-defined]
    assert (engine.state, session.models.loaded()) == ("ready", ["smollm2"])
    session.models.unload("smollm2")
    gc.collect()
    assert model() is None
    assert (engine.state, session.models.loaded()) == ("unloaded", [])
    assert engine.count(ask(STORY)) == generation.usage.input_tokens, "counting needs no weights"
    assert engine.state == "unloaded"
    assert session.generate(ask(STORY, temperature=0), "smollm2", cache=False).text == generation.text
    assert engine.info.context_tokens == 8192
    assert (engine.info.device, engine.info.dtype) == ("cpu", "float32")
