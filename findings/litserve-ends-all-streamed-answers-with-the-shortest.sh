#!/usr/bin/env bash
# litserve 0.2.19 (OpenAISpec) with openai 3.57.0
#
# With "n": 2 the model is asked twice, and the second of its answers is shorter. Unstreamed both come whole. Streamed, the
# first one ends where the second does: the rest of its text is never sent, its finish reason is "stop", and [DONE] follows,
# so that nothing tells that a part is missing. What the model says of its tokens with its last piece is lost with that
# piece, so the usage is that of the shortest answer alone.
#
# Seen:
#   whole: 'One two three four' (stop), 'Red green' (stop), 6 completion tokens
#   streamed: 'One two' (stop), 'Red green' (stop), 2 completion tokens
set -euo pipefail
folder=$(mktemp -d)
server=
# Its workers outlive the server where it alone is ended.
trap '[ -z "$server" ] || kill -- "-$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q litserve==0.2.19 openai==3.57.0
cat > "$folder/serve.py" <<'PYTHON'
import itertools
import sys

import litserve

ANSWERS = (["One", " two", " three", " four"], ["Red", " green"])


class Words(litserve.LitAPI):
    def setup(self, device):
        self.turn = itertools.count()

    def predict(self, prompt):
        answer = ANSWERS[next(self.turn) % 2]
        for word in answer[:-1]:
            yield {"role": "assistant", "content": word}
        counts = {"prompt_tokens": 7, "completion_tokens": len(answer), "total_tokens": 7 + len(answer)}
        yield {"role": "assistant", "content": answer[-1], **counts}


if __name__ == "__main__":
    server = litserve.LitServer(Words(spec=litserve.OpenAISpec()), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
PYTHON
cat > "$folder/ask.py" <<'PYTHON'
import sys
import time
import urllib.error
import urllib.request

import openai

url = f"http://127.0.0.1:{sys.argv[1]}"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5)
        break
    except (urllib.error.URLError, ConnectionError):
        time.sleep(0.1)
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
asked = {"model": "words", "messages": [{"role": "user", "content": "Count"}], "n": 2}


def show(how, texts, reasons, usage):
    answers = ", ".join(f"{text!r} ({reason})" for text, reason in zip(texts, reasons, strict=True))
    print(f"{how}: {answers}, {usage.completion_tokens} completion tokens")


whole = client.chat.completions.create(**asked)
show("whole", [it.message.content for it in whole.choices], [it.finish_reason for it in whole.choices], whole.usage)
texts, reasons, usage = ["", ""], [None, None], None
for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason
    usage = chunk.usage or usage
show("streamed", texts, reasons, usage)
PYTHON
port=$(python3 -c 'import socket; it = socket.create_server(("127.0.0.1", 0)); print(it.getsockname()[1])')
cd "$folder"
setsid env/bin/python -P serve.py "$port" > log 2>&1 &
server=$!
timeout 120 env/bin/python -P ask.py "$port" | tee seen
diff seen - <<'SEEN'
whole: 'One two three four' (stop), 'Red green' (stop), 6 completion tokens
streamed: 'One two' (stop), 'Red green' (stop), 2 completion tokens
SEEN
