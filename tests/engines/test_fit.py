"""What a model takes of memory: worked numbers, the caches that transformers itself makes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.fit import KvCache, Need, kv_cache, need
from tokmagic.engines.local import memory
from tokmagic.engines.local.engine import LocalEngine
from tokmagic.engines.local.memory import free_ram, require_ram, require_room
from tokmagic.engines.registry import Models
from tokmagic.errors import OutOfMemoryError

GIB = 2**30
SMOLLM: dict[str, Any] = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
}
LLAMA_8B = {**SMOLLM, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_8B.pop("head_dim")


def head(**tensors: tuple[str, list[int], int]) -> bytes:
    """The beginning of a safetensors file: types, shapes and bytes; nothing reads the weights themselves."""
    described, begin = dict[str, Any](), 0
    for name, (dtype, shape, size) in tensors.items():
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **described}).encode()
    return len(text).to_bytes(8, "little") + text


def folder(path: Path, config: dict[str, Any], **tensors: tuple[str, list[int], int]) -> Path:
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(head(**tensors))
    return path


def of(config: dict[str, Any], **changes: Any) -> KvCache | None:
    return kv_cache({**config, **changes}, 2)


def test_the_default_models_cache() -> None:
    """2 × 30 layers × 3 KV heads × 64 × 2 bytes."""
    cache = of(SMOLLM)
    assert cache == KvCache(23_040)
    assert cache.size(8192) == 180 * 2**20


@pytest.mark.parametrize(
    ("config", "token_bytes"),
    [
        (LLAMA_8B, 2 * 32 * 8 * 128 * 2),
        ({**LLAMA_8B, "num_key_value_heads": None}, 2 * 32 * 32 * 128 * 2),
        ({"text_config": SMOLLM, "vision_config": {"num_hidden_layers": 99}}, 23_040),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}, 2 * 12 * 12 * 64 * 2),
        ({**LLAMA_8B, "multi_query": True}, 2 * 32 * 1 * 128 * 2),
        ({**SMOLLM, "sliding_window": None}, 23_040),
        ({**SMOLLM, "model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, 23_040),
        # A rank of 512 and a rotary part of 64 for 61 layers: 70,272 bytes a token, not 128 heads of 320.
        (
            {
                **LLAMA_8B,
                "model_type": "deepseek_v3",
                "num_hidden_layers": 61,
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
            },
            61 * (512 + 64) * 2,
        ),
    ],
)
def test_what_a_token_takes(config: dict[str, Any], token_bytes: int) -> None:
    assert kv_cache(config, 2) == KvCache(token_bytes)


def test_layers_with_a_window_keep_no_more_than_it_holds() -> None:
    layer = 2 * 3 * 64 * 2
    all_sliding = of(SMOLLM, model_type="mistral", sliding_window=4096)
    assert all_sliding == KvCache(0, {4096: 30 * layer})
    assert [all_sliding.size(tokens) for tokens in (100, 4096, 100_000)] == [
        100 * 30 * layer,
        4096 * 30 * layer,
        4096 * 30 * layer,
    ]
    kinds = ["sliding_attention"] * 25 + ["full_attention"] * 5
    mixed = of(SMOLLM, layer_types=kinds, sliding_window=512)
    assert mixed == KvCache(5 * layer, {512: 25 * layer})
    assert mixed.size(1000) == 1000 * 5 * layer + 512 * 25 * layer
    chunked = of(SMOLLM, layer_types=["chunked_attention"] * 30, attention_chunk_size=8192)
    assert chunked == KvCache(0, {8192: 30 * layer})


def test_a_window_of_layers_that_are_not_told_is_no_less_than_all_tokens() -> None:
    assert of(SMOLLM, model_type="gemma2", sliding_window=4096) == KvCache(23_040, at_most=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": None},
        {"num_hidden_layers": "30"},
        {"hidden_size": 0},
        {"kv_lora_rank": 512, "qk_rope_head_dim": 64},
        {"kv_lora_rank": 512, "model_type": "deepseek_v3"},
        {"layer_types": ["full_attention"] * 29},
        {"layer_types": ["full_attention"] * 29 + ["linear_attention"]},
        {"layer_types": ["sliding_attention"] * 30},
        {"state_size": 16},
        {"num_kv_shared_layers": 15},
        {"is_encoder_decoder": True},
        {"swa_head_dim": 32},
    ],
)
def test_a_cache_that_the_configuration_does_not_tell_is_unknown(changes: dict[str, Any]) -> None:
    assert of(SMOLLM, **changes) is None


WEIGHTS = {"embed": ("BF16", [49152, 576], 49152 * 576 * 2), "layer": ("BF16", [1000, 1000], 2_000_000)}
COUNT = 49152 * 576 + 1_000_000


@pytest.mark.parametrize(
    ("dtype", "quant", "form", "weights"),
    [
        ("auto", None, "bfloat16", 2 * COUNT),
        ("float32", None, "float32", 4 * COUNT),
        ("auto", "int8", "int8", int(1.2 * COUNT)),
        ("auto", "nf4", "nf4", int(0.8 * COUNT)),
    ],
)
def test_the_weights_are_counted_by_the_heads_of_their_files(
    tmp_path: Path, dtype: str, quant: str | None, form: str, weights: int
) -> None:
    found = need(folder(tmp_path, SMOLLM, **WEIGHTS), dtype, quant)
    assert found is not None
    assert (found.form, found.weights_bytes) == (form, weights)
    # The cache is computed in the dtype of the weights: twice as large in fp32.
    assert found.cache == KvCache(46_080 if dtype == "float32" else 23_040)
    assert all(size < weights and name != form for name, size in found.smaller.items())


def test_only_the_files_that_are_loaded_count(tmp_path: Path) -> None:
    made = folder(tmp_path, SMOLLM, **WEIGHTS)
    (made / "consolidated.safetensors").write_bytes(head(**WEIGHTS))
    (made / "pytorch_model.bin").write_bytes(b"x" * 1000)
    assert (found := need(made, "auto", None)) is not None
    assert found.weights_bytes == 2 * COUNT
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    for name in shards.values():
        (made / name).write_bytes(head(layer=("F32", [10, 10], 400)))
    assert (found := need(made, "auto", None)) is not None
    assert found.weights_bytes == 2 * 100 * 2, "converted to bfloat16"


def test_weights_that_are_quantised_on_disk_stay_as_they_are(tmp_path: Path) -> None:
    packed = {"packed": ("I32", [1000, 100], 400_000), "scales": ("F16", [1000], 2_000)}
    found = need(folder(tmp_path, {**SMOLLM, "quantization_config": {"quant_method": "gptq"}}, **packed), "auto", None)
    assert found is not None
    assert (found.weights_bytes, found.smaller) == (402_000, {})


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMOLLM, "dtype": "float16"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 2_000)
    assert (found := need(tmp_path, "float32", None)) is not None
    assert found.weights_bytes == 4_000


@pytest.mark.parametrize("spoil", [b"", b"x" * 100, (2**62).to_bytes(8, "little"), (3).to_bytes(8, "little") + b"[1]"])
def test_weights_that_cannot_be_read_are_for_loading_to_tell(tmp_path: Path, spoil: bytes) -> None:
    made = folder(tmp_path, SMOLLM, **WEIGHTS)
    (made / "model.safetensors").write_bytes(spoil)
    assert need(made, "auto", None) is None


def test_a_configuration_that_cannot_be_read_leaves_the_weights_known(tmp_path: Path) -> None:
    made = folder(tmp_path, SMOLLM, **WEIGHTS)
    for text in ("{", "[]", '{"text_config": 3}'):
        (made / "config.json").write_text(text)
        assert (found := need(made, "auto", None)) is not None
        assert (found.weights_bytes, found.cache) == (2 * COUNT, None)


EIGHT_B = Need("m", "bfloat16", 16 * 10**9, KvCache(131_072), 131_072, row_bytes=10**6, activation_bytes=10**5)


def test_the_total_is_the_sum_of_its_parts() -> None:
    """4 answers of 2,000 tokens: 16 GB + 4 × 2,000 × 131,072 + 4 × (1 MB + 1,024 × 100 KB)."""
    assert EIGHT_B.cache_bytes(2_000, 4) == 1_048_576_000
    assert EIGHT_B.overhead_bytes(2_000, 4) == 4 * (10**6 + 1024 * 10**5)
    assert EIGHT_B.total_bytes(2_000, 4) == 16 * 10**9 + 1_048_576_000 + 413_600_000


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("free", [10 * 10**9, 16_200_000_000, 24 * 10**9, 80 * 10**9])
def test_the_largest_context_is_the_last_that_fits(free: int, batch: int) -> None:
    most = EIGHT_B.largest_context(free, batch)
    assert most is not None
    assert most == 0 or EIGHT_B.total_bytes(most, batch) <= free
    assert most == 131_072 or EIGHT_B.total_bytes(most + 1, batch) > free
    answers = EIGHT_B.largest_batch(free, 1_000)
    assert answers is not None
    assert answers == 0 or EIGHT_B.total_bytes(1_000, answers) <= free
    assert EIGHT_B.total_bytes(1_000, answers + 1) > free


def test_of_an_unknown_cache_nothing_is_said() -> None:
    bare = Need("m", "bfloat16", 1_000)
    assert (bare.cache_bytes(5), bare.largest_context(10**9), bare.largest_batch(10**9, 5)) == (None, None, None)
    assert bare.total_bytes(10_000) == 1_000


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LATENT = {
    **TINY,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 6,
    "n_group": 1,
    "topk_group": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": TINY,
    "mistral": {**TINY, "sliding_window": 16},
    "qwen2": TINY,
    "qwen3": {**TINY, "head_dim": 16},
    "gemma3_text": {**TINY, "head_dim": 16, "sliding_window": 16},
    "phi3": {**TINY, "sliding_window": 16, "pad_token_id": 0},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "falcon": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "gpt_bigcode": {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
}
TOKENS = 40


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_what_transformers_makes(tmp_path: Path, family: str) -> None:
    """The configuration as it is saved, and the cache after a prompt and one more token, of a model of random weights.

    Between steps a window holds one token less than it sees.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **FAMILIES[family])
    config.save_pretrained(tmp_path)
    told = kv_cache(json.loads((tmp_path / "config.json").read_text()), 4)
    assert told is not None
    model = AutoModelForCausalLM.from_config(config).eval()
    batch = 3
    with torch.inference_mode():
        first = model(torch.ones((batch, TOKENS - 1), dtype=torch.long), use_cache=True)
        cache = model(torch.ones((batch, 1), dtype=torch.long), past_key_values=first.past_key_values).past_key_values
    made = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    seen = sum(each * batch for each in told.windows.values())
    assert told.at_most is False
    assert batch * told.size(TOKENS) - made == seen


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    wanted = Need("big", "bfloat16", 16 * GIB, KvCache(131_072), 8192, smaller={"int8": 9 * GIB, "nf4": 6 * GIB})
    require_room(wanted, "cuda:0", 17 * GIB)
    require_room(wanted, "cuda:0", None)
    require_room(None, "cuda:0", 0)
    # Of the smaller ones the largest that has room for a first conversation: 1,024 tokens take 0.125 GiB.
    with pytest.raises(OutOfMemoryError) as told:
        require_room(wanted, "cuda:0", 16 * GIB)
    assert str(told.value) == (
        "big needs 16.1 GiB in bfloat16, cuda:0 has 16.0 GiB free; --quant int8 needs 9.1 GiB and would fit"
    )
    with pytest.raises(OutOfMemoryError, match=r"--quant nf4 needs 6\.1 GiB and would fit$"):
        require_room(wanted, "cuda:0", 9 * GIB)
    with pytest.raises(OutOfMemoryError, match="nothing smaller of this model fits"):
        require_room(wanted, "cuda:0", 6 * GIB)


