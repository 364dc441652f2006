"""A server's usage object becomes our Usage; what cannot be is said, and never billed as if it were sure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokmagic.core.stream import Usage
from tokmagic.engines.endpoint.dialects import BESIDE, COUNTS, PLAIN_INPUT, TTL_DETAILS

# No context of today is near it, and sums of such counts stay far inside the ledger's 64 bits.
_MOST = 1_000_000_000
# Some servers send a usage with each token, so the names are taken apart once.
_PLACES = {count: [(name, name.split(".")) for name in names] for count, names in COUNTS.items()}


@dataclass(frozen=True, slots=True)
class Reported:
    """What a server says it used. ``usage`` None: nothing that can be read. ``anomaly``: what is odd about it.

    ``unsure``: it may bill more than that.
    """

    usage: Usage | None = None
    anomaly: str | None = None
    unsure: bool = False


@dataclass(slots=True)
class _Oddities:
    """What is odd about one usage object, and whether more may be billed than is read out of it."""

    said: list[str] = field(default_factory=list)
    more: bool = False

    def note(self, text: str, *, more: bool) -> None:
        self.said.append(text)
        self.more = self.more or more

    def about(self, usage: Usage | None) -> Reported:
        return Reported(usage, f"the server reports {'; '.join(self.said)}" if self.said else None, self.more)


@dataclass(slots=True)
class _Counts:
    """The counts of one object, each once, and by which names they came."""

    total: int | None
    input: int | None
    output: int | None
    cached: int | None
    written: int | None
    hour: int | None
    longer: int | None
    reasoning: int | None
    names: frozenset[str]

    @property
    def parts(self) -> int:
        """Cached and cache-write tokens."""
        return (self.cached or 0) + (self.written or 0)

    @property
    def named_beside(self) -> bool:
        """Whether by its names the input leaves out the cached and cache-write tokens, as Anthropic's does."""
        inputs = self.names.intersection(COUNTS["input"])
        return bool(self.names & BESIDE) and bool(inputs) and inputs <= PLAIN_INPUT


def read_usage(given: object) -> Reported:
    """Read a usage object in any of the known dialects (``dialects.COUNTS``).

    Some servers count reasoning, or what was cached or written to a cache, inside the output and the input, others
    beside them. Which it is follows from ``total_tokens``; without it from the names: Anthropic's stand beside. Our
    totals count each token once. Where a total says that there was more than any count names, that is output. A count
    that cannot be is left out and said, and those beside it stand.
    """
    if not isinstance(given, Mapping):
        return Reported(None, f"the server's usage is {_shown(given)}, not an object", True)
    odd = _Oddities()
    counts = _counts(given, odd)
    _complete(counts)
    _place(counts, odd)
    if counts.input is None and counts.output is None:
        return odd.about(None)
    return odd.about(_usage(counts, odd))


def read_usages(given: Sequence[object]) -> Reported:
    """Read the usages that one object holds in several places. The largest holds; one that differs is said."""
    told = [found for found in map(read_usage, given) if found.usage is not None and _size(found.usage) > 0]
    if not told:
        return read_usage(given[0])
    best = max(told, key=lambda found: _size(found.usage))
    if all(found.usage is None or _totals(found.usage) == _totals(best.usage) for found in told):
        return best
    others = "; ".join(f"{_size(found.usage):,} tokens" for found in told)
    return Reported(best.usage, best.anomaly or f"the server reports different usages at once: {others}", best.unsure)


def updated(before: Usage | None, now: Usage) -> Usage:
    """A later usage in place of an earlier one: what it leaves out, or has at 0, stands as it was."""
    if before is None:
        return now
    if not now.output_tokens and before.output_tokens is not None:
        now = replace(
            now,
            output_tokens=before.output_tokens,
            output_source=before.output_source,
            reasoning_tokens=before.reasoning_tokens,
        )
    if not now.input_tokens and before.input_tokens is not None:
        now = replace(now, input_tokens=before.input_tokens, input_source=before.input_source)
    if now.input_tokens == before.input_tokens and now.cached_input_tokens is None:
        now = replace(
            now,
            cached_input_tokens=before.cached_input_tokens,
            cache_write_input_tokens=before.cache_write_input_tokens,
            cache_write_1h_input_tokens=before.cache_write_1h_input_tokens,
        )
    return now


