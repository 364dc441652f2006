"""Which options a server took and did not follow, as far as its answer shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tokmagic.core.prompt import Sampling
from tokmagic.core.stream import FinishReason, Usage

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int, float),
    "null": (type(None),),
}
_BEGINS: Mapping[str, str] = {
    "object": "{",
    "array": "[",
    "string": '"',
    "boolean": "tf",
    "number": "-0123456789",
    "integer": "-0123456789",
    "null": "n",
}
"""What a JSON text of each type begins with."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one answer shows: its text, why it ended, whether log probabilities came, and text after a stop text."""

    text: str
    reason: FinishReason | None
    logprobs: bool
    past_stop: bool


def ignored(sampling: Sampling, answers: list[Shown], unasked: int, usage: Usage) -> tuple[str, ...]:
    """The options that were asked for and that no server follows that answers so.

    ``answers`` are those of which anything came, ``unasked`` how many more came than were asked for, ``usage`` the
    counts at the end.
    """
    if not answers:
        return ()
    # The end of each answer may count, and hidden reasoning need not keep to the limit.
    most = (sampling.max_tokens + 1) * (sampling.n + unasked) + (usage.reasoning_tokens or 0)
    found = {
        "-n": unasked > 0 or len(answers) < sampling.n,
        "--max-tokens": usage.output_source == "reported" and (usage.output_tokens or 0) > most,
        "--stop": any(answer.past_stop for answer in answers),
        "--json-schema": sampling.json_schema is not None
        and not all(_may_follow(answer, sampling.json_schema) for answer in answers),
        "--logprobs": sampling.logprobs and not any(answer.logprobs for answer in answers),
    }
    return tuple(option for option, is_ignored in found.items() if is_ignored)


def _may_follow(answer: Shown, schema: str) -> bool:
    """Whether an answer may have been made to fit a JSON schema: as far as it got, JSON of its type."""
    try:
        wanted = json.loads(schema)
    except (ValueError, RecursionError):
        return False
    if answer.reason in ("length", None):  # nobody says of the latter that it is whole
        begin = answer.text.lstrip()[:1]
        return begin in "".join(_BEGINS[name] for name in _types(wanted) or _BEGINS)
    return answer.reason != "stop" or _fits(answer.text, wanted)


def _types(wanted: object) -> list[str]:
    """The types that a schema names, none where it names one that is not known."""
    given = wanted.get("type") if isinstance(wanted, Mapping) else None
    names = [name for name in (given if isinstance(given, list) else [given]) if isinstance(name, str)]
    return names if all(name in _TYPES for name in names) else []


def _fits(text: str, wanted: object) -> bool:
    """Whether a whole answer is JSON of a schema's type, with the names that it requires."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    types = tuple(kind for name in _types(wanted) for kind in _TYPES[name])
    return (not types or isinstance(value, types)) and _has(value, wanted)


def _has(value: object, wanted: object) -> bool:
    required = wanted.get("required") if isinstance(wanted, Mapping) else None
    if not isinstance(value, dict) or not isinstance(required, list):
        return True
    return all(name in value for name in required)
