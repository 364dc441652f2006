"""The local engine on a GPU, as far as one that is played shows it: what is where, what waits, and what is captured."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import cuda
from tests.engines.test_decoder import FOLLOWED, LEFT_ALONE, built
from tests.engines.test_local_engine import STORY, ask, ids_of
from tests.examples import first
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import OutOfMemoryError
from tokmagic.runs.session import Session

pytestmark = pytest.mark.model

SCHEMA = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
PROMPTS: dict[str, Prompt] = {
    "greedy": ask(STORY, temperature=0, max_tokens=12),
    "drawn": ask(STORY, temperature=1.0, seed=7, max_tokens=12),
    "several, drawn": ask(STORY, temperature=1.0, seed=7, n=3, max_tokens=12),
    "with a schema": ask(STORY, temperature=1.0, seed=3, json_schema=SCHEMA, max_tokens=40),
    "with a penalty and log probabilities": ask(STORY, temperature=0, repetition_penalty=1.2, logprobs=True),
    "with a stop string": ask(STORY, temperature=1.0, seed=7, stop=("Jen",), max_tokens=20),
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.played(monkeypatch)


Open = Callable[[], Session]


@pytest.fixture
def opened(tiny_home: Path, tmp_path: Path) -> Iterator[Open]:
    sessions: list[Session] = []

    def make() -> Session:
        ledger = f"sqlite:///{tmp_path}/{len(sessions)}.sqlite"
        sessions.append(Session(TokMagic(home=str(tiny_home), ledger=ledger, cache=False)))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def told(session: Session, prompts: list[Prompt]) -> list[Any]:
    generations = [session.generate(prompt).raise_for_status() for prompt in prompts]
    return [(it.text, it.tokens, it.finish_reason, it.usage.output_tokens) for it in generations]


@pytest.mark.parametrize("dtype", first(1, [None, "fp32"]))
def test_a_prompt_gives_on_a_gpu_what_it_gives_on_a_cpu(
    opened: Open, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    wanted = told(opened(), list(PROMPTS.values()))
    cuda.played(monkeypatch)
    session = opened()
    session.models.add("here", ModelSpec("smollm2", dtype=dtype))
    found = told(session, list(PROMPTS.values()))
    assert dict(zip(PROMPTS, found, strict=True)) == dict(zip(PROMPTS, wanted, strict=True))
    info = session.load().info
    assert (info.device, info.device_name) == ("cuda:0", "a played GPU")


@pytest.mark.parametrize(
    ("operation", "refusal"),
    {
        "both devices": (lambda torch, there: there + torch.ones(2), "found at least two devices"),
        "numpy's view": (lambda _, there: there.numpy(), "can't convert cuda:0"),
        "a generator of the CPU": (
            lambda torch, there: torch.multinomial(there, 1, generator=torch.Generator().manual_seed(1)),
            "Expected a 'cuda' device type",
        ),
        "an answer while capturing": (lambda torch, there: captured(torch, there.tolist), "when stream is capturing"),
        "a copy while capturing": (
            lambda torch, _: captured(torch, lambda: torch.tensor([1], device="cuda")),
            "when stream is capturing",
        ),
    }.values(),
)
@pytest.mark.usefixtures("gpu")
def test_what_is_played_refuses_what_a_gpu_refuses(operation: Callable[[Any, Any], Any], refusal: str) -> None:
    import torch

    there = torch.ones(2, device="cuda:0")
    with pytest.raises((RuntimeError, TypeError), match=refusal):
        operation(torch, there)


def captured(torch: Any, work: Callable[[], Any]) -> Any:
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    try:
        work()
    finally:
        graph.capture_end()
    return graph


@pytest.mark.usefixtures("gpu")
def test_a_graph_that_is_played_does_nothing_before_it_is_replayed() -> None:
    import torch

    there, result = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda")
    graph = captured(torch, lambda: result.add_(there * 2))
    assert result.tolist() == [0, 0]
    there.fill_(3)
    graph.replay()
    graph.replay()
    assert result.tolist() == [12, 12]


QUICK = ("Llama", list(FOLLOWED)[-1])


@pytest.mark.parametrize(
    ("name", "has_fused_norms"),
    first(
        4,
        [
            *((it, fused) for it in QUICK for fused in (False, True)),
            *((it, False) for it in FOLLOWED if it not in QUICK),
        ],
    ),
)
def test_each_family_has_its_own_passes_and_graphs(
    name: str, has_fused_norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.played(monkeypatch, has_fused_norms=has_fused_norms)
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    family, config = FOLLOWED[name]
    model = built(family, "float32", **config).to("cuda")
    own = decoder(model, lambda *_: pytest.fail("what a CPU multiplies by"))
    assert own is not None
    texts = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]
    with torch.inference_mode():
        caches = [own.caches().new() for _ in texts]
        own.forward([Segment(cache, text) for cache, text in zip(caches, texts, strict=True)])
        for token in range(20, 27):
            found = own.forward([Segment(cache, [token]) for cache in caches])
            for text, logits in zip(texts, found, strict=True):
                text.append(token)
                wanted = model(torch.tensor([text], device="cuda")).logits[0, -1]
                assert torch.allclose(logits, wanted, atol=1e-3)
    assert cuda.replays() == 5  # of seven passes the first two are computed call by call, the third is captured, too


@pytest.mark.usefixtures("gpu")
def test_the_same_tokens_give_the_same_numbers_before_and_after_they_are_captured() -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    own = decoder(built("Llama", "float32").to("cuda"), lambda *_: pytest.fail("what a CPU multiplies by"))
    assert own is not None

    def run() -> list[Any]:
        cache = own.caches().new()
        found = [own.forward([Segment(cache, [5, 6, 7, 8])])]
        found += [own.forward([Segment(cache, [token])]).clone() for token in range(20, 30)]
        cache.free()
        return found

    with torch.inference_mode():
        first = run()
        played = cuda.replays()
        second = run()
    assert 0 < played < 10
    assert cuda.replays() == played + 10
    # To the bit: the last one of a sum can turn a draw, and with it the rest of a text.
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [True] * 11


def kernels(layers: int, rows: int, length: int) -> int:
    """What a pass of one token each of ``rows`` sequences of a ``length`` asks for, views left out, as the CPU has
    it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    class Counting(TorchDispatchMode):
        kernels = 0

        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
            is_view = any(it.alias_info is not None and not it.alias_info.is_write for it in func._schema.arguments)
            self.kernels += not is_view
            return func(*args, **(kwargs or {}))

    own = decoder(built("Llama", "bfloat16", num_hidden_layers=layers).to("cuda"), lambda *_: pytest.fail("asked"))
    assert own is not None
    with torch.inference_mode():
        caches = [own.caches().new() for _ in range(rows)]
        own.forward([Segment(cache, [5] * length) for cache in caches])
        with Counting() as counting:
            own.forward([Segment(cache, [8]) for cache in caches])
    return int(counting.kernels)


