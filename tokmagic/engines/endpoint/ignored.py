"""Which options a server took and did not follow, as far as its answer shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Shown:
    """What one answer shows: its text, why it ended, whether log probabilities came, and text after a stop text."""

    text: str
    reason: FinishReason
    logprobs: bool
    past_stop: bool


def ignored(sampling: Sampling, answers: list[Shown], usage: Usage) -> tuple[str, ...]:
    """The options that were asked for and that no server follows that answers so.

    ``answers`` are those of which anything came, ``usage`` the counts at the end.
    """
    if not answers:
        return ()
    # The end of each answer may count, and hidden reasoning need not keep to the limit.
    most = (sampling.max_tokens + 1) * sampling.n + (usage.reasoning_tokens or 0)
    found = {
        "-n": len(answers) < sampling.n,
        "--max-tokens": usage.output_source == "reported" and (usage.output_tokens or 0) > most,
        "--stop": any(answer.past_stop for answer in answers),
        "--json-schema": sampling.json_schema is not None
        and any(answer.reason == "stop" and not _fits(answer.text, sampling.json_schema) for answer in answers),
        "--logprobs": sampling.logprobs and not any(answer.logprobs for answer in answers),
    }
    return tuple(option for option, is_ignored in found.items() if is_ignored)


def _fits(text: str, schema: str) -> bool:
    """Whether a text may have been made to fit a JSON schema: JSON of its type, with what it requires."""
    try:
        value, wanted = json.loads(text), json.loads(schema)
    except (ValueError, RecursionError):
        return False
    return not isinstance(wanted, Mapping) or (_is_of(value, wanted.get("type")) and _has(value, wanted))


def _is_of(value: object, kinds: object) -> bool:
    listed = kinds if isinstance(kinds, list) else [kinds]
    types = [kind for name in listed if isinstance(name, str) for kind in _TYPES.get(name, (object,))]
    return not types or isinstance(value, tuple(types))


def _has(value: object, schema: Mapping[str, Any]) -> bool:
    required = schema.get("required")
    if not isinstance(value, dict) or not isinstance(required, list):
        return True
    return all(name in value for name in required)
