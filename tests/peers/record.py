"""Record how the servers of others answer: ``make peers && .venv/bin/python -m tests.peers.record``.

Each answer becomes ``tests/fixtures/peers/PEER/NAME.txt``, and what was asked an entry of ``requests.json`` there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.peers.cases import CASES, SERVER_DIES, Asked, answer, body_of
from tests.peers.recordings import FOLDER
from tests.peers.servers import ROOT, Peer, litellm_proxy, transformers_serve
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.local.store import locate

ROUNDS = [(CASES["transformers"], CASES["litellm"]), (SERVER_DIES, {}), ({}, SERVER_DIES)]
"""What is asked of a new model server, and of the proxy before it."""


def main() -> None:
    home = Path(os.environ.get("TOKMAGIC_TEST_HOME") or ROOT / ".cache" / "test-home")
    located = locate(ModelSpec("smollm2"), TokMagic(home=str(home)))
    if located is None:
        raise SystemExit(f"the default model is not in {home}; run `make test` once")
    requests: dict[str, object] = {}
    for direct, proxied in ROUNDS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with transformers_serve(folder, located.folder) as model:
                requests |= record(model, direct, model.pid)
                if proxied:
                    (folder / "proxy").mkdir()
                    with litellm_proxy(folder / "proxy", model) as proxy:
                        requests |= record(proxy, proxied, model.pid)
    text = json.dumps(dict(sorted(requests.items())), indent=1, ensure_ascii=False)
    (FOLDER / "requests.json").write_text(text + "\n", encoding="utf-8")


def record(peer: Peer, cases: Mapping[str, Asked], model_pid: int) -> dict[str, object]:
    """Write the answers to ``cases`` down; return what was asked."""
    requests: dict[str, object] = {}
    for name, asked in cases.items():
        path = FOLDER / peer.name / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer(peer, asked, model_pid).to_bytes())
        requests[f"{peer.name}/{name}"] = request_of(peer, asked)
    return requests


def request_of(peer: Peer, asked: Asked) -> dict[str, object]:
    request: dict[str, object] = {"method": asked.method, "path": asked.path}
    if asked.method == "POST":
        body = body_of(peer.model, asked)
        request["body"] = body if isinstance(asked.body, str) else json.loads(body)
    return request


if __name__ == "__main__":
    main()
