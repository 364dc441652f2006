#!/usr/bin/env bash
# instructor 1.17.0 with openai 3.3.0
#
# An answer does not fit the model that was asked for, so instructor asks again, three times in all, 100 input tokens
# each. Whoever listens to completion:response gets each response, and reads 100 from each. After that instructor writes
# into the usage of the same object what all attempts have used so far. So the three responses say 100, 200 and 300 as
# soon as they are looked at later, such as by a list that is summed at the end or a thread that takes them from a queue:
# 600 tokens where 300 were billed. The response that the call returns has the sum of all as its own usage, too.
#
# Seen:
#   read at once: 100 + 100 + 100 = 300
#   read later: 100 + 200 + 300 = 600
#   the response that is returned: 300
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q instructor==1.17.0 openai==3.3.0
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import instructor
import openai
from pydantic import BaseModel

ANSWERS = iter(['{"people": "many"}', '{"people": "two million"}', '{"people": 2000000}'])


class City(BaseModel):
    people: int


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": next(ANSWERS)}
        answer = {
            "id": "chat_1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def told(numbers):
    return f"{' + '.join(map(str, numbers))} = {sum(numbers)}"


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
plain = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
client = instructor.from_openai(plain, mode=instructor.Mode.JSON)
at_once, kept = [], []
client.on("completion:response", lambda response: at_once.append(response.usage.prompt_tokens))
client.on("completion:response", kept.append)
messages = [{"role": "user", "content": "Paris"}]
_, last = client.create_with_completion(model="m", response_model=City, max_retries=3, messages=messages)
print("read at once:", told(at_once))
print("read later:", told([response.usage.prompt_tokens for response in kept]))
print("the response that is returned:", last.usage.prompt_tokens)
PYTHON
timeout 120 "$folder/env/bin/python" -P "$folder/seen.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
read at once: 100 + 100 + 100 = 300
read later: 100 + 200 + 300 = 600
the response that is returned: 300
SEEN
