#!/usr/bin/env bash
# openinference-instrumentation-openai 0.1.66 with openai 3.57.0
#
# A streamed answer of the Responses API that reaches its max_output_tokens ends with the event response.incomplete, which
# has the text and the usage as response.completed has them. OpenInference's span of it has neither, and is OK like any
# other; the same answer that is not streamed, and a streamed one that ended by itself, have both. The answers that are cut
# are the longest ones, so that a sum of a trace's tokens, or of their cost, leaves out the dearest without a sign.
#
# Seen:
#   completed, whole: OK, 1200 + 800 tokens, its text is there
#   completed, streamed: OK, 1200 + 800 tokens, its text is there
#   incomplete, whole: OK, 1200 + 800 tokens, its text is there
#   incomplete, streamed: OK, None + None tokens, its text is not there
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q openinference-instrumentation-openai==0.1.66 openai==3.57.0 \
    opentelemetry-sdk==1.45.2
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
from openinference.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

USAGE = {
    "input_tokens": 1200, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 800,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2000,
}


def answer(status, **fields):
    content = [{"type": "output_text", "text": "A long red line", "annotations": []}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "status": status, "error": None,
        "incomplete_details": cut, "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "usage": USAGE, **fields,
    }


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = "incomplete" if asked.get("max_output_tokens") else "completed"
        begun = {"type": "response.created", "sequence_number": 0}
        ended = {"type": f"response.{status}", "sequence_number": 1, "response": answer(status)}
        events = [begun | {"response": answer("in_progress", output=[], usage=None)}, ended]
        streamed = asked.get("stream")
        lines = "".join(f"event: {it['type']}\ndata: {json.dumps(it)}\n\n" for it in events)
        body = (lines if streamed else json.dumps(answer(status))).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=provider)
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
for status, limit in (("completed", {}), ("incomplete", {"max_output_tokens": 800})):
    for how in ("whole", "streamed"):
        answered = client.responses.create(model="gpt-5-mini", input="A line", stream=how == "streamed", **limit)
        if how == "streamed":
            assert list(answered)[-1].response.usage.total_tokens == 2000
        (span,) = spans.get_finished_spans()
        spans.clear()
        tokens = " + ".join(str(span.attributes.get(f"llm.token_count.{it}")) for it in ("prompt", "completion"))
        text = "is" if any("A long red line" in str(value) for value in span.attributes.values()) else "is not"
        print(f"{status}, {how}: {span.status.status_code.name}, {tokens} tokens, its text {text} there")
PYTHON
"$folder/env/bin/python" -P "$folder/seen.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
completed, whole: OK, 1200 + 800 tokens, its text is there
completed, streamed: OK, 1200 + 800 tokens, its text is there
incomplete, whole: OK, 1200 + 800 tokens, its text is there
incomplete, streamed: OK, None + None tokens, its text is not there
SEEN
