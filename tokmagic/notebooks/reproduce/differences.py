"""What differs between two runs that could explain that their answers do, and what that means. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tokmagic.core.money import Rates, rates_dict
from tokmagic.formatting.numbers import UNKNOWN
from tokmagic.notebooks.snapshots import RunSnapshot

PROMPT, SOURCE, RATES = "the prompt", "the cell's text", "the rates"
CACHED = "input tokens that the server had cached"
OF_COSTS = (RATES, CACHED)
"""What explains a cost, and no answer."""
_DIGEST_SHOWN = 12
_INFO = {
    "model_id": "the model",
    "revision": "its revision",
    "engine": "the engine",
    "provider": "the provider",
    "server": "the server",
    "tokenizer_sha256": "its tokenizer",
    "quant": "its quantisation",
    "dtype": "its dtype",
    "arithmetic": "its arithmetic",
    "device": "the device",
    "device_name": "the device's model",
}
_DIGESTS = ("revision", "tokenizer_sha256")
_LARGE = ("json_schema",)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it was. ``was`` and ``now`` are for the reader; ``—`` is unknown or not given."""

    what: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.what}: {self.was} → {self.now}"


def differences(before: RunSnapshot, now: RunSnapshot) -> Iterator[Difference]:
    """All that differs, what explains most first: the prompt, the cell, the options, the model, the rates, the machine.

    What was not kept of the earlier run is not compared.
    """
    if before.prompt_sha256 is not None and before.prompt_sha256 != now.prompt_sha256:
        yield Difference(PROMPT, before.prompt_sha256[:_DIGEST_SHOWN], (now.prompt_sha256 or UNKNOWN)[:_DIGEST_SHOWN])
    # The text says nothing that the prompt and the options do not, where these are known.
    if before.prompt_sha256 is None and another_text(before, now):
        yield Difference(SOURCE, *((run.source_sha256 or UNKNOWN)[:_DIGEST_SHOWN] for run in (before, now)))
    if before.prompt_sha256 is not None:
        yield from _of(before.params, now.params)
        yield from _of(asdict(before.info), asdict(now.info), _INFO)
    # A run that was refused or failed may have none, which explains nothing.
    known = before.rates is not None or before.prompt_sha256 is not None
    if known and _own(before.rates) != _own(now.rates) and (now.rates is not None or now.ended_well):
        yield Difference(RATES, _rates(before), _rates(now))
    cached = [run.usage.cached_input_tokens for run in (before, now)]
    if before.rates is not None and cached[0] != cached[1]:
        yield Difference(CACHED, _shown(cached[0]), _shown(cached[1]))
    if before.env:
        yield from _of(before.env, now.env)


def another_text(before: RunSnapshot, now: RunSnapshot) -> bool:
    """Whether their cells are known to have had different texts."""
    texts = {before.source_sha256, now.source_sha256}
    return None not in texts and len(texts) == 2


def _of(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> Iterator[Difference]:
    """What differs of these values, or of those that have ``names``, by which they are told."""
    for name, told in (names or {name: name for name in (*before, *now)}).items():
        one, other = before.get(name), now.get(name)
        if one != other:
            yield Difference(told, *_both(name, one, other))


def _both(name: str, one: Any, other: Any) -> tuple[str, str]:
    """Both values, short where that still tells them apart."""
    was, then = _shown(one), _shown(other)
    if name in _LARGE:
        return ("another one", then if other is None else "the one of now") if one is not None else (was, "given")
    short = was[:_DIGEST_SHOWN], then[:_DIGEST_SHOWN]
    return short if name in _DIGESTS and short[0] != short[1] else (was, then)


def _shown(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rates(run: RunSnapshot) -> str:
    """Rates in one breath: ``input 0.15, output 0.6 (set)``. Tiers follow: what one costs may be all that differs."""
    if run.rates is None:
        return UNKNOWN
    body = rates_dict(_own(run.rates))
    source = " ".join(str(body.pop(name)) for name in ("source", "version") if name in body)
    tiers = [f"above {it.pop('above_tokens'):,} input tokens {_amounts(it)}" for it in body.pop("tiers", ())]
    return f"{'; '.join([_amounts(body) or UNKNOWN, *tiers])} ({source})"


def _amounts(body: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {amount}" for name, amount in body.items())


def _own(rates: Rates | None) -> Rates:
    """Rates without those that stand beside them for comparison: these are in no cost."""
    return Rates() if rates is None else replace(rates, shadow_model=None, shadow=None)


def meaning(before: RunSnapshot, now: RunSnapshot, found: tuple[Difference, ...], *, answer_changed: bool) -> str:
    """What follows from the differences for a run that changed, in one sentence; empty where they speak for themselves.

    A change of the cost alone is explained by the rates and the counts.
    """
    if any(it.what == PROMPT for it in found):
        return "the prompt itself changed: everything else follows from it"
    if any(it.what == SOURCE for it in found):
        return "its numbers are of an earlier text of the cell: run it, and save the notebook"
    if not answer_changed:
        return ""
    if now.info.traits.remote:
        return (
            "a server guarantees nothing: the model behind the name, its version or the other requests in its batch "
            "may have changed"
        )
    if before.decoding == "seeded" and _samples_differently(before, now):
        return "a seed gives the same answer only with the same torch and kind of device, so this is expected"
    if before.prompt_sha256 is None:
        return "the notebook's outputs record nothing else; %tokmagic freeze records what could explain it"
    if not found:
        return (
            "nothing recorded differs: the cause may be a variable that only the notebook knows, or the order in which "
            "a kernel adds, which depends on the number of threads, the machine's load and the processor"
        )
    return ""


def _samples_differently(before: RunSnapshot, now: RunSnapshot) -> bool:
    kinds = [(run.info.device or "").partition(":")[0] for run in (before, now)]
    return kinds[0] != kinds[1] or before.env.get("torch") != now.env.get("torch")
