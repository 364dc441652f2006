#!/usr/bin/env bash
# ragas 0.4.3 with langchain-openai 1.7.4 and langchain-community 0.3.31
#
# ragas adds up the tokens of an evaluation by model and multiplies them by a price: either one price for all tokens, or a
# table of prices by model. The one price is used only while a single model answered. As soon as there are two, such as a
# metric with a judge of its own, it is passed over, and the evaluation costs 0.0. With a table, two models of which it names
# one cost what that one does, although the price for all tokens is given beside it; a model that is alone and not in the
# table is an error that names it. The tokens are all there.
#
# Seen, for calls of 1000 tokens in and 100 out at $1 and $2 per million, 0.0012 each:
#   one model, one price: 0.0012 for 1000 + 100
#   two models, one price: 0.0 for 2000 + 200
#   two models, one of them in the table: 0.0012 for 2000 + 200
#   two models, one of them in the table, one price beside it: 0.0012 for 2000 + 200
#   one model, not in the table: Model a not found in per_model_costs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q ragas==0.4.3 langchain-openai==1.7.4 langchain-community==0.3.31 \
  langchain-core==1.8.3 langchain==1.5.2 langgraph==1.2.24 instructor==1.17.0 datasets==5.2.0 openai==3.3.0
cat > "$folder/seen.py" <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_openai import ChatOpenAI
from ragas.cost import CostCallbackHandler, get_token_usage_for_openai


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        choice = {"index": 0, "message": {"role": "assistant", "content": "Red"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def total(models, **prices):
    costs = CostCallbackHandler(token_usage_parser=get_token_usage_for_openai)
    for model in models:
        ChatOpenAI(model=model, base_url=URL, api_key="none").invoke("A colour", config={"callbacks": [costs]})
    try:
        cost = round(costs.total_cost(**prices), 9)
    except ValueError as error:
        return str(error)
    tokens = costs.total_tokens()
    each = tokens if isinstance(tokens, list) else [tokens]
    return f"{cost} for {sum(it.input_tokens for it in each)} + {sum(it.output_tokens for it in each)}"


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/v1"
ONE = {"cost_per_input_token": 1e-6, "cost_per_output_token": 2e-6}
print("one model, one price:", total("a", **ONE))
print("two models, one price:", total("ab", **ONE))
table = {"per_model_costs": {"b": (1e-6, 2e-6)}}
print("two models, one of them in the table:", total("ab", **table))
print("two models, one of them in the table, one price beside it:", total("ab", **table, **ONE))
print("one model, not in the table:", total("a", **table))
PYTHON
export RAGAS_DO_NOT_TRACK=true
timeout 300 "$folder/env/bin/python" -P "$folder/seen.py" 2> "$folder/log" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
one model, one price: 0.0012 for 1000 + 100
two models, one price: 0.0 for 2000 + 200
two models, one of them in the table: 0.0012 for 2000 + 200
two models, one of them in the table, one price beside it: 0.0012 for 2000 + 200
one model, not in the table: Model a not found in per_model_costs
SEEN
