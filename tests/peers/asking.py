"""Asks a server with OpenAI's SDK and with llm, in the environment that ``make peers`` installs; prints JSON.

Called with the server's base URL and a key; what it prints is what these clients made of the answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import llm
import openai
from pydantic import BaseModel

CHAT = [{"role": "user", "content": "Name three colours."}]


class Colour(BaseModel):
    """What is asked for as JSON."""

    colour: Literal["red", "green", "blue"]


def chats(client: openai.OpenAI) -> dict[str, Any]:
    """Whole and streamed."""
    given = {"model": "smollm2", "messages": CHAT, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**given, logprobs=True)
    pieces = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    last = pieces[-1].usage
    return {
        "text": whole.choices[0].message.content,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
        "cost_usd": whole.usage.tokmagic["cost_usd"],
        "logprobs": len(whole.choices[0].logprobs.content),
        "finish_reason": whole.choices[0].finish_reason,
        "streamed_text": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
        "streamed_usage": [last.prompt_tokens, last.completion_tokens],
    }


def others(client: openai.OpenAI) -> dict[str, Any]:
    """Completions, responses, a schema, several answers, the list of models."""
    completed = client.completions.create(model="smollm2", prompt="The sky is", max_tokens=5, temperature=0, logprobs=0)
    response = client.responses.create(model="smollm2", input="Hi", max_output_tokens=8, temperature=0)
    with client.responses.stream(model="smollm2", input="Hi", max_output_tokens=8, temperature=0) as stream:
        events = list(stream)
    # Its own get_final_response takes no answer that ended at its limit: findings/openai-incomplete-response.sh.
    streamed = events[-1].response
    parsed = client.chat.completions.parse(
        model="smollm2", messages=CHAT, response_format=Colour, max_tokens=60, temperature=0
    )
    several = client.chat.completions.create(model="smollm2", messages=CHAT, max_tokens=4, n=3, seed=1, temperature=1)
    return {
        "completion_usage": [completed.usage.prompt_tokens, completed.usage.completion_tokens],
        "offsets": completed.choices[0].logprobs.text_offset,
        "response_text": response.output_text,
        "response_usage": [response.usage.input_tokens, response.usage.output_tokens],
        "response_incomplete": response.incomplete_details and response.incomplete_details.reason,
        "response_kinds": [events[0].type, events[-1].type],
        "streamed_response_text": streamed.output_text,
        "parsed": parsed.choices[0].message.parsed.colour,
        "several": len(several.choices),
        "several_usage": several.usage.completion_tokens,
        "models": [model.id for model in client.models.list()],
    }


def cancelled(client: openai.OpenAI) -> int:
    """Leave a stream in the middle; how many pieces were read."""
    seen = 0
    with client.chat.completions.create(
        model="smollm2", messages=CHAT, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        for _ in stream:
            seen += 1
            if seen == 5:
                break
    return seen


def failures(url: str, key: str) -> dict[str, list[Any]]:
    """Which class each error has here, its status and its code."""
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)

    def failing(**given: Any) -> list[Any]:
        try:
            client.chat.completions.create(**{"model": "smollm2", "messages": CHAT, "max_tokens": 4, **given})
        except openai.APIStatusError as error:
            return [type(error).__name__, error.status_code, error.code]
        return []

    found = {
        "unknown model": failing(model="none"),
        "bad value": failing(temperature=-1),
        "too long": failing(messages=[{"role": "user", "content": "Hi " * 9000}]),
        "unsupported": failing(tools=[{"type": "function", "function": {"name": "f"}}]),
    }
    client = openai.OpenAI(base_url=url, api_key="tm-wrong", max_retries=0)
    return {**found, "wrong key": failing()}


def by_llm(url: str, key: str) -> dict[str, Any]:
    """The same chat by llm, which reads its models from a file."""
    settings = {"model_id": "served", "model_name": "smollm2", "api_base": url, "api_key_name": "served"}
    # JSON is YAML.
    (llm.user_dir() / "extra-openai-models.yaml").write_text(json.dumps([settings]))
    (llm.user_dir() / "keys.json").write_text(json.dumps({"served": key}))
    model = llm.get_model("served")
    answer = model.prompt(CHAT[0]["content"], max_tokens=12, temperature=0, stream=True)
    text = answer.text()
    usage = answer.usage()
    return {"text": text, "usage": [usage.input, usage.output]}


def main(url: str, key: str) -> None:
    """Ask, and print."""
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    found = {
        "chats": chats(client),
        "others": others(client),
        "cancelled": cancelled(client),
        "failures": failures(url, key),
        "llm": by_llm(url, key),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    Path(llm.user_dir()).mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