@pytest.mark.parametrize(("rows", "length"), first(2, [(1, 3), (12, 1100), (3, 3), (3, 1100), (12, 3)]))
@pytest.mark.usefixtures("gpu")
def test_a_layer_is_few_kernels(rows: int, length: int) -> None:
    # Four products, two of them with a sum, two norms of two kernels, three for the rotation, two for keys and values,
    # attention, and two of the activation. By the modules of transformers a norm alone is eight.
    assert kernels(3, rows, length) - kernels(2, rows, length) == 16


@pytest.mark.usefixtures("gpu")
def test_a_room_that_has_moved_is_captured_anew() -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    own = decoder(built("Llama", "float32").to("cuda"), lambda *_: pytest.fail("asked"))
    assert own is not None
    with torch.inference_mode():
        caches: list[Any] = []
        for rows in (1, 2, 4):
            # With each of them the room's tensors are others, and no graph of those before is left.
            while len(caches) < rows:
                caches.append(own.caches().new())
                own.forward([Segment(caches[-1], [5, 6, 7])])
            played = cuda.replays()
            for token in range(20, 26):
                own.forward([Segment(cache, [token]) for cache in caches])
            assert cuda.replays() - played == 4
            assert own.has_graphs


@pytest.mark.parametrize("name", LEFT_ALONE)
@pytest.mark.usefixtures("gpu")
def test_what_the_decoder_does_not_know_is_left_to_transformers(name: str) -> None:
    from tokmagic.engines.local.decoder import decoder

    family, config = LEFT_ALONE[name]
    assert decoder(built(family, "float32", **config).to("cuda"), lambda *_: pytest.fail("asked")) is None