def summed(usages: Sequence[Usage]) -> Usage:
    """The usage of a run from those of its answers: the prompt is counted once, the outputs add up."""
    largest = max(usages, key=lambda usage: usage.input_tokens or 0)
    outputs = [usage.output_tokens for usage in usages if usage.output_tokens is not None]
    thoughts = [usage.reasoning_tokens for usage in usages if usage.reasoning_tokens is not None]
    return replace(
        largest,
        output_tokens=sum(outputs) if outputs else None,
        output_source="reported" if outputs else "unknown",
        reasoning_tokens=sum(thoughts) if thoughts else None,
    )


def without_zeros(usage: Usage) -> Usage:
    """A usage that came before the end: its zeros only hold the places of counts to come."""
    if usage.input_tokens == 0:
        usage = replace(
            usage,
            input_tokens=None,
            input_source="unknown",
            cached_input_tokens=None,
            cache_write_input_tokens=None,
            cache_write_1h_input_tokens=None,
        )
    if usage.output_tokens == 0:
        usage = replace(usage, output_tokens=None, output_source="unknown", reasoning_tokens=None)
    return usage


def _counts(given: Mapping[str, object], odd: _Oddities) -> _Counts:
    found = {count: _named(given, count, odd) for count in COUNTS}
    parts = [_largest(found["cached"].values()), _largest(found["written"].values())]
    sums = {part or 0 for part in (*parts, sum(part or 0 for part in parts))}
    reasoning = _largest(found["reasoning"].values())
    return _Counts(
        total=_agreed("total", found["total"], odd) or None,  # 0 holds the place of a sum to come
        input=_agreed("input", found["input"], odd, sums),
        output=_agreed("output", found["output"], odd, {reasoning or 0}),
        cached=_agreed("cached", found["cached"], odd),
        written=_agreed("cache-write", found["written"], odd),
        hour=_largest([*found["hour"].values(), *_by_lifetime(given, odd)]),
        longer=_largest(found["longer"].values()),
        reasoning=_agreed("reasoning", found["reasoning"], odd),
        names=frozenset(name for names in found.values() for name in names),
    )


def _named(given: Mapping[str, object], count: str, odd: _Oddities) -> dict[str, int]:
    """The values of one count by the names that they have there."""
    found = {}
    for name, (first, *steps) in _PLACES[count]:
        value = given.get(first)
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            continue
        # Anthropic's cache writes by how long they are kept.
        number = sum(_number(each) or 0 for each in value.values()) if isinstance(value, Mapping) else _number(value)
        if number is None:
            odd.note(f"{_shown(value)} {name.rpartition('.')[2].replace('_', ' ')}", more=True)
        else:
            found[name] = number
    return found


def _by_lifetime(given: Mapping[str, object], odd: _Oddities) -> list[int]:
    """The cache-write tokens that are kept for an hour, where a list has them by lifetime."""
    listed = given.get(TTL_DETAILS)
    details = [it for it in listed if isinstance(it, Mapping)] if isinstance(listed, list) else []
    return [sum(_largest(_named(it, "input", odd).values()) or 0 for it in details if it.get("ttl") == "1h")]


