#!/usr/bin/env bash
# langchain-openai 1.7.4, pydantic-ai-slim 2.68.0 and smolagents 1.26.0, beside openai-agents 0.24.0, with openai 3.57.0
#
# A server streams an answer of five tokens to a prompt of 100, and says with each chunk what it has used so far, as
# vLLM does where continuous_usage_stats is on and as some providers do unasked. The last chunk has the usage of the
# whole answer. openai-agents takes that; the three add up the usages of all chunks, so that the prompt counts once for
# each chunk: 500 tokens in for a hundred. pydantic-ai does not where its setting openai_continuous_usage_stats said
# before that such usages are to come. For the same words with one usage at their end all four agree.
#
# Seen:
#   langchain-openai: 100 in, 5 out; with a running usage 500 in, 15 out
#   pydantic-ai: 100 in, 5 out; with a running usage 500 in, 15 out
#   smolagents: 100 in, 5 out; with a running usage 500 in, 15 out
#   openai-agents: 100 in, 5 out; with a running usage 100 in, 5 out
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install -q openai==3.57.0 langchain-openai==1.7.4 'pydantic-ai-slim[openai]==2.68.0' \
  'smolagents[openai]==1.26.0' openai-agents==0.24.0
cat > "$folder/seen.py" <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import agents
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from smolagents import OpenAIServerModel
from smolagents.models import agglomerate_stream_deltas

WORDS = ("Red", " or", " green", " or", " blue")
ASKED = "A colour"


class Server(BaseHTTPRequestHandler):
    running = False

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        last = len(WORDS)
        for at, word in enumerate(WORDS, 1):
            delta = {"role": "assistant", "content": word} if at == 1 else {"content": word}
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if at == last else None}
            self.put([choice], at if self.running else None)
        if not self.running:
            self.put([], last)
        self.wfile.write(b"data: [DONE]\n\n")

    def put(self, choices, out):
        usage = out and {"prompt_tokens": 100, "completion_tokens": out, "total_tokens": 100 + out}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.wfile.write(b"data: " + json.dumps({**chunk, "choices": choices, "usage": usage}).encode() + b"\n\n")

    def log_message(self, *_):
        pass


def langchain():
    model = ChatOpenAI(model="m", base_url=URL, api_key="none", stream_usage=True)
    whole, *rest = model.stream(ASKED)
    for chunk in rest:
        whole += chunk
    return whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]


async def pydantic_ai():
    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=URL, api_key="none"))
    async with Agent(model).run_stream(ASKED) as run:
        await run.get_output()
    return run.usage.input_tokens, run.usage.output_tokens


def smolagents():
    model = OpenAIServerModel("m", api_base=URL, api_key="none")
    message = {"role": "user", "content": [{"type": "text", "text": ASKED}]}
    usage = agglomerate_stream_deltas(list(model.generate_stream([message]))).token_usage
    return usage.input_tokens, usage.output_tokens


async def openai_agents():
    model = agents.OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=URL, api_key="none"))
    settings = agents.ModelSettings(include_usage=True)
    run = agents.Runner.run_streamed(agents.Agent("one", model=model, model_settings=settings), ASKED)
    async for _ in run.stream_events():
        pass
    return run.context_wrapper.usage.input_tokens, run.context_wrapper.usage.output_tokens


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/v1"
agents.set_tracing_disabled(True)
for name, ask in {
    "langchain-openai": langchain,
    "pydantic-ai": lambda: asyncio.run(pydantic_ai()),
    "smolagents": smolagents,
    "openai-agents": lambda: asyncio.run(openai_agents()),
}.items():
    counts = []
    for Server.running in (False, True):
        counts.append("{} in, {} out".format(*ask()))
    print(f"{name}: {'; with a running usage '.join(counts)}")
PYTHON
timeout 300 "$folder/env/bin/python" -P "$folder/seen.py" 2> "$folder/log" | grep ' in, ' | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
langchain-openai: 100 in, 5 out; with a running usage 500 in, 15 out
pydantic-ai: 100 in, 5 out; with a running usage 500 in, 15 out
smolagents: 100 in, 5 out; with a running usage 500 in, 15 out
openai-agents: 100 in, 5 out; with a running usage 100 in, 5 out
SEEN