@pytest.mark.usefixtures("gpu")
def test_the_host_waits_once_for_a_token_and_asks_for_all_of_it_at_once(opened: Open) -> None:
    session = opened()
    session.generate(ask(STORY, temperature=0, max_tokens=6))
    answers, replays = cuda.answers(), cuda.replays()
    session.generate(ask(STORY, temperature=0, max_tokens=40)).raise_for_status()
    assert cuda.replays() - replays == 39  # the first token is the prompt's own pass, and the room is the one before
    # For the pass, and for the id: when the second one is asked for there is nothing left to wait for.
    assert cuda.answers() - answers <= 2 * 40 + 2


@pytest.mark.usefixtures("gpu")
def test_a_gpu_does_not_wait_for_a_pass_on_the_cpu(opened: Open) -> None:
    from tokmagic.engines.local.passes import alone

    engine: Any = opened().load()
    ids: list[int] = []
    reader = threading.Thread(
        target=lambda: ids.extend(ids_of(list(engine.stream(ask(STORY, temperature=0, max_tokens=3))))), daemon=True
    )
    with alone():
        reader.start()
        reader.join(30)
        assert len(ids) == 3


@pytest.mark.usefixtures("gpu")
def test_runs_at_once_are_asked_for_once(opened: Open) -> None:
    from tests.engines.held import held

    engine: Any = opened().load()
    prompts = [ask(f"Name {count} seas.", temperature=0, max_tokens=20) for count in range(6)]
    alone = [ids_of(list(engine.stream(prompt))) for prompt in prompts]
    answers = cuda.answers()
    with held():
        streams = [engine.stream(prompt) for prompt in prompts]
    assert [ids_of(list(stream)) for stream in streams] == alone
    # Each prompt's first token is asked for by itself: it comes from a pass of prompts.
    assert cuda.answers() - answers <= 2 * 20 + 2 * len(prompts)


@pytest.mark.usefixtures("gpu")
def test_weights_that_another_library_multiplies_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    from tokmagic.engines.local import called, decoder
    from tokmagic.engines.local.attention import Segment

    class Packed(nn.Linear):
        """As bitsandbytes' layers: nobody else knows what its weight means."""

        def forward(self, given: Any) -> Any:
            return nn.functional.linear(given, -self.weight, self.bias)

    model = built("Qwen2", "float32").to("cuda")
    assert decoder.decoder(model, lambda *_: pytest.fail("asked")) is not None
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for _, child in parent.named_children():
                if type(child) is nn.Linear:
                    child.__class__ = Packed
    assert decoder.decoder(model, lambda *_: pytest.fail("asked")) is None
    for module in (called, decoder):
        monkeypatch.setattr(module, "is_called", lambda it: type(it) is Packed)
    own = decoder.decoder(model, lambda *_: pytest.fail("asked"))
    assert own is not None
    with torch.inference_mode():
        cache = own.caches().new()
        for token in (5, 6, 7, 8, 9):
            own.forward([Segment(cache, [token])])
        wanted = model(torch.tensor([[5, 6, 7, 8, 9, 10]], device="cuda")).logits[0, -1]
        assert torch.allclose(own.forward([Segment(cache, [10])])[0], wanted, atol=1e-3)


