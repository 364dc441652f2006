"""The bodies of requests, as OpenAI and vLLM have them: which fields there are and of which type."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from tokmagic.serve.failures import ApiError

_NO_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
    | {"include", "truncation", "verbosity", "reasoning", "prompt_cache_retention", "stream_options"}
)
"""Fields that may stand there and ask for nothing that changes an answer here."""
_NEUTRAL: tuple[object, ...] = (None, False, 0, "", "none", "auto")
"""Values with which a field that is not supported asks for nothing."""


class Body(BaseModel):
    """What all bodies have in common. Fields that are not known stay beside the others; :func:`read` judges them."""

    model_config = ConfigDict(extra="allow", strict=True)
    most_values: ClassVar[int] = 20_000
    """How many values (fields and items, at any depth) it may have: each takes a microsecond or more of a thread."""

    model: str | None = None


class StreamOptions(BaseModel):
    """What a stream brings beside the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Sampled(Body):
    """The options of sampling that all three ways of asking share. Their bounds are those of ``%%generate``."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None


class Part(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A message as it is sent."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | list[Part] | None = None


class JsonSchema(BaseModel):
    """A schema that the answer has to fit."""

    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None


class CompletionBody(Sampled):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = None
    logprobs: int | None = None
    response_format: ResponseFormat | None = None


class ResponsesTextFormat(BaseModel):
    """The form of the answer, flat as the Responses API has it."""

    model_config = ConfigDict(extra="allow", strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponsesText(BaseModel):
    """What is said of the text that is asked for."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: ResponsesTextFormat | None = None


class InputItem(ChatMessage):
    """A message, or an item of an earlier response's output that is handed back; reasoning has no role."""

    role: str = ""
    type: str = "message"


class ResponsesBody(Sampled):
    """``POST /v1/responses``: text in, text out."""

    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: ResponsesText | None = None
    previous_response_id: str | None = None
    background: bool | None = None


class TokenizeBody(Body):
    """``POST /tokenize``: a text as it stands, or a chat in the model's template."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    # Beyond any model's context; ids are read quickly.
    most_values: ClassVar[int] = 1_000_000

    # The first wrong one is all that an error tells of; to describe a million would take seconds.
    tokens: Annotated[list[int], FailFast()]


_Read = TypeVar("_Read", bound=Body)


def read(kind: type[_Read], raw: bytes) -> _Read:
    """A body from its JSON. Raises ApiError, which names the field that is wrong."""
    if _has_more_values(raw, kind.most_values):
        told = f"the body has more than {kind.most_values:,} fields and items; send fewer messages, parts or fields"
        raise ApiError(400, told, code="too_many_values")
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _invalid(error) from None
    for name, value in (body.model_extra or {}).items():
        if name not in _NO_EFFECT and not _asks_nothing(value):
            raise ApiError(400, f"{name} is not supported here; leave it out", param=name, code="unsupported_parameter")
    return body


def _invalid(error: ValidationError) -> ApiError:
    """The first thing that is wrong, by the field's own name."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg']}", code="invalid_json")
    place, said = first["loc"], first["msg"]
    # Of a field that takes a text or a list each of them says what it misses: in a list, some item.
    while _is_of_a_kind(place):
        field = _named(place)
        within = (it for it in found if len(named := _named(it["loc"])) > len(field) and named[: len(field)] == field)
        item = next(within, None)
        place, said = (field, "input should be a text or a list") if item is None else (item["loc"], item["msg"])
    where = ".".join(map(str, _named(place)))
    said = said[:1].lower() + said[1:]
    return ApiError(400, f"{where or 'the body'}: {said}", param=where or None, code="invalid_type")


def _is_of_a_kind(loc: tuple[int | str, ...]) -> bool:
    """Whether a place ends with one of the kinds that a field may be of, as pydantic calls them."""
    return bool(loc) and isinstance(loc[-1], str) and (loc[-1] == "str" or loc[-1].startswith("list["))


def _named(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(it for at, it in enumerate(loc) if not _is_of_a_kind(loc[: at + 1]))


def _has_more_values(raw: bytes, most: int) -> bool:
    """Whether JSON has more than so many values. It is found out in a few quick passes, before any is made."""
    if _separators(raw) <= most:
        return False
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * most:  # two for each string, and a value has at most a name beside it
        return True
    return _separators(b"".join(bare.split(b'"')[::2])) > most


def _separators(raw: bytes) -> int:
    """As many as JSON has values, or more: all but the outermost follow a comma, or what opens a list or an object."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _asks_nothing(value: object) -> bool:
    if isinstance(value, list | dict):
        return not value
    return any(value is it or value == it for it in _NEUTRAL)
