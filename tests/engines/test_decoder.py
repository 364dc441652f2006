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


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("family", "config"), FOLLOWED.values(), ids=FOLLOWED)
def test_logits_are_those_of_transformers(family: str, config: dict[str, Any], dtype: str) -> None:
    import torch

    from tokmagic.engines.local.decoder import Segment, decoder

    model = built(family, dtype, **config)
    ids = torch.randint(0, 300, (80,)).tolist()
    expected = logits_of(model, ids, 60)
    own = decoder(model, as_transformers=True)
    assert own is not None
    cache = own.new_cache()
    with torch.inference_mode():
        found = [own.forward([Segment(cache, ids[:60])])] + [own.forward([Segment(cache, [it])]) for it in ids[60:]]
    if dtype == "bfloat16":
        assert torch.equal(torch.cat(found), expected)
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)
    # transformers goes on with the same weights, of which there is one copy.
    assert torch.equal(logits_of(model, ids[:61], 60), expected[:2])
    held = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    assert {own.widest.untyped_storage().data_ptr()} <= held


@pytest.mark.parametrize(("family", "config"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_models_are_left_to_transformers(family: str, config: dict[str, Any]) -> None:
    from tokmagic.engines.local.decoder import decoder

    assert decoder(built(family, "bfloat16", **config)) is None


def test_a_model_that_computes_something_else_is_found_out() -> None:
    """The class is one that is known; what it computes is not."""
    import torch

    from tokmagic.engines.local.decoder import decoder

    model = built("Llama", "bfloat16")
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _given, out: out * torch.tensor(1.5).to(out.dtype))
    assert decoder(model) is None


@pytest.mark.parametrize("piece", [1, 7, 16, 59])
def test_a_prompt_read_in_pieces_and_beside_others_is_the_same_prompt(piece: int) -> None:
    import torch

    from tokmagic.engines.local.decoder import Segment, decoder

    model = built("Llama", "float32")
    own = decoder(model)
    assert own is not None
    one, other = torch.randint(0, 300, (60,)).tolist(), torch.randint(0, 300, (200,)).tolist()
    expected = logits_of(model, one, 60)[0], logits_of(model, other, 190)
    with torch.inference_mode():
        mine, theirs = own.new_cache(), own.new_cache()
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

    from tokmagic.engines.local.decoder import Segment, decoder

    model = built("Llama", "bfloat16")
    own = decoder(model, as_transformers=True)
    assert own is not None
    ids = torch.randint(0, 300, (300,)).tolist()
    with torch.inference_mode():
        first = own.new_cache()
        own.forward([Segment(first, ids)])
        copied = first.copy(100)
        own.forward([Segment(first, [1])])
        logits = own.forward([Segment(copied, [5, 6, 7])])
        whole = own.new_cache()
        expected = own.forward([Segment(whole, [*ids[:100], 5, 6, 7])])
    torch.testing.assert_close(logits.float(), expected.float(), rtol=0.1, atol=0.1)
    assert copied.length == 103
    assert first.length == 301


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_a_wide_product_is_the_products_of_rows_in_32_bits(dtype: str, bias: bool, rows: int) -> None:
    import torch
    from torch.nn import functional

    from tokmagic.engines.local.products import Arithmetic, Matrix

    torch.manual_seed(rows)
    weight = torch.randn(5000, 700).to(getattr(torch, dtype))  # more than one piece
    added = torch.randn(5000).to(weight.dtype) if bias else None
    given = torch.randn(rows, 700).to(weight.dtype)
    found = Matrix(weight, added).product(given, Arithmetic(wide_from=1))
    expected = functional.linear(given.float(), weight.float(), None if added is None else added.float())
    # Sums in another order: in 16 bits a result may be rounded to the neighbour.
    spread = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 1e-5}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=spread, atol=1e-4)
    assert found.dtype == weight.dtype
    assert found.is_contiguous()


def test_the_arithmetic_is_measured_and_a_row_is_computed_as_transformers_does() -> None:
    import torch
    from torch.nn import functional

    from tokmagic.engines.local.products import Matrix, measure

    weight = torch.randn(1536, 576).bfloat16()
    arithmetic = measure(weight)
    assert arithmetic.wide_from is None or arithmetic.wide_from >= 2
    row = torch.randn(1, 576).bfloat16()
    assert torch.equal(Matrix(weight).product(row, arithmetic), functional.linear(row, weight))
