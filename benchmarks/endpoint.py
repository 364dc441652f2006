"""Whether streaming from an endpoint keeps up: a server sends 2,000 tokens a second, each an event of its own.

``python -m benchmarks.endpoint [RUNS]``: in a real kernel with the live channel open, ``%%generate`` with its streamed
output at a server of another process. Printed are the rate at which the server could send, the rate at which the run
took it in, how long after the server's last event the run's last token was stamped (``lag_ms``: what queued up), when
the cell was done after that (``done_ms``), and the live messages of a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from benchmarks import report, spread

RATE = 2_000
TOKENS = 10_000


def serve() -> None:
    """The server: prints its port, then answers each request with paced events, and prints when the last one went."""
    from tests.servers import Asked, Wire, chunk, usage_chunk
    from tests.servers import serve as running

    def script(_asked: Asked, wire: Wire) -> None:
        event = f"data: {json.dumps(chunk(' word'))}\n\n"
        wire.open_stream()
        began = time.perf_counter()
        for number in range(TOKENS):
            wire.send(event)
            ahead = began + (number + 1) / RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
        wire.event(chunk(reason="stop"))
        print(json.dumps({"last_ns": time.perf_counter_ns(), "seconds": time.perf_counter() - began}), flush=True)
        wire.event(usage_chunk({"prompt_tokens": 10, "completion_tokens": TOKENS}))
        wire.end()

    with running(script) as endpoint:
        print(endpoint.url, flush=True)
        sys.stdin.read()


def measure(runs: int) -> dict[str, Any]:
    """Start both, run the cell and compare the clocks, which all processes of a machine share."""
    from tests.kernels import running_kernel

    server = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.endpoint import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    told = "import json, time; r = g.record.reading; print(json.dumps([t0, r.latency_s, t1]))"
    found: dict[str, list[float]] = {
        "sent_per_s": [],
        "taken_per_s": [],
        "lag_ms": [],
        "done_ms": [],
        "messages_per_s": [],
    }
    with running_kernel() as kernel:
        setup = f"%load_ext tokmagic\n%model add e m --api-base {url}\n%price e --input 1 --output 2"
        assert kernel.run(setup).ok
        for _ in range(runs):
            source = (
                "import time\nt0 = time.perf_counter()\n"
                f"get_ipython().run_cell_magic('generate', '-m e --no-cache --max-tokens {TOKENS} --into g', 'Hi')\n"
                f"t1 = time.perf_counter()\n{told}"
            )
            ran = kernel.run(source, timeout_s=120)
            assert ran.ok, ran.error
            began, latency_s, done = json.loads(ran.stdout.splitlines()[-1])
            sent = json.loads(server.stdout.readline())
            found["sent_per_s"].append(TOKENS / sent["seconds"])
            found["taken_per_s"].append(TOKENS / latency_s)
            found["lag_ms"].append((began + latency_s) * 1e3 - sent["last_ns"] / 1e6)
            found["done_ms"].append(done * 1e3 - sent["last_ns"] / 1e6)
            found["messages_per_s"].append(len(ran.snapshots) / (done - began))
    server.communicate()
    return {"tokens": TOKENS, "wanted_per_s": RATE, **{name: spread(values) for name, values in found.items()}}


if __name__ == "__main__":
    report("endpoint", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