def a_cgroup(path: Path, limit: str) -> Path:
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text("6000\n")
    (path / "memory.stat").write_text("anon 4000\ninactive_file 1500\nactive_file 500\n")
    return path


def test_main_memory_ends_at_the_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = free_ram(tmp_path)
    assert machine is not None
    assert free_ram(a_cgroup(tmp_path, "10000")) == 5500, "what was read and can be dropped is free"
    assert free_ram(a_cgroup(tmp_path, "2000")) == 0
    # A GGUF file, and the cache beside it, have no more.
    monkeypatch.setattr(free_ram, "__defaults__", (tmp_path,))
    with pytest.raises(
        OutOfMemoryError, match=r"some.gguf needs 0.0 GiB, the machine has 0.0 GiB free; choose another"
    ):
        require_ram(1000, "some.gguf", "choose another")
    unlimited = free_ram(a_cgroup(tmp_path, "max"))
    assert unlimited is not None
    assert unlimited > 10_000


@pytest.fixture
def models(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Models]:
    return lambda: Models(TokMagic(home=str(tiny_home)))


@pytest.mark.model
def test_a_model_that_does_not_fit_leaves_the_loaded_one(
    models: Callable[[], Models], tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = models()
    first = opened.load("smollm2", lambda _doing, _share: None, keep_others=False)
    assert isinstance(first, LocalEngine)
    held, wanted = first.held(), first.need()
    assert held is not None
    assert wanted is not None
    assert held.weights_bytes == pytest.approx(wanted.weights_bytes, abs=1_000), "beside the weights small buffers"
    opened.add("second", ModelSpec("smollm2", device="cpu"))
    total = wanted.total_bytes(memory.FIRST_TOKENS)
    try:
        # Where the one that is loaded would have to give way, what it holds counts as free.
        monkeypatch.setattr("tokmagic.engines.local.engine.free_bytes", lambda _device: total - held.weights_bytes - 1)
        with pytest.raises(OutOfMemoryError, match=r"needs .* GiB in float32"):
            opened.load("second", lambda _doing, _share: None)
        assert opened.loaded() == ["smollm2"]
        monkeypatch.setattr("tokmagic.engines.local.engine.free_bytes", lambda _device: total - held.weights_bytes)
        opened.load("second", lambda _doing, _share: None)
        assert opened.loaded() == ["second"]
    finally:
        opened.close()
    assert first.held() is None
