#!/usr/bin/env bash
# opentelemetry-instrumentation-openai 0.62.4 (OpenLLMetry) with openai 3.57.0 and opentelemetry-sdk 1.45.2
#
# A server that sends a chunk with the role as soon as it has a request, and the first token when there is one, as
# gateways and some servers do: OpenLLMetry's gen_ai.server.time_to_first_token ends with the role, when no token was
# sent. If the role comes with the first token it is right. The span of a whole answer tells the reasoning tokens; that of
# the same answer in a stream, with the same usage, tells the cached tokens and leaves the reasoning out.
#
# Seen:
#   role at once: time to first token ends before it was sent
#   role with the first token: time to first token ends when it came
#   whole: 20 in, 16 of them cached, 108 out, 100 of them reasoning
#   stream: 20 in, 16 of them cached, 108 out, None of them reasoning
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q opentelemetry-instrumentation-openai==0.62.4 openai==3.57.0 \
  opentelemetry-sdk==1.45.2
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from openai import OpenAI
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

USAGE = {
    "prompt_tokens": 20, "completion_tokens": 108, "total_tokens": 128,
    "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"reasoning_tokens": 100},
}
ROLE = {"role": "assistant", "content": ""}
WAITS_S = 3
PARTS = "input_tokens", "cache_read.input_tokens", "output_tokens", "reasoning_tokens"


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
        self.end_headers()
        base = {"id": "c", "created": 1, "model": body["model"], "object": "chat.completion"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "Red."}
            whole = {**base, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
            self.wfile.write(json.dumps(whole).encode())
            return
        late = body["model"] == "late"
        for wait_s, delta in (0, ROLE), (WAITS_S, {"content": "Red."}), (0, None):
            if late and delta == ROLE:
                continue
            time.sleep(wait_s)
            more = {"choices": [], "usage": USAGE}
            if delta is not None:
                delta = {**ROLE, **delta} if late else delta
                reason = "stop" if delta["content"] else None
                more = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            chunk = {**base, "object": "chat.completion.chunk", **more}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


def ask(model, stream=True):
    """What the span of one call has of its counts."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    given = CLIENT.chat.completions.create(model=model, messages=[{"role": "user", "content": "A colour"}], **more)
    if stream:
        list(given)
    span = spans.get_finished_spans()[-1]
    return [span.attributes.get(f"gen_ai.usage.{part}") for part in PARTS]


def ends(model):
    made = (it for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for it in s.metrics)
    points = (at for it in made if it.name == "gen_ai.server.time_to_first_token" for at in it.data.data_points)
    (took_s,) = (at.sum for at in points if at.attributes["gen_ai.response.model"] == model)
    return "before it was sent" if took_s < WAITS_S else "when it came"


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
CLIENT = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
spans, reader, traces = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
traces.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=traces, meter_provider=MeterProvider([reader]))
counts, _, whole = ask("early"), ask("late"), ask("whole", stream=False)
print("role at once: time to first token ends", ends("early"))
print("role with the first token: time to first token ends", ends("late"))
for name, of in ("whole", whole), ("stream", counts):
    print("{}: {} in, {} of them cached, {} out, {} of them reasoning".format(name, *of))
PYTHON
export TRACELOOP_TELEMETRY=false
timeout 120 "$folder/env/bin/python" -P "$folder/seen.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
role at once: time to first token ends before it was sent
role with the first token: time to first token ends when it came
whole: 20 in, 16 of them cached, 108 out, 100 of them reasoning
stream: 20 in, 16 of them cached, 108 out, None of them reasoning
SEEN
