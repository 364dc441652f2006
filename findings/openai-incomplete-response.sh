#!/usr/bin/env bash
# openai 3.57.0 (Python)
#
# A streamed answer of the Responses API that reaches its max_output_tokens ends with the event response.incomplete, which
# the SDK has a type for. Its helper reads the whole stream, hands that event out, and then get_final_response says that no
# final response came; the same answer without a limit reached is returned.
#
# Seen:
#   response.completed: Red
#   response.incomplete: RuntimeError: Didn't receive a `response.completed` event.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q openai==3.57.0
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

PART = {"type": "output_text", "text": "Red", "annotations": [], "logprobs": []}
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [PART]}


def response(status, output, incomplete):
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None, "model": "m",
        "incomplete_details": incomplete, "output": output, "parallel_tool_calls": False, "tool_choice": "none",
        "tools": [], "temperature": 1.0, "top_p": 1.0, "instructions": None, "metadata": {},
    }


class Server(BaseHTTPRequestHandler):
    last = "completed"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        why = {"reason": "max_output_tokens"} if self.last == "incomplete" else None
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        empty = {**ITEM, "status": "in_progress", "content": []}
        events = [
            ("response.created", {"response": response("in_progress", [], None)}),
            ("response.output_item.added", {"output_index": 0, "item": empty}),
            ("response.content_part.added", {**place, "part": {**PART, "text": ""}}),
            ("response.output_text.delta", {**place, "delta": "Red", "logprobs": []}),
            ("response.output_text.done", {**place, "text": "Red", "logprobs": []}),
            ("response.content_part.done", {**place, "part": PART}),
            ("response.output_item.done", {"output_index": 0, "item": ITEM}),
            (f"response.{self.last}", {"response": response(self.last, [ITEM], why)}),
        ]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number, (kind, fields) in enumerate(events):
            data = json.dumps({"type": kind, "sequence_number": number, **fields})
            self.wfile.write(f"event: {kind}\ndata: {data}\n\n".encode())

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
for Server.last in ("completed", "incomplete"):
    with client.responses.stream(model="m", input="A colour", max_output_tokens=16) as stream:
        events = list(stream)
        try:
            told = stream.get_final_response().output_text
        except RuntimeError as error:
            told = f"RuntimeError: {error}"
    print(f"{events[-1].type}: {told}")
PYTHON
"$folder/env/bin/python" "$folder/seen.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
response.completed: Red
response.incomplete: RuntimeError: Didn't receive a `response.completed` event.
SEEN
