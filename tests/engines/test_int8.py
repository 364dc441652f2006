"""Weights of 8 bits on a CPU: what they are rounded to, which products they give, and which models take them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.engines.test_decoder import FOLLOWED, LEFT_ALONE, SIZES, built, logits_here, logits_of
from tests.examples import first
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Finished, Token
from tokmagic.engines.base import Measured, ModelSpec, no_progress
from tokmagic.engines.registry import open_engine
from tokmagic.errors import ModelError

pytestmark = pytest.mark.model
# Of these torch's own product takes all, some or none.
WIDTHS = (16, 17, 64, 90, 576)


def tried(width: int, outputs: int, *, bias: bool) -> tuple[Any, Any, Any]:
    """Weights [outputs, width], the same in 8 bits, and a bias."""
    import torch

    from tokmagic.engines.local.int8 import Int8

    torch.manual_seed(3)
    weight = (torch.randn(outputs, width) * torch.logspace(-3, 1, outputs).unsqueeze(1)).bfloat16()
    weight[outputs // 2] = 0.0
    added = torch.randn(outputs).bfloat16() if bias else None
    return weight, Int8.of(weight, added), added


@pytest.mark.parametrize("width", WIDTHS)
def test_each_weight_is_within_half_a_step_of_its_rows_scale(width: int) -> None:
    import torch

    weight, matrix, _ = tried(width, 40, bias=False)
    assert (matrix.weight.dtype, matrix.scale.dtype) == (torch.int8, torch.bfloat16)
    scale = matrix.scale.float().unsqueeze(1)
    error = (matrix.weight.float() * scale - weight.float()).abs()
    # The scale itself is rounded, so that the greatest weight of a row may be 127.25 steps.
    assert bool((error <= 0.51 * scale).all())
    assert bool((matrix.weight[20] == 0).all())
    assert matrix.weight.abs().amax(1)[:20].min() >= 126


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 33])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_rounded_weights(width: int, rows: int, dtype: str, *, bias: bool) -> None:
    import torch
    from torch.nn import functional

    _, matrix, added = tried(width, 70, bias=bias)
    given = torch.randn(rows, width).to(getattr(torch, dtype))
    rounded = matrix.weight.double() * matrix.scale.double().unsqueeze(1)
    wanted = functional.linear(given.double(), rounded, None if added is None else added.double())
    near = {"rtol": 1e-5, "atol": 1e-4} if dtype == "float32" else {"rtol": 0.02, "atol": 0.1}
    found = matrix.product(given)
    assert found.dtype == given.dtype
    torch.testing.assert_close(found.double(), wanted, **near)
    for way in ("left", "parts"):
        wide = matrix.wide(given.float(), way)
        torch.testing.assert_close(wide.double(), wanted, rtol=1e-5, atol=1e-3)


def test_a_part_of_a_joined_matrix_is_what_was_joined() -> None:
    import torch

    matrices = [tried(64, outputs, bias=True)[1] for outputs in (24, 8)]
    joined = matrices[0].joined(matrices)
    part = joined.part(24, 32)
    assert torch.equal(part.weight, matrices[1].weight)
    assert torch.equal(part.scale, matrices[1].scale)
    assert torch.equal(part.bias, matrices[1].bias)
    assert part.weight.untyped_storage().data_ptr() == joined.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("family", "config"), FOLLOWED.values(), ids=FOLLOWED)
def test_logits_are_those_of_transformers_modules_with_the_same_weights(
    family: str, config: dict[str, Any], dtype: str
) -> None:
    import torch

    from tokmagic.engines.local.decoder import decoder
    from tokmagic.engines.local.int8 import quantise

    model = built(family, dtype, **config)
    ids = torch.randint(0, 300, (70,)).tolist()
    before = logits_of(model, ids, 60)
    quantise(model)
    expected = logits_of(model, ids, 60)
    assert not torch.equal(before, expected)
    own = decoder(model, None)
    assert own is not None
    found = logits_here(own, ids, 60)
    if dtype == "bfloat16":
        assert torch.equal(torch.cat(found[1:]), expected[1:])
    # Modules multiply all rows of a prompt with the output's weights, and many rows are rounded elsewhere than one.
    near = {"rtol": 0.02, "atol": 0.02} if dtype == "bfloat16" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat(found), expected, **near)
    # There is one copy of them, and none of what they were before.
    held = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    assert {own.widest.weight.untyped_storage().data_ptr()} <= held
    sizes = {it.data_ptr(): (it.numel(), it.nbytes) for it in (*model.parameters(), *model.buffers())}
    embedding = 0 if config.get("tie_word_embeddings") else SIZES["vocab_size"] * SIZES["hidden_size"]
    numbers, nbytes = (sum(column) for column in zip(*sizes.values(), strict=True))
    assert nbytes < 1.2 * numbers + embedding * (2 if dtype == "bfloat16" else 4)


@pytest.mark.parametrize(("family", "config"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_models_take_them_too(family: str, config: dict[str, Any]) -> None:
    import torch

    from tokmagic.engines.local.int8 import Int8Linear, quantise

    model = built(family, "bfloat16", **config)
    ids = torch.randint(0, 300, (1, 20))
    with torch.inference_mode():
        before = model(ids).logits.float()
        quantise(model)
        after = model(ids).logits.float()
    assert any(isinstance(it, Int8Linear) for it in model.modules())
    cosine = torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), 0)
    assert 0.97 < float(cosine) < 1 - 1e-6


def test_a_model_without_linear_layers_says_so() -> None:
    import transformers

    from tokmagic.engines.local.int8 import quantise

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=90))
    with pytest.raises(ModelError, match=r"^--quant int8 finds no linear layer to quantise; leave it out$"):
        quantise(model)


def opened(model: str, home: Path, **options: Any) -> Any:
    return open_engine("m", ModelSpec(model, device="cpu", **options), TokMagic(home=str(home), ledger="sqlite://"))


def identity(home: Path, **options: Any) -> EngineInfo:
    found: EngineInfo = opened("smollm2", home, **options).identity()
    return found


def test_such_a_model_is_another_one(model_home: Path) -> None:
    """Also another than the same one by bitsandbytes, which answered in the versions before."""
    plain, rounded = identity(model_home), identity(model_home, quant="int8")
    assert (rounded.quant, rounded.arithmetic) == ("int8", "int8 weights with a scale for each row")
    assert (plain.quant, plain.arithmetic) == (None, None)
    assert identity(model_home, quant="nf4").arithmetic is None


@pytest.mark.parametrize("dtype", first(1, [None, "bf16", "fp16", "fp32"]))
def test_it_answers_in_less_memory_whatever_the_rows_are_in(model_home: Path, dtype: str | None) -> None:
    rounded = opened("smollm2", model_home, quant="int8", dtype=dtype)
    prompt = Prompt((Message("user", "The capital of France is"),), Sampling(max_tokens=4), completion=True)
    events = list(rounded.stream(prompt))
    assert isinstance(events[-1], Finished)
    assert "Paris" in "".join(it.text for it in events if isinstance(it, Token))
    assert rounded.info.arithmetic.startswith("int8 weights with a scale for each row")
    assert rounded.info.dtype == {"fp16": "float16", "fp32": "float32"}.get(dtype or "", "bfloat16")
    # What the plain one needs, not what it holds: it may have its weights twice.
    need, held, plain = rounded.need(), rounded.held(), opened("smollm2", model_home).need()
    assert need is not None
    assert held is not None
    assert plain is not None
    assert held.weights_bytes < 0.55 * plain.weights_bytes
    assert held.weights_bytes < need.weights_bytes < 1.3 * held.weights_bytes
    rounded.close()


@pytest.mark.slow
def test_its_perplexity_is_near_that_of_the_weights_before(model_home: Path) -> None:
    engine = opened("smollm2", model_home, quant="int8")
    assert isinstance(engine, Measured)
    measured = dict(engine.measure(no_progress))
    assert float(measured["ms a token"]) > 0
    found = re.fullmatch(
        r"([\d.]+) on 520 tokens of English; bfloat16 weights: ([\d.]+) \(([+-][\d.]+) %\)", measured["perplexity"]
    )
    assert found is not None
    own, theirs, more = map(float, found.groups())
    assert more == pytest.approx((own / theirs - 1) * 100, abs=0.1)
    assert abs(more) < 3
    plain = dict(opened("smollm2", model_home).measure(no_progress))["perplexity"]
    told = re.fullmatch(r"([\d.]+) on 520 tokens of English", plain)
    assert told is not None
    assert float(told[1]) == pytest.approx(theirs, rel=0.02)