@pytest.mark.parametrize("length", first(1, [1000, 100, 2030]))
def test_a_text_that_outgrows_its_room_and_the_table_goes_on(
    opened: Open, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    prompt = ask("word " * length, temperature=0, max_tokens=40)
    wanted = told(opened(), [prompt])
    cuda.played(monkeypatch)
    assert told(opened(), [prompt]) == wanted
    assert cuda.replays() > 30


def test_long_prompts_at_once_give_what_they_give_alone(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engines.held import held

    # Of two sizes of rooms, one of which they outgrow.
    prompts = [
        ask(f"{word} " * count, temperature=0, max_tokens=40) for word, count in (("a", 1230), ("b", 1230), ("c", 3))
    ]
    wanted = told(opened(), prompts)
    cuda.played(monkeypatch)
    engine: Any = opened().load()
    with held():
        streams = [engine.stream(prompt) for prompt in prompts]
    assert [tuple(ids_of(list(stream))) for stream in streams] == [tokens for _, tokens, _, _ in wanted]


@pytest.mark.usefixtures("gpu")
def test_a_room_of_its_own_goes_with_its_sequence_and_what_was_captured_of_it() -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    own = decoder(built("Llama", "float32", max_position_embeddings=4096).to("cuda"), lambda *_: pytest.fail("asked"))
    assert own is not None
    with torch.inference_mode():
        cache = own.caches().new()
        own.forward([Segment(cache, [5] * 1100)])
        for token in range(6):
            own.forward([Segment(cache, [token])])
        assert cuda.replays() > 0
        room = weakref.ref(cache.slots)
        cache.free()
    assert room() is None


def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda _: None)


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: operation not supported")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", fail)


def other(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokmagic.engines.local import decoder

    monkeypatch.setattr(decoder, "near", lambda *_: False)


@pytest.mark.parametrize("fault", first(1, [wrong, broken, other]))
def test_what_does_not_compute_the_same_is_not_used(
    opened: Open, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    prompts = [PROMPTS["greedy"], PROMPTS["drawn"]]
    wanted = told(opened(), prompts)
    cuda.played(monkeypatch)
    fault(monkeypatch)
    assert told(opened(), prompts) == wanted
    assert cuda.replays() == 0


@pytest.mark.usefixtures("gpu")
def test_a_run_that_finds_no_memory_fails_alone_and_leaves_no_room_taken(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from tests.engines.held import held

    session = opened()
    engine: Any = session.load()
    list(engine.stream(ask(STORY, temperature=0, max_tokens=2)))
    real = torch.Tensor.new_empty

    def scarce(like: Any, *sizes: int, **options: Any) -> Any:
        if len(sizes) == 5 and sizes[1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return real(like, *sizes, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", scarce)
    with held():
        small = engine.stream(ask(STORY, temperature=0, max_tokens=30))
        large = engine.stream(ask(STORY, temperature=1.0, seed=1, n=20, max_tokens=30))
    assert len([it for it in small if hasattr(it, "text")]) > 0
    with pytest.raises(OutOfMemoryError, match="shorten the prompt or lower --max-tokens"):
        list(large)
    rooms = list(engine._inference._decoder.caches()._shared.values())
    assert [room.caches for room in rooms] == [[] for _ in rooms]
    assert {room.size for room in rooms} == {1}


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_the_benchmark_for_a_gpu_goes_through(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import Shape, measured
    from tokmagic.engines.local import limits

    monkeypatch.setattr(limits, "_SIDE", {"cuda": 64})
    monkeypatch.setattr(limits, "_READ_BYTES", {"cuda": 2**24})
    # Without quantised weights, which bitsandbytes would move to a real GPU.
    found = measured(tiny_home, 12, Shape(64, 96, 2, 4, 2), together=12, long=(1500, 1100, 9), quant=False)
    assert found.keys() == {"default", "one_stream", "metering", "batch_256", "long_context"}
    assert found["long_context"].keys() == {"with_graphs", "without_graphs", "batch_throughput"}
    assert found["one_stream"]["passes"] == "tokmagic's own, in batches, with graphs"
    assert found["batch_256"]["device_seconds"] == pytest.approx(1, rel=0.01)
