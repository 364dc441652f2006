"""What a body asks for: a Prompt, and how its answer is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokmagic.core.prompt import Message, Prompt, Role, Sampling, utf8
from tokmagic.prompts.options import check_prompt
from tokmagic.prompts.template import json_schema
from tokmagic.serve.bodies import ChatBody, ChatMessage, CompletionBody, ResponseFormat, ResponsesBody, Sampled
from tokmagic.serve.failures import ApiError

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")
# All that the model answers waits while a schema is made a grammar of, which takes longer by its length squared.
_MOST_SCHEMA_CHARS = 32 * 2**10
_ANY_OBJECT = json_schema({"type": "object"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for. ``max_tokens`` None: as many as the server lets an answer have."""

    model: str | None
    prompt: Prompt
    max_tokens: int | None
    stream: bool
    include_usage: bool = False
    continuous_usage: bool = False

    def with_limit(self, max_tokens: int) -> Prompt:
        """The prompt with a limit of output tokens. Raises UsageError."""
        prompt = replace(self.prompt, sampling=replace(self.prompt.sampling, max_tokens=max_tokens))
        check_prompt(prompt)
        return prompt


def of_chat(body: ChatBody) -> Asked:
    """What a chat asks for. Raises ApiError, UsageError, PromptError."""
    if body.top_logprobs:
        raise _unsupported("top_logprobs", "only each token's own log probability is known; give 0")
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    messages = _messages(body.messages, "messages")
    schema = _schema_of(body.response_format)
    return _asked(body, messages, most, schema=schema, logprobs=bool(body.logprobs))


def of_completion(body: CompletionBody) -> Asked:
    """What a completion asks for. Raises ApiError, UsageError, PromptError."""
    texts = [body.prompt] if isinstance(body.prompt, str) else [it for it in body.prompt if isinstance(it, str)]
    if not isinstance(body.prompt, str) and len(texts) < len(body.prompt):
        told = "prompt has token ids; send the text that they stand for, which /detokenize tells"
        raise ApiError(400, told, param="prompt", code="unsupported_value")
    if not texts:
        raise ApiError(400, "the prompt is empty; give a text", param="prompt", code="invalid_value")
    if len(texts) > 1:
        raise ApiError(
            400, f"prompt has {len(texts)} texts; send one request for each", param="prompt", code="invalid_value"
        )
    if body.logprobs:
        raise _unsupported("logprobs", "only each token's own log probability is known; give 0")
    messages = (Message("user", texts[0]),)
    schema = _schema_of(body.response_format)
    # Where nothing is said a completion has OpenAI's short limit, as such clients expect.
    most = 16 if body.max_tokens is None else body.max_tokens
    return _asked(body, messages, most, schema=schema, logprobs=body.logprobs is not None, completion=True)


def of_responses(body: ResponsesBody) -> Asked:
    """What a request of the Responses API asks for. Raises ApiError, UsageError, PromptError."""
    if body.previous_response_id:
        raise _unsupported("previous_response_id", "no response is kept here; send the conversation as input")
    if body.n is not None and body.n != 1:
        raise _unsupported("n", "a response has one answer; leave it out")
    if body.background:
        raise _unsupported("background", "no response is kept here; stream it")
    if isinstance(body.input, str):
        messages: tuple[Message, ...] = (Message("user", body.input),)
    else:
        # No chat template takes the reasoning of earlier answers.
        items = ((index, it) for index, it in enumerate(body.input) if it.type != "reasoning")
        messages = tuple(_message(it, f"input.{index}") for index, it in items)
    if body.instructions is not None:
        messages = (Message("system", body.instructions), *messages)
    form = body.text.format if body.text is not None else None
    schema = None
    if form is not None and form.type == "json_object":
        schema = _ANY_OBJECT
    elif form is not None and form.type == "json_schema":
        schema = _schema(form.schema_, "text.format.schema")
    return replace(_asked(body, messages, body.max_output_tokens, schema=schema), include_usage=True)


def chat_prompt(messages: Sequence[ChatMessage]) -> Prompt:
    """A chat alone, for counting. Raises ApiError, PromptError."""
    return Prompt(_messages(messages, "messages"))


def _asked(
    body: Sampled,
    messages: tuple[Message, ...],
    max_tokens: int | None,
    *,
    schema: str | None,
    logprobs: bool = False,
    completion: bool = False,
) -> Asked:
    for message in messages:
        utf8(message.content)
    if not any(message.content for message in messages):
        raise ApiError(400, "the prompt is empty; give a text", param="messages", code="invalid_value")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    given: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "n")
        if (value := getattr(body, name)) is not None
    }
    if given.get("top_k") in (0, -1):  # vLLM's ways to say all of them
        del given["top_k"]
    if given.get("min_p") == 0:
        del given["min_p"]
    sampling = Sampling(**given, stop=stop, json_schema=schema, logprobs=logprobs)
    ignore_eos, min_tokens = bool(body.ignore_eos), body.min_tokens or 0
    options = body.stream_options
    asked = Asked(
        body.model,
        Prompt(messages, sampling, completion=completion, ignore_eos=ignore_eos, min_tokens=min_tokens),
        max_tokens,
        stream=bool(body.stream),
        include_usage=options is not None and options.include_usage,
        continuous_usage=options is not None and options.continuous_usage_stats,
    )
    # Where it is left to the server the limit is known later.
    asked.with_limit(max(sampling.max_tokens, min_tokens) if max_tokens is None else max_tokens)
    if min_tokens and min_tokens == max_tokens:  # more servers know this one
        return replace(asked, prompt=replace(asked.prompt, ignore_eos=True, min_tokens=0))
    return asked


def _messages(given: Sequence[ChatMessage], where: str) -> tuple[Message, ...]:
    return tuple(_message(message, f"{where}.{index}") for index, message in enumerate(given))


def _message(given: ChatMessage, where: str) -> Message:
    role = _ROLES.get(given.role)
    if role is None:
        raise ApiError(
            400,
            f"{where}.role is {given.role!r}; use {', '.join(_ROLES)}",
            param=f"{where}.role",
            code="unsupported_value",
        )
    if (given.model_extra or {}).get("tool_calls"):
        raise _unsupported(f"{where}.tool_calls", "tools are not offered here")
    content = given.content
    if content is None:
        raise ApiError(400, f"{where}.content is missing; give a text", param=f"{where}.content", code="invalid_value")
    if isinstance(content, str):
        return Message(role, content)
    other = next((part.type for part in content if part.type not in _TEXT_PARTS), None)
    if other is not None:
        raise ApiError(
            400,
            f"{where}.content has a part of type {other!r}; only text is read here",
            param=f"{where}.content",
            code="unsupported_value",
        )
    return Message(role, "".join(part.text or "" for part in content))


def _schema_of(form: ResponseFormat | None) -> str | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return _ANY_OBJECT
    given = None if form.json_schema is None else form.json_schema.schema_
    return _schema(given, "response_format.json_schema")


def _schema(given: dict[str, Any] | None, where: str) -> str:
    """A schema's text. Raises ApiError, UsageError."""
    if given is None:
        raise ApiError(400, f"{where} is missing", param=where, code="invalid_value")
    text = json_schema(given)
    if len(text) > _MOST_SCHEMA_CHARS:
        told = f"{where} has {len(text):,} characters; give a schema of at most {_MOST_SCHEMA_CHARS:,}"
        raise ApiError(400, told, param=where, code="invalid_value")
    return text


def _unsupported(name: str, why: str) -> ApiError:
    return ApiError(400, f"{name}: {why}", param=name, code="unsupported_parameter")
