#!/usr/bin/env bash
# nemoguardrails 0.24.1 (its server, OpenAI-compatible)
#
# The server asks the model once whether the question is allowed, once for the answer, and once whether that is allowed.
# The model says that the answer was cut at its limit, and counts 13 tokens for it and 101 for each check. What comes back
# has the finish reason "stop" and no usage. Streamed, it has no finish reason at all, and no usage either, though that was
# asked for (stream_options) and the server itself asks the model for it. So a client that looks for cut answers finds none,
# and one that counts by the text misses most of what its question took: the checks.
#
# Seen:
#   the model was asked 3 times, for 215 tokens; it said stop, length, stop
#   whole: 'Red and', finish reasons ['stop'], usage None
#   streamed: 'Red and', finish reasons [], usage None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q "nemoguardrails[server,openai]==0.24.1"
mkdir -p "$folder/configs/rails"
cat > "$folder/seen.py" <<'PYTHON'
import json
import os
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ["OPENAI_API_KEY"] = "none"
seen = open("seen", "w")  # the server prints, too
said = []


class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        check = "policy" in str(asked["messages"])
        text, reason = ("No", "stop") if check else ("Red and", "length")
        prompt, completion = (100, 1) if check else (10, 3)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        said.append((reason, usage["total_tokens"]))
        message = {"role": "assistant", "content": text}
        fields = {"id": "c", "created": 1, "model": "m"}
        choice = {"index": 0, "finish_reason": reason}
        whole = {**fields, "object": "chat.completion", "choices": [{**choice, "message": message}], "usage": usage}
        chunks = [
            {"choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {"choices": [{**choice, "delta": {}}]},
            {"choices": [], "usage": usage},
        ]
        data = [json.dumps({**fields, "object": "chat.completion.chunk", **it}) for it in chunks] + ["[DONE]"]
        streamed = asked.get("stream")
        body = ("".join(f"data: {it}\n\n" for it in data) if streamed else json.dumps(whole)).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=model.serve_forever, daemon=True).start()
Path("configs/rails/config.yml").write_text(f"""
models:
  - type: main
    engine: openai
    model: m
    parameters: {{base_url: "http://127.0.0.1:{model.server_port}/v1"}}
rails:
  input: {{flows: [self check input]}}
  output: {{flows: [self check output], streaming: {{enabled: true}}}}
prompts:
  - task: self_check_input
    content: 'Is this against the policy? "{{{{ user_input }}}}" Answer Yes or No:'
  - task: self_check_output
    content: 'Is this against the policy? "{{{{ bot_response }}}}" Answer Yes or No:'
""")

import uvicorn
from nemoguardrails.server import api

api.app.rails_config_path = str(Path("configs").absolute())
server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, log_level="error"))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.1)
port = server.servers[0].sockets[0].getsockname()[1]


def ask(**more):
    asked = {"model": "m", "messages": [{"role": "user", "content": "Colours?"}], **more}
    body = json.dumps({**asked, "guardrails": {"config_id": "rails"}}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    return urllib.request.urlopen(request, timeout=60).read().decode()


def show(how, pieces):
    choices = [choice for piece in pieces for choice in piece["choices"]]
    text = "".join(choice.get("message", choice.get("delta"))["content"] for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    usage = next((piece["usage"] for piece in pieces if piece.get("usage")), None)
    print(f"{how}: {text!r}, finish reasons {reasons}, usage {usage}", file=seen)


whole = json.loads(ask())
reasons, tokens = zip(*said, strict=True)
print(f"the model was asked {len(said)} times, for {sum(tokens)} tokens; it said {', '.join(reasons)}", file=seen)
show("whole", [whole])
lines = ask(stream=True, stream_options={"include_usage": True}).splitlines()
show("streamed", [json.loads(line[6:]) for line in lines if line.startswith("data: {")])
seen.close()
server.should_exit = True
PYTHON
cd "$folder"
HOME="$folder" timeout 300 env/bin/python -P seen.py > log 2>&1
cat seen
diff seen - <<'SEEN'
the model was asked 3 times, for 215 tokens; it said stop, length, stop
whole: 'Red and', finish reasons ['stop'], usage None
streamed: 'Red and', finish reasons [], usage None
SEEN
