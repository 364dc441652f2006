#!/usr/bin/env bash
# arize-phoenix 20.26.1 with opentelemetry-instrumentation-genai-anthropic 1.3b0 and
# openinference-instrumentation-anthropic 3.1.0, for anthropic 2.14.0
#
# Anthropic's SDK gets an answer of 200 plain input tokens, 800 written to a cache and 100 output tokens. It is traced
# by each of the two instrumentations, and both send their span to the same Phoenix. Both say 1,000 input tokens.
# OpenTelemetry's own instrumentation names those that were written gen_ai.usage.cache_write.input_tokens; Phoenix knows
# such spans, but reads that number by another name alone, gen_ai.usage.cache_creation.input_tokens. It does read the
# total, so nothing looks amiss: the 800 are charged at the plain rate, and the same answer has two costs.
#
# Seen:
#   opentelemetry: 1000 input tokens, None written to a cache, $0.004500
#   openinference: 1000 input tokens, 800 written to a cache, $0.005100
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/phoenix"
"$folder/phoenix/bin/python" -m pip install -q arize-phoenix==20.26.1
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q anthropic==2.14.0 \
  opentelemetry-instrumentation-genai-anthropic==1.3b0 openinference-instrumentation-anthropic==3.1.0 \
  opentelemetry-semantic-conventions==0.66b2 opentelemetry-exporter-otlp-proto-http==1.45.2
cat > "$folder/ask.py" <<'PYTHON'
import json
import os
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import anthropic
from openinference.instrumentation.anthropic import AnthropicInstrumentor as OpenInference
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor as OpenTelemetry
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

PHOENIX = f"http://127.0.0.1:{os.environ['PHOENIX_PORT']}"
WRITTEN = {"ephemeral_5m_input_tokens": 800, "ephemeral_1h_input_tokens": 0}
USAGE = {
    "input_tokens": 200, "cache_creation_input_tokens": 800, "cache_read_input_tokens": 0, "cache_creation": WRITTEN,
    "output_tokens": 100, "service_tier": "standard",
}
QUERY = """{projects {edges {node {name spans(first: 9) {edges {node {
  tokenCountPrompt tokenPromptDetails {cacheWrite} costSummary {total {cost}}}}}}}}}"""


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        answer = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
            "stop_sequence": None, "content": [{"type": "text", "text": "Red"}], "usage": USAGE,
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def spans():
    request = urllib.request.Request(
        f"{PHOENIX}/graphql", json.dumps({"query": QUERY}).encode(), {"content-type": "application/json"}
    )
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    projects = [it["node"] for it in answer["data"]["projects"]["edges"]]
    return {it["name"]: [span["node"] for span in it["spans"]["edges"]] for it in projects}


for _ in range(600):
    try:
        urllib.request.urlopen(f"{PHOENIX}/healthz", timeout=5)
        break
    except (urllib.error.URLError, ConnectionError):
        time.sleep(0.2)
server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
instrumentations = {"opentelemetry": OpenTelemetry, "openinference": OpenInference}
for name, instrumentation in instrumentations.items():
    provider = TracerProvider(resource=Resource({"openinference.project.name": name}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{PHOENIX}/v1/traces")))
    instrumentation().instrument(tracer_provider=provider)
    client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none")
    message = {"role": "user", "content": "A colour"}
    client.messages.create(model="claude-sonnet-4-5", max_tokens=200, messages=[message])
    instrumentation().uninstrument()
    provider.shutdown()
for _ in range(300):  # Phoenix stores spans, then prices them, in its own time
    found = spans()
    if all(found.get(name) and found[name][0]["costSummary"]["total"]["cost"] for name in instrumentations):
        break
    time.sleep(0.2)
for name in instrumentations:
    (span,) = found[name]
    written, cost = span["tokenPromptDetails"]["cacheWrite"], span["costSummary"]["total"]["cost"]
    print(f"{name}: {span['tokenCountPrompt']} input tokens, {written} written to a cache, ${cost:.6f}")
PYTHON
free='import socket; it = socket.create_server(("127.0.0.1", 0)); print(it.getsockname()[1])'
PHOENIX_PORT=$(python3 -c "$free")
PHOENIX_GRPC_PORT=$(python3 -c "$free")
export PHOENIX_PORT PHOENIX_GRPC_PORT PHOENIX_HOST=127.0.0.1 PHOENIX_WORKING_DIR="$folder/kept" PHOENIX_TELEMETRY_ENABLED=false
"$folder/phoenix/bin/phoenix" serve > "$folder/log" 2>&1 &
server=$!
timeout 300 "$folder/env/bin/python" -P "$folder/ask.py" 2> /dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
opentelemetry: 1000 input tokens, None written to a cache, $0.004500
openinference: 1000 input tokens, 800 written to a cache, $0.005100
SEEN
