"""How long a person waits before the first prompt: loading the extension, and making the default model ready.

``python -m benchmarks.startup``: the model must have been pulled.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks import report, spread
from tests.kernels import running_kernel

ROUNDS = 5

LOAD_EXT = """\
import sys, time
began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "tokmagic")
print(time.perf_counter() - began, "torch" in sys.modules)
"""

READY = """\
import time
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from tokmagic.runs.session import Session
began = time.perf_counter()
Session().load("smollm2")
print(time.perf_counter() - began)
"""


def load_ext_s() -> float:
    """Seconds of ``%load_ext tokmagic`` in a fresh kernel, in which torch must not appear."""
    with running_kernel() as kernel:
        ran = kernel.run(LOAD_EXT)
        seconds, torch_loaded = ran.stdout.split()
        assert torch_loaded == "False", "the extension imported torch"
        return float(seconds)


def ready_s() -> float:
    """Seconds from the imports to weights and tokenizer being ready, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", READY], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Run both, several times, in turn."""
    loads, readies = [], []
    for _ in range(ROUNDS):
        loads.append(load_ext_s())
        readies.append(ready_s())
    report("startup", {"load_ext_s": spread(loads), "model_ready_s": spread(readies), "rounds": ROUNDS})


if __name__ == "__main__":
    main()
