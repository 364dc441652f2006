"""The least times that a device allows, by hand; and what is measured of a device and read off a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec, no_progress
from tokmagic.engines.local.engine import LocalEngine
from tokmagic.engines.roof import MatrixSpeed, Measurable, Roof, Work
from tokmagic.engines.scripted import Script, ScriptedEngine

WORK = Work(weight_bytes=1_000_000, kv_bytes=100, token_flops=2_000, head_flops=500, pair_flops=10)
ROOF = Roof(
    "cpu",
    read_bytes_per_s=1e9,
    matrix=(
        MatrixSpeed("float32", 1, 1e6),
        MatrixSpeed("float32", 16, 4e6),
        MatrixSpeed("bfloat16", 16, 2e6),
        MatrixSpeed("float32", 256, 3e6),
    ),
)


def test_a_step_reads_the_weights_and_the_cache_of_its_context() -> None:
    assert WORK.decode_bytes(50) == 1_005_000
    assert ROOF.decode_s(WORK, 50) == pytest.approx(0.001005)


def test_a_prompts_matrices_grow_with_its_length_and_its_attention_with_the_square() -> None:
    assert WORK.prefill_flops(1) == 2_000 + 500 + 10
    assert WORK.prefill_flops(100) == 200_000 + 500 + 10 * 5_050
    assert ROOF.prefill_s(WORK, 100) == pytest.approx(251_000 / 4e6)
    assert WORK.prefill_flops(100, 90) == 20_000 + 500 + 10 * sum(range(91, 101))
    assert ROOF.prefill_s(WORK, 100, 90) == pytest.approx(30_050 / 4e6)


def test_a_short_prompt_takes_no_less_than_the_weights_are_read_once() -> None:
    quick = Roof("cuda:0", 1e6, (MatrixSpeed("bfloat16", 1, 1e15),))
    assert quick.prefill_s(WORK, 4) == 1.0


def test_the_fastest_product_has_no_more_rows_than_the_next_that_were_measured() -> None:
    assert ROOF.fastest(1) == MatrixSpeed("float32", 1, 1e6)
    assert ROOF.fastest(2) == ROOF.fastest(16) == MatrixSpeed("float32", 16, 4e6)
    assert ROOF.fastest(100) == ROOF.fastest(1000) == MatrixSpeed("float32", 16, 4e6), "the fastest, not the largest"
    assert Roof("cpu", 1e9, ROOF.matrix[1:]).fastest(1).rows == 16


def test_only_an_engine_in_this_process_has_a_roof() -> None:
    assert not isinstance(ScriptedEngine("s", [Script.of_text(["a"])]), Measurable)


@pytest.fixture(scope="module")
def engine(tiny_home: Path) -> Iterator[LocalEngine]:
    opened = LocalEngine("smollm2", ModelSpec("smollm2", device="cpu"), TokMagic(home=str(tiny_home)))
    opened.load(no_progress)
    yield opened
    opened.close()


@pytest.mark.model
def test_this_machine_is_measured_and_the_model_counted(
    engine: LocalEngine, tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tokmagic.engines.local import limits

    monkeypatch.setattr(limits, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(limits, "_SIDE", {"cpu": 256})
    monkeypatch.setattr(limits, "_READ_BYTES", {"cpu": 2**24})
    roof, work = engine.roof()
    assert isinstance(engine, Measurable)
    assert (roof.device, roof.threads) == ("cpu", torch.get_num_threads())
    assert {speed.dtype for speed in roof.matrix} == {"float32", "bfloat16"}
    assert min(roof.read_bytes_per_s, *(speed.flops_per_s for speed in roof.matrix)) > 0
    assert work is not None
    (folder,) = (tiny_home / "models").glob("*/config.json")
    bare: Any = AutoModelForCausalLM.from_pretrained(str(folder.parent), dtype="auto")
    config, inner = bare.config, 2 * (64 * 64 + 64 * 32 + 64 * 32 + 64 * 64 + 3 * 64 * 128)
    head = 64 * config.vocab_size
    assert (work.token_flops, work.head_flops) == (2 * inner, 2 * head)
    # All but the input embedding, of which one row is read; buffers beside it are a few bytes.
    assert 4 * (bare.num_parameters() - head) <= work.weight_bytes <= 4 * (bare.num_parameters() - head) + 1000
    assert work.kv_bytes == 2 * 2 * 2 * 16 * 4
    assert work.pair_flops == 4 * 2 * 4 * 16


@pytest.mark.model
def test_a_tied_embedding_is_read_whole_and_a_mixture_of_experts_is_not_told() -> None:
    import torch

    from tokmagic.engines.local.limits import work_of

    def model(*, tied: bool, **config: Any) -> Any:
        made = torch.nn.Module()
        made.inner, made.embedding = torch.nn.Linear(8, 8, bias=False), torch.nn.Embedding(10, 8)
        made.head = torch.nn.Linear(8, 10, bias=False)
        if tied:
            made.head.weight = made.embedding.weight
        made.get_input_embeddings = lambda: made.embedding
        made.get_output_embeddings = lambda: made.head
        made.dtype = torch.float32
        text = SimpleNamespace(num_hidden_layers=3, num_attention_heads=2, hidden_size=8, **config)
        made.config = SimpleNamespace(get_text_config=lambda: text)
        return made

    tied, untied = work_of(model(tied=True)), work_of(model(tied=False))
    assert tied == untied == Work(4 * (64 + 80), 2 * 3 * 2 * 4 * 4, 2 * 64, 2 * 80, 4 * 3 * 2 * 4)
    assert work_of(model(tied=True, num_local_experts=8)) is None
    without = model(tied=True)
    without.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=8))
    assert work_of(without) is None
