"""How long a person waits before the first prompt: the command, loading the extension, making the default model ready.

``python -m benchmarks.startup``: the model must have been pulled. Each measurement is a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import report, spread
from tests.kernels import running_kernel

ROUNDS = 5
COMMAND = str(Path(sys.executable).with_name("tokmagic"))

KERNEL = """\
import sys, time
began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "tokmagic")
print(time.perf_counter() - began, "torch" in sys.modules)
"""

SHELL = """\
import time
began = time.perf_counter()
import IPython
imported = time.perf_counter() - began
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
began = time.perf_counter()
shell.run_line_magic("load_ext", "tokmagic")
print(imported, time.perf_counter() - began)
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


def kernel_load_ext_s() -> float:
    """Seconds of ``%load_ext tokmagic`` in a kernel, in which torch must not appear."""
    with running_kernel() as kernel:
        ran = kernel.run(KERNEL)
        seconds, torch_loaded = ran.stdout.split()
        assert torch_loaded == "False", "the extension imported torch"
        return float(seconds)


def printed_s(code: str) -> list[float]:
    """The seconds that ``code`` prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def process_s(*command: str) -> float:
    """Seconds from a process's start to its end."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Run all of them, several times, in turn; the first time only to warm the file cache."""
    measured: dict[str, list[float]] = {}
    for _ in range(ROUNDS + 1):
        imported, loaded = printed_s(SHELL)
        took = {
            "import_ipython_s": imported,
            "load_ext_s": loaded,
            "load_ext_per_import_ipython": loaded / imported,
            "python_pass_s": process_s(sys.executable, "-c", "pass"),
            "version_s": process_s(COMMAND, "--version"),
            "kernel_load_ext_s": kernel_load_ext_s(),
            "model_ready_s": printed_s(READY)[0],
        }
        for name, seconds in took.items():
            measured.setdefault(name, []).append(seconds)
    kept = {name: values[1:] for name, values in measured.items()}
    ratio = median(kept["version_s"]) / median(kept["python_pass_s"])
    results = {name: spread(values) for name, values in kept.items()}
    report("startup", {**results, "version_per_python_pass": ratio, "rounds": ROUNDS})


if __name__ == "__main__":
    main()
