"""The CPU's own forward pass against transformers' modules: the same logits, and None for what it does not know."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.model

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FOLLOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama with scaled rotations": ("Llama", {"rope_parameters": LLAMA3}),
    "Llama with one head for keys": ("Llama", {"num_key_value_heads": 1}),
    "Llama with tied embeddings": ("Llama", {"tie_word_embeddings": True}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Qwen2, its projections with biases": ("Qwen2", {}),
    "Qwen3, which normalises queries and keys": ("Qwen3", {}),
}
LEFT_ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "a sliding window": ("Mistral", {"sliding_window": 32}),
    "rotations by length": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "another attention": ("Llama", {"attn_implementation": "eager"}),
    "another family": ("Gemma", {}),
}


def built(family: str, dtype: str, **config: Any) -> Any:
    """A model of random weights."""
    import torch
    import transformers

    torch.manual_seed(7)
    attention = config.pop("attn_implementation", "sdpa")
    made = getattr(transformers, f"{family}Config")(**{**SIZES, **config}, attn_implementation=attention)
    model = getattr(transformers, f"{family}ForCausalLM")(made)
    for weights in model.parameters():
        weights.data.normal_(0, 0.3)
    return model.to(getattr(torch, dtype)).eval()


def logits_of(model: Any, ids: list[int], count: int) -> Any:
    """What transformers gives after the first ``count`` ids, and then after each further one."""
    import torch

    with torch.inference_mode():
        out = model(torch.tensor([ids[:count]]), use_cache=True)
        found = [out.logits[0, -1]]
        for token in ids[count:]:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits[0, -1])
    return torch.stack(found)


def logits_here(own: Any, ids: list[int], count: int) -> list[Any]:
    """The same of our own pass: after the first ``count`` ids, and after each further one."""
    import torch

    from tokmagic.engines.local.attention import Segment

    cache = own.caches().new()
    with torch.inference_mode():
        return [own.forward([Segment(cache, given)]) for given in (ids[:count], *([it] for it in ids[count:]))]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("family", "config"), FOLLOWED.values(), ids=FOLLOWED)
def test_logits_are_those_of_transformers(family: str, config: dict[str, Any], dtype: str) -> None:
    import torch

    from tokmagic.engines.local.decoder import decoder

    model = built(family, dtype, **config)
    ids = torch.randint(0, 300, (80,)).tolist()
    expected = logits_of(model, ids, 60)
    own = decoder(model, None)
    assert own is not None
    found = logits_here(own, ids, 60)
    if dtype == "bfloat16":
        assert torch.equal(torch.cat(found), expected)
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)
    # transformers goes on with the same weights, of which there is one copy.
    assert torch.equal(logits_of(model, ids[:61], 60), expected[:2])
    held = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    assert {own.widest.weight.untyped_storage().data_ptr()} <= held


@pytest.mark.parametrize(("family", "config"), FOLLOWED.values(), ids=FOLLOWED)
def test_as_fast_as_it_can_logits_are_transformers_but_for_rounding(family: str, config: dict[str, Any]) -> None:
    import torch

    from tokmagic.engines.local.decoder import decoder
    from tokmagic.engines.local.products import Arithmetic

    model = built(family, "float32", **config)
    ids = torch.randint(0, 300, (70,)).tolist()
    expected = logits_of(model, ids, 60)
    own = decoder(model, lambda _matrices, _dtype: Arithmetic(wide_from=2))
    assert own is not None
    torch.testing.assert_close(torch.cat(logits_here(own, ids, 60)), expected, rtol=1e-4, atol=1e-4)


NOTHING = float("-inf")
GREEDY: dict[str, tuple[list[float], int]] = {
    "the greatest": ([0.0, 2.0, 1.0], 1),
    "the first of equals": ([1.0, 3.0, 0.0, 3.0, 3.0], 1),
    "of those that are left": ([NOTHING, NOTHING, -5.0, NOTHING], 2),
    "all the same": ([0.5] * 70, 0),
    "no number at all, as in torch": ([1.0, float("nan"), 7.0], 1),
}


@pytest.mark.parametrize(("logits", "wanted"), GREEDY.values(), ids=GREEDY)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_greedy_token(logits: list[float], wanted: int, dtype: str) -> None:
    import torch
    from transformers import GenerationConfig

    from tokmagic.engines.local.drawing import Drawing

    given = torch.tensor([logits], dtype=getattr(torch, dtype))
    drawing = Drawing(
        GenerationConfig(do_sample=False), [1], seed=None, constraint=None, logprobs=False, device=torch.device("cpu")
    )
    assert drawing.next(given, [0]) == ([wanted], None)
    assert int(given.argmax()) == wanted


@pytest.mark.parametrize(("family", "config"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_models_are_left_to_transformers(family: str, config: dict[str, Any]) -> None:
    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.decoder import decoder

    assert decoder(built(family, "bfloat16", **config), for_own_passes) is None


def test_a_model_that_computes_something_else_is_found_out() -> None:
    """The class is one that is known; what it computes is not."""
    import torch

    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.decoder import decoder

    model = built("Llama", "bfloat16")
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _given, out: out * torch.tensor(1.5).to(out.dtype))
    assert decoder(model, for_own_passes) is None


@pytest.mark.parametrize("piece", [1, 7, 16, 59])
def test_a_prompt_read_in_pieces_and_beside_others_is_the_same_prompt(piece: int) -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.decoder import decoder

    model = built("Llama", "float32")
    own = decoder(model, for_own_passes)
    assert own is not None
    one, other = torch.randint(0, 300, (60,)).tolist(), torch.randint(0, 300, (200,)).tolist()
    expected = logits_of(model, one, 60)[0], logits_of(model, other, 190)
    with torch.inference_mode():
        caches = own.caches()
        mine, theirs = caches.new(), caches.new()
        own.forward([Segment(theirs, other[:190])])
        for begin in range(0, 60, piece):
            step = begin // piece
            segments = [Segment(mine, one[begin : begin + piece])]
            if step < 10:
                segments.append(Segment(theirs, [other[190 + step]]))
            logits = own.forward(segments)
            if step < 10:
                torch.testing.assert_close(logits[1], expected[1][step + 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[0], expected[0], rtol=1e-4, atol=1e-4)
    assert (mine.length, theirs.length) == (60, 190 + min(10, -(-60 // piece)))


def test_a_cache_copied_from_a_beginning_goes_on_by_itself() -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.decoder import decoder

    model = built("Llama", "bfloat16")
    own = decoder(model, None)
    assert own is not None
    ids = torch.randint(0, 300, (300,)).tolist()
    with torch.inference_mode():
        first = own.caches().new()
        own.forward([Segment(first, ids)])
        copied = first.copy(100)
        own.forward([Segment(first, [1])])
        logits = own.forward([Segment(copied, [5, 6, 7])])
        whole = own.caches().new()
        expected = own.forward([Segment(whole, [*ids[:100], 5, 6, 7])])
    torch.testing.assert_close(logits.float(), expected.float(), rtol=0.1, atol=0.1)
    assert copied.length == 103
    assert first.length == 301


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sequences_of_all_lengths_come_and_go_beside_each_other(dtype: str) -> None:
    """Slots of several sizes are taken, outgrown and given back while others go on: each is as it is alone."""
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.decoder import decoder

    torch.manual_seed(7)
    own = decoder(built("Llama", dtype), for_own_passes)
    assert own is not None
    lengths = [1, 5, 90, 126, 127, 128, 250, 1020, 1030, 40]
    ends_at = [20, 3, 20, 20, 9, 20, 20, 20, 20, 6]
    texts = [torch.randint(0, 300, (length + end,)).tolist() for length, end in zip(lengths, ends_at, strict=True)]
    with torch.inference_mode():
        caches = own.caches()
        made = [caches.new() for _ in texts]
        for cache, text, length in zip(made, texts, lengths, strict=True):
            own.forward([Segment(cache, text[:length])])
        found = [torch.empty(0)] * len(texts)
        for step in range(20):
            live = [it for it, end in enumerate(ends_at) if step < end]
            logits = own.forward([Segment(made[it], [texts[it][lengths[it] + step]]) for it in live])
            for row, it in enumerate(live):
                found[it] = logits[row]
                if step + 1 == ends_at[it]:
                    made[it].free()
            if step == 10:
                # Who comes later takes over a slot, and nothing of who had it.
                late = caches.new()
                own.forward([Segment(late, texts[3][:126])])
        also = own.forward([Segment(late, [texts[3][126]])])[0]
        expected = [own.forward([Segment(own.caches().new(), text)])[0] for text in [*texts, texts[3][:127]]]
    spread = 1e-4 if dtype == "float32" else 0.15
    for mine, wanted in zip([*found, also], expected, strict=True):
        torch.testing.assert_close(mine.float(), wanted.float(), rtol=spread, atol=spread)


def test_a_sequence_of_nonsense_leaves_its_neighbours_and_heirs_alone() -> None:
    import torch

    from tokmagic.engines.local.attention import Segment
    from tokmagic.engines.local.choices import for_own_passes
    from tokmagic.engines.local.decoder import decoder

    own = decoder(built("Llama", "float32"), for_own_passes)
    assert own is not None
    with torch.inference_mode():
        caches = own.caches()
        one, other = caches.new(), caches.new()
        own.forward([Segment(one, [1, 2, 3]), Segment(other, range(100))])
        assert other.slots is not None
        for data in other.slots.data:
            data[:, other.slot] = float("nan")
        logits = own.forward([Segment(one, [4]), Segment(other, [4])])
        assert logits[0].isfinite().all()
        assert not logits[1].isfinite().any()
        other.free()
        heir = caches.new()
        own.forward([Segment(heir, [1, 2, 3])])
        assert own.forward([Segment(one, [4]), Segment(heir, [4])]).isfinite().all()


def test_the_room_that_is_reckoned_with_is_the_room_that_is_taken() -> None:
    import torch

    from tokmagic.engines.local.kv import KVCaches, room

    caches = KVCaches(1, 1, 4, torch.float32, torch.device("cpu"))
    for length in (1, 128, 129, 1024, 1025, 5000):
        cache = caches.new()
        cache.reserve(length)
        assert cache.slots is not None
        assert cache.slots.capacity == room(length) >= length
        assert room(length) <= max(128, 2 * length)


def test_room_is_given_back() -> None:
    import torch

    from tokmagic.engines.local.kv import KVCaches

    caches = KVCaches(2, 1, 4, torch.float32, torch.device("cpu"))
    made = [caches.new() for _ in range(5)]
    for index, cache in enumerate(made):
        cache.reserve(10)
        cache.length = 1
        for layer in (0, 1):
            for kept in cache.layer(layer, 1):
                kept.fill_(index)
    room = made[0].slots
    assert room is not None
    for index in (0, 3, 4):
        made[index].free()
    for index in (1, 2):
        assert made[index].slots is room
        assert all((kept == index).all() for layer in (0, 1) for kept in made[index].layer(layer, 1))
    made[1].reserve(200)
    assert made[1].slots is not room
    assert all((kept == 1).all() for kept in made[1].layer(1, 1))
    made[2].free()
    assert room.caches == []
    assert all(data.numel() == 0 for data in room.data)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_a_wide_product_is_the_products_of_rows_in_32_bits(dtype: str, bias: bool, rows: int) -> None:
    import torch
    from torch.nn import functional

    from tokmagic.engines.local.products import Matrix

    torch.manual_seed(rows)
    weight = torch.randn(5000, 700).to(getattr(torch, dtype))  # more than one piece
    added = torch.randn(5000).to(weight.dtype) if bias else None
    given = torch.randn(rows, 700)
    expected = functional.linear(given, weight.float(), None if added is None else added.float())
    by_onednn = ("onednn",) if hasattr(torch.ops.mkldnn, "_linear_pointwise") else ()
    for way in ("left", "parts", *by_onednn):
        found = Matrix(weight, added).wide(given, way)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
