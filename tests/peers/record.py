"""Record how the servers of others answer: ``make peers && .venv/bin/python -m tests.peers.record [PEER[/CASE]…]``.

Each answer becomes ``tests/fixtures/peers/PEER/CASE.txt``, and what was asked an entry of ``requests.json`` there.
Without names, all are recorded.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.peers.cases import CASES, SERVER_DIES, Asked, answer, body_of
from tests.peers.recordings import FOLDER
from tests.peers.servers import ROOT, Peer, litellm_proxy, llama_cpp, mlx_server, transformers_serve
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.store import locate

ROUNDS = [*CASES.items(), ("transformers", SERVER_DIES), ("litellm", SERVER_DIES)]
"""What is asked of which server, newly started for it."""

_MACHINE = re.compile(rb'(?<=-Linux)-[^"]*')
"""What mlx-lm's fingerprint says of the machine."""


def main(chosen: Sequence[str]) -> None:
    home = Path(os.environ.get("TOKMAGIC_TEST_HOME") or ROOT / ".cache" / "test-home")
    located = locate(ModelSpec("smollm2"), TokMagic(home=str(home)))
    if located is None:
        raise SystemExit(f"the default model is not in {home}; run `make test` once")
    file = FOLDER / "requests.json"
    requests: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    for name, cases in ROUNDS:
        wanted = {case: cases[case] for case in cases if not chosen or {name, f"{name}/{case}"} & set(chosen)}
        if wanted:
            with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
                requests |= record(*started(name, Path(scratch), located.folder, running), wanted)
    text = json.dumps(dict(sorted(requests.items())), indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def started(name: str, scratch: Path, weights: Path, running: ExitStack) -> tuple[Peer, int]:
    """A server of this name, and the process that runs its model."""

    def start(server: AbstractContextManager[Peer]) -> Peer:
        return running.enter_context(server)

    def folder(of: str) -> Path:
        (scratch / of).mkdir()
        return scratch / of

    if name == "llama.cpp":
        peer = start(llama_cpp(folder(name)))
        return peer, peer.pid
    if name == "mlx":
        peer = start(mlx_server(folder(name), weights))
        return peer, peer.pid
    model = start(transformers_serve(folder("transformers"), weights))
    if name == "transformers":
        return model, model.pid
    return start(litellm_proxy(folder(name), model, start(llama_cpp(folder("llama.cpp"))))), model.pid


def record(peer: Peer, model_pid: int, cases: Mapping[str, Asked]) -> dict[str, object]:
    """Write the answers to ``cases`` down; return what was asked."""
    requests: dict[str, object] = {}
    for name, asked in cases.items():
        path = FOLDER / peer.name / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_MACHINE.sub(b"", answer(peer, asked, model_pid).to_bytes()))
        requests[f"{peer.name}/{name}"] = request_of(peer, asked)
    return requests


def request_of(peer: Peer, asked: Asked) -> dict[str, object]:
    request: dict[str, object] = {"method": asked.method, "path": asked.path}
    if asked.method == "POST":
        body = body_of(peer.model, asked)
        request["body"] = body if isinstance(asked.body, str) else json.loads(body)
    return request


if __name__ == "__main__":
    main(sys.argv[1:])
