"""Start and end the servers of others: on loopback, at a free port, each in a folder of its own that keeps its log.

``make peers`` installs them under ``.cache/peers``, outside the project's environment: LiteLLM pins what it needs.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent.parent
TETHERED = Path(__file__).with_name("tethered.py")
LLAMA_CPP = Path(__file__).with_name("llama_cpp.py")
ENVIRONMENTS = ROOT / ".cache" / "peers"
START_S = 180  # each is ready in 7 s on two idle cores
STOP_S = 10
ATTEMPTS = 3
LOG_LINES = 60

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
CANNED = "One two three four five six seven eight nine ten."
MOCKED_ERRORS = {
    "limited": "litellm.RateLimitError",
    "broken": "litellm.InternalServerError",
    "too-long": "litellm.ContextWindowExceededError",
}
"""Models of the proxy that fail in one way each, by what makes LiteLLM do so."""
PRICES_USD = {"input_cost_per_token": 1e-6, "cache_read_input_token_cost": 1e-7, "output_cost_per_token": 1e-5}
"""What the proxy's model ``priced`` costs, in LiteLLM's words."""


class NotInstalledError(RuntimeError):
    """A peer's environment is missing."""


class PeerError(RuntimeError):
    """A peer did not start; the message ends with its log."""


@dataclass(frozen=True)
class Peer:
    """A running server: where it listens, what to ask it for, and the process behind it."""

    name: str
    base_url: str
    """Ends in ``/v1``."""
    model: str
    key: str | None
    """The key it accepts; None if it looks at none."""
    pid: int
    log: Path

    def log_tail(self) -> str:
        """The last lines it logged."""
        return _tail(self.log.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def transformers_serve(folder: Path, weights: Path) -> Iterator[Peer]:
    """Run ``transformers serve`` on the CPU with the model in ``weights``.

    The server gets a link named like the model on the hub, so its answers name the model and no path of this machine.
    It answers one request after another, and looks at no key.
    """
    _link(folder, weights)
    (folder / "hf" / "hub").mkdir(parents=True)  # without it /v1/models is a 500
    command = ["transformers.cli.transformers", "serve", MODEL_ID, "--device", "cpu", "--host", "127.0.0.1", "--port"]
    # One thread: threads that wait for each other crawl where other programs use the cores too.
    variables = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with _running("transformers", folder, command, variables, "/health") as (port, pid, log):
        yield Peer("transformers", f"http://127.0.0.1:{port}/v1", MODEL_ID, None, pid, log)


def _link(folder: Path, weights: Path) -> None:
    link = folder / MODEL_ID
    link.parent.mkdir(parents=True)
    link.symlink_to(weights.resolve(), target_is_directory=True)


@contextmanager
def llama_cpp(folder: Path) -> Iterator[Peer]:
    """Run llama.cpp's server with the GGUF that the default model is made of. It looks at no key."""
    command = [str(LLAMA_CPP), MODEL_ID]
    with _running("llama.cpp", folder, command, {}, "/health", environment="tokenizers") as (port, pid, log):
        yield Peer("llama.cpp", f"http://127.0.0.1:{port}/v1", MODEL_ID, None, pid, log)


@contextmanager
def mlx_server(folder: Path, weights: Path) -> Iterator[Peer]:
    """Run mlx-lm's server on the CPU with the model in ``weights``. It looks at no key."""
    _link(folder, weights)
    command = ["mlx_lm", "server", "--model", MODEL_ID, "--host", "127.0.0.1", "--port"]
    variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with _running("mlx", folder, command, variables, "/health") as (port, pid, log):
        yield Peer("mlx", f"http://127.0.0.1:{port}/v1", MODEL_ID, None, pid, log)


@contextmanager
def litellm_proxy(folder: Path, upstream: Peer, priced: Peer) -> Iterator[Peer]:
    """Run LiteLLM's proxy. Its models:

    - ``smollm2``: proxied to ``upstream``
    - ``priced``: proxied to ``priced``, at PRICES_USD
    - ``canned``: answers CANNED, in pieces of three characters, with made-up usage
    - those of MOCKED_ERRORS: fail, each in its way
    - ``unreachable``: proxied to where nobody listens
    """
    key = "sk-tests-only"
    config = folder / "config.json"
    config.write_text(json.dumps(_litellm_config(key, upstream, priced)), encoding="utf-8")
    command = ["litellm.proxy.proxy_cli", "--config", str(config), "--host", "127.0.0.1", "--port"]
    variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # otherwise it fetches prices when it starts
    with _running("litellm", folder, command, variables, "/health/liveliness") as (port, pid, log):
        yield Peer("litellm", f"http://127.0.0.1:{port}/v1", "smollm2", key, pid, log)


@contextmanager
def marimo_editor(folder: Path, notebook: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Open a notebook that is in ``folder`` in marimo's editor, and yield its address, with the token it asks for.

    Its kernel is a process of its own, which ends within seconds of the server.
    """
    token = secrets.token_hex(16)
    flags = ["--headless", "--skip-update-check", "--no-sandbox", "--host", "127.0.0.1", "--token-password", token]
    command = ["marimo", "edit", notebook, *flags, "--port"]
    # Where the project is installed by a path to its sources, that path is not seen from another environment.
    with _running("marimo", folder, command, {"PYTHONPATH": str(ROOT), **variables}, "/health") as (port, _, _):
        yield f"http://127.0.0.1:{port}/?access_token={token}"


def _litellm_config(key: str, upstream: Peer, priced: Peer) -> dict[str, object]:
    """The proxy's configuration; it is read as YAML, and JSON is that."""

    def proxied(peer: Peer) -> dict[str, object]:
        return {"model": f"openai/{peer.model}", "api_base": peer.base_url, "api_key": peer.key or "none"}

    hosted = {"model": "openai/gpt-4o-mini", "api_key": "none"}
    models: dict[str, dict[str, object]] = {
        "smollm2": proxied(upstream),
        "priced": {**proxied(priced), **PRICES_USD},
        "canned": {**hosted, "mock_response": CANNED},
        **{name: {**hosted, "mock_response": error} for name, error in MOCKED_ERRORS.items()},
        "unreachable": {**hosted, "api_base": f"http://127.0.0.1:{_free_port()}/v1"},
    }
    return {
        "model_list": [{"model_name": name, "litellm_params": params} for name, params in models.items()],
        "general_settings": {"master_key": key},
        "litellm_settings": {"num_retries": 0, "telemetry": False},
    }


@contextmanager
def _running(
    name: str,
    folder: Path,
    command: Sequence[str],
    variables: Mapping[str, str],
    health: str,
    environment: str | None = None,
) -> Iterator[tuple[int, int, Path]]:
    """Run ``command``, a module and its arguments up to the port; yield the port, the process's id and its log.

    It runs in the ``environment`` of this name, otherwise of its own.
    """
    python = interpreter(environment or name)
    log = folder / "log"
    # Nothing of the person's: neither keys, nor proxies, nor settings of these servers.
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONUNBUFFERED": "1", **variables}
    for attempt in range(ATTEMPTS):
        port = _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-P", TETHERED, *command, str(port)],
                cwd=folder,
                env=clean,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            problem = _wait_until_ready(process, f"http://127.0.0.1:{port}{health}")
            if problem is None:
                yield port, process.pid, log
                return
        finally:
            _stop(process)
        text = log.read_text(encoding="utf-8", errors="replace")
        taken = "address already in use" in text.lower()  # by another program, meanwhile
        if not taken or attempt == ATTEMPTS - 1:
            raise PeerError(f"{name} {problem}; its log ends:\n{_tail(text)}")


def interpreter(name: str) -> Path:
    """The Python of a peer's environment. Raises NotInstalledError."""
    return environment_of(name) / "bin" / "python"


def environment_of(name: str) -> Path:
    """The folder that a peer was installed into. Raises NotInstalledError."""
    environment = ENVIRONMENTS / name
    if not (environment / ".installed").exists():
        raise NotInstalledError(f"{name} is not installed for the tests; run `make peers`")
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> str | None:
    """Return None once ``url`` answers, or what went wrong instead."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return f"ended with status {process.returncode} while it started"
        try:
            if httpx2.get(url, timeout=5, trust_env=False).is_success:
                return None
        except httpx2.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    return f"did not answer {url} within {START_S} s"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server at once: it keeps nothing, and an orderly end would wait for its open streams."""
    process.kill()
    process.wait(STOP_S)
    if process.stdin is not None:
        process.stdin.close()


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-LOG_LINES:])
