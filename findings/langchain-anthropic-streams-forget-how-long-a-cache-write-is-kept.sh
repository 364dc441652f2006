#!/usr/bin/env bash
# langchain-anthropic 1.7.10 with anthropic 2.14.0
#
# An answer wrote 500 tokens to a cache for an hour, which costs twice the plain rate (for five minutes it is 1.25 times).
# Anthropic says so in a whole answer and in the first event of a stream. LangChain's usage_metadata tells it of the whole
# answer alone, where it moves the 500 out of cache_creation, which is 0 then; of the same answer streamed it tells 500 in
# cache_creation and of no lifetime. So a reader that prices by lifetime misses the streamed ones, and one that looks at
# cache_creation misses the whole ones.
#
# Seen:
#   whole: {"cache_creation": 0, "cache_read": 300, "ephemeral_1h_input_tokens": 500, "ephemeral_5m_input_tokens": 0}
#   streamed: {"cache_creation": 500, "cache_read": 300}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q langchain-anthropic==1.7.10 langchain-core==1.8.3 anthropic==2.14.0
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
from functools import reduce
from http.server import BaseHTTPRequestHandler, HTTPServer
from operator import add

from langchain_anthropic import ChatAnthropic

LATER = {"input_tokens": 200, "cache_creation_input_tokens": 500, "cache_read_input_tokens": 300, "output_tokens": 9}
USAGE = {**LATER, "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 500}}
WHOLE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "Red"}], "usage": USAGE,
}
BEGUN = {**WHOLE, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
EVENTS = [
    ("message_start", {"message": BEGUN}),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Red"}}),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": LATER}),
    ("message_stop", {}),
]


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        streamed = json.loads(self.rfile.read(int(self.headers["content-length"]))).get("stream")
        lines = [f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n" for kind, fields in EVENTS]
        body = ("".join(lines) if streamed else json.dumps(WHOLE)).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
model = ChatAnthropic(model="claude-sonnet-4-5", base_url=url, api_key="none", max_retries=0)
for how, answer in (("whole", model.invoke("A colour")), ("streamed", reduce(add, model.stream("A colour")))):
    print(f"{how}: {json.dumps(answer.usage_metadata['input_token_details'], sort_keys=True)}")
PYTHON
"$folder/env/bin/python" -P "$folder/seen.py" 2> /dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
whole: {"cache_creation": 0, "cache_read": 300, "ephemeral_1h_input_tokens": 500, "ephemeral_5m_input_tokens": 0}
streamed: {"cache_creation": 500, "cache_read": 300}
SEEN