def _number(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def _agreed(count: str, found: Mapping[str, int], odd: _Oddities, reconciled: Iterable[int] = ()) -> int | None:
    """The larger one of the values of one count; one that differs by more than a part beside it is said.

    A zero beside another value only holds a place.
    """
    values = sorted({value for value in found.values() if value > 0})
    if len(values) > 1 and any(values[-1] - value not in reconciled for value in values[:-1]):
        # The larger one costs more, but for what comes from a cache.
        odd.note(f"{' and '.join(f'{value:,}' for value in values)} {count} tokens", more=count == "cached")
    return _largest(found.values())


def _largest(values: Iterable[int]) -> int | None:
    return max(values, default=None)


def _complete(counts: _Counts) -> None:
    """Compute a missing input or output from the total, where there is only one way to."""
    if counts.total is None:
        return
    if counts.input == 0 and counts.output is not None and counts.total > counts.output:
        counts.input = None
    if counts.input is None and counts.output is not None:
        thoughts = counts.reasoning or 0
        beside = thoughts if thoughts > counts.output else 0
        rest = counts.total - counts.output - beside
        if rest >= 0 and (beside or not thoughts):
            counts.input = rest
    elif counts.output is None and counts.input is not None:
        beside = counts.parts if counts.named_beside or counts.parts > counts.input else 0
        rest = counts.total - counts.input - beside
        counts.output = rest if rest >= 0 else None


def _place(counts: _Counts, odd: _Oddities) -> None:
    """Add to input and output the parts that stand beside them, decided by the sum."""
    if counts.input is None or counts.output is None:
        if counts.input is not None and counts.named_beside:
            counts.input += counts.parts
        return
    shown = f"{counts.input:,} input and {counts.output:,} output tokens"
    more_input, more_output = _beside(counts, odd)
    counts.input += more_input
    counts.output += more_output
    if counts.total is None:
        return
    rest = counts.total - counts.input - counts.output
    if rest > 0:
        counts.output += rest
        if counts.reasoning is None:
            counts.reasoning = rest  # Google's: in the total alone
        else:
            odd.note(
                f"a total of {counts.total:,} tokens where it counts {shown}; the rest is taken as output", more=False
            )


def _beside(counts: _Counts, odd: _Oddities) -> tuple[int, int]:
    """How many cached, cache-write and reasoning tokens stand beside the input and the output, not inside."""
    assert counts.input is not None
    assert counts.output is not None
    parts, thoughts = counts.parts, counts.reasoning or 0
    if counts.total is None:
        if counts.named_beside:
            return parts, 0
        if parts > 0 and counts.names & BESIDE:
            # Anthropic's names beside OpenAI's: some proxies add these tokens to the input, some do not.
            beside = parts > counts.input
            where = "beside" if beside else "inside or beside"
            odd.note(f"{parts:,} cached and cache-write tokens {where} an input of {counts.input:,}", more=not beside)
            return (parts if beside else 0), 0
        return 0, 0
    sums = {
        (more_input, more_output)
        for more_input in (0, parts, counts.cached or 0, counts.written or 0)
        for more_output in (0, thoughts)
        if counts.input + more_input + counts.output + more_output == counts.total
        and parts <= counts.input + more_input
        and thoughts <= counts.output + more_output
    }
    # Google leaves reasoning unnamed, but has none of Anthropic's names.
    unnamed = counts.reasoning is None and not counts.names & BESIDE and any(more_input for more_input, _ in sums)
    if len(sums) > 1 or unnamed:
        odd.note(f"a total of {counts.total:,} tokens that can be read in two ways", more=True)
    elif counts.named_beside and parts > 0 and counts.total == counts.input + counts.output:
        odd.note(f"{parts:,} cached and cache-write tokens that are not in its total", more=True)
    if sums:
        return max(sums, key=lambda both: both[1])
    beside = counts.named_beside and (parts > counts.input or counts.total > counts.input + counts.output)
    return (parts if beside else 0), 0


def _usage(counts: _Counts, odd: _Oddities) -> Usage:
    cached, written, reasoning = counts.cached, counts.written, counts.reasoning
    if counts.named_beside:
        cached, written = cached or 0, written or 0
    if counts.input is not None and counts.parts > counts.input:
        odd.note(f"{counts.parts:,} cached and cache-write tokens in an input of {counts.input:,}", more=True)
        cached = None
        written = written if (written or 0) <= counts.input else None
    if counts.output is not None and (reasoning or 0) > counts.output:
        odd.note(f"{reasoning:,} reasoning tokens in an output of {counts.output:,}", more=True)
        reasoning = None
    hour = counts.hour or None
    if hour is not None and hour > (written or 0):
        if written is not None:
            odd.note(f"{hour:,} one-hour cache-write tokens of {written:,}", more=True)
        hour = written or None
    if counts.longer:
        odd.note(f"{counts.longer:,} cache-write tokens that are kept for 12 hours, at a price of their own", more=True)
    return Usage(
        input_tokens=counts.input,
        output_tokens=counts.output,
        cached_input_tokens=None if counts.input is None else cached,
        cache_write_input_tokens=None if counts.input is None else written,
        cache_write_1h_input_tokens=None if counts.input is None else hour,
        reasoning_tokens=None if counts.output is None else reasoning,
        input_source="unknown" if counts.input is None else "reported",
        output_source="unknown" if counts.output is None else "reported",
    )


def _totals(usage: Usage | None) -> tuple[int, int]:
    return (usage.input_tokens or 0, usage.output_tokens or 0) if usage is not None else (0, 0)


def _size(usage: Usage | None) -> int:
    return sum(_totals(usage))


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else f"{value:.3g}"
    return text if len(text) <= 60 else f"{text[:60]}…"
