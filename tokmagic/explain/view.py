"""What `%%tokens` gives back: counts side by side, parts, findings, boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Any

from tokmagic.core.money import Precision, Rates, plain
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.stream import Source
from tokmagic.explain import boundaries
from tokmagic.explain.anatomy import TEMPLATE, Part
from tokmagic.explain.findings import Finding
from tokmagic.explain.pieces import Trace
from tokmagic.formatting import numbers
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.tables import Table, escape
from tokmagic.prices import input_usd

CALLS = 1_000


@dataclass(frozen=True, slots=True)
class Counted:
    """One model's count of the prompt."""

    model: str
    tokenizer: str
    trace: Trace
    rates: Rates
    parts: tuple[Part, ...] | None

    @property
    def tokens(self) -> int:
        """Tokens of the whole prompt, as the model is fed it."""
        return self.trace.tokens

    def usd(self, calls: int = 1, part: int | None = None) -> Decimal | None:
        """What the input costs, or so many tokens of it, in USD; None where the model has no input rate."""
        return input_usd(self.rates, self.tokens, calls, part=part)


@dataclass(frozen=True, slots=True)
class TokenView:
    """The tokens of one prompt for one or several models. Shows itself in a notebook and in a terminal."""

    prompt: Prompt
    models: tuple[Counted, ...]
    findings: tuple[Finding, ...] = ()
    together: int = 0
    """Tokens that leaving out all of the findings saves the first model."""
    refused: tuple[tuple[str, str], ...] = ()
    """Models that cannot count it, each with the reason."""
    show: int = 500
    """Tokens whose boundaries are shown for each model, at most."""

    def counts(self) -> Table:
        """Counts side by side, compared with the first model's."""
        first = self.models[0].tokens
        rows: list[tuple[str, ...]] = []
        for at, it in enumerate(self.models):
            difference = f"{it.tokens - first:+,} ({it.tokens / first - 1:+.1%})" if at and first else ""
            per_token = numbers.UNKNOWN if (ratio := self._characters(it)) is None else f"{ratio:.2f}"
            tokens = numbers.tokens(it.tokens, it.trace.source)
            rows.append((it.model, tokens, difference, per_token, _usd(it), _usd(it, CALLS), it.tokenizer))
        rows += [(name, *[numbers.UNKNOWN] * 6) for name, _ in self.refused]
        columns = ("model", "tokens", "difference", "characters/token", "cost", f"{CALLS:,} calls", "tokenizer")
        return Table(columns, tuple(rows), "\n".join(self._notes()), words=("tokenizer",), exact=self._exact())

    def _characters(self, it: Counted) -> float | None:
        """Characters over the messages' own tokens: what the chat's format adds is left out."""
        own = it.tokens - sum(part.tokens for part in it.parts or () if part.section == TEMPLATE)
        return sum(len(message.content) for message in self.prompt.messages) / own if own else None

    def _exact(self) -> tuple[dict[str, Any], ...]:
        """The counts for programs."""
        found: list[dict[str, Any]] = [
            {
                "model": it.model,
                "tokens": it.tokens,
                "tokens_source": it.trace.source,
                "difference": it.tokens - self.models[0].tokens,
                "characters_per_token": self._characters(it),
                "cost_usd": plain(it.usd()),
                f"calls_{CALLS}_usd": plain(it.usd(CALLS)),
                "tokenizer": it.tokenizer,
                "error": None,
            }
            for it in self.models
        ]
        found += [dict.fromkeys(found[0]) | {"model": name, "error": why} for name, why in self.refused]
        return tuple(found)

    def anatomy(self) -> Table | None:
        """What each part of the prompt takes; None where no tokenizer tells."""
        shown = [it for it in self.models if it.parts is not None]
        if not shown:
            return None
        taken = [{(part.section, part.variable): part.tokens for part in it.parts or ()} for it in shown]
        rows: list[tuple[str, ...]] = []
        for part in sorted(dict.fromkeys(chain(*taken)), key=lambda part: part[0] == TEMPLATE):
            section, variable = part
            # The messages themselves are counted exactly, whatever surrounds them.
            source: Source | None = None if section == TEMPLATE else "counted"
            cells = (_cells(it, tokens.get(part, 0), source) for it, tokens in zip(shown, taken, strict=True))
            name = section if variable is None else f"{section} {{{{ {variable} }}}}"
            rows.append((name, *chain.from_iterable(cells)))
        rows.append(("total", *(cell for it in shown for cell in _cells(it, it.tokens))))
        columns = ["part"]
        for it in shown:
            named = f"{it.model}: " if len(shown) > 1 else ""
            columns += [f"{named}tokens", f"{named}{CALLS:,} calls"]
        return Table(tuple(columns), tuple(rows))

    def savings(self) -> Table | None:
        """What the prompt could do without, and what that saves; None where nothing was found."""
        if not self.findings:
            return None
        first = self.models[0]
        rows = []
        for it in self.findings:
            where = _where(it, self.prompt.messages)
            rows.append((it.kind, f"{len(it.edits):,}", where, *_saved(first, it.tokens), _excerpt(it.text)))
        if len(rows) > 1:
            rows.append(("all of it", "", "", *_saved(first, self.together), ""))
        columns = ("could go", "times", "in", "saves", f"{CALLS:,} calls", "text")
        note = f"counted again for {first.model} without that text; you decide whether it is needed"
        return Table(columns, tuple(rows), note, words=("in", "text"))

    def _tables(self) -> list[Table]:
        return [table for table in (self.counts(), self.anatomy(), self.savings()) if table is not None]

    def _notes(self) -> Iterator[str]:
        if all(it.usd() is None for it in self.models):
            yield "no price per token is known: set one with %price MODEL --input USD --output USD"
        if any(it.trace.source == "estimated" for it in self.models):
            yield "~ is an estimate: what the chat's format adds is not public"
        for it in self.models:
            if it.trace.pieces is None:
                yield f"{it.model}: this tokenizer gives only counts, no boundaries and no parts"
            elif it.parts is None:
                yield f"{it.model}: its chat template changes the messages, so the parts cannot be shown"
            if turned := boundaries.from_the_text(it.trace):
                yield f"{it.model}: special tokens spelled out in the messages' own text: {turned}"
        for name, why in self.refused:
            yield f"{name}: {why}"

    def __repr__(self) -> str:
        parts = [repr(table) for table in self._tables()]
        for it in self.models:
            shown = boundaries.as_text(it.trace, self.show)
            parts += [f"{it.model}:\n{shown}"] if shown else []
        return "\n\n".join(filter(None, [*parts, self._legend()]))

    def _repr_html_(self) -> str:
        parts = [table._repr_html_() for table in self._tables()]
        for at, it in enumerate(self.models):
            shown = boundaries.as_html(it.trace, self.show)
            opened = "" if at else " open"
            parts += [f"<details{opened}><summary>{escape(it.model)}</summary>{shown}</details>"] if shown else []
        legend = self._legend()
        return "".join([*parts, f"<p>{escape(legend)}</p>" if legend else ""])

    def _legend(self) -> str:
        return boundaries.legend([it.trace for it in self.models], self.show)


def _cells(it: Counted, tokens: int, source: Source | None = None) -> tuple[str, str]:
    source = source or it.trace.source
    return numbers.tokens(tokens, source), _usd(it, CALLS, tokens, source)


def _saved(it: Counted, tokens: int) -> tuple[str, str]:
    """What leaving so many tokens out saves; more where the input leaves a more expensive tier."""
    before, after = it.usd(CALLS), input_usd(it.rates, it.tokens - tokens, CALLS)
    return f"{tokens:,}", numbers.usd(None if before is None or after is None else before - after)


def _usd(it: Counted, calls: int = 1, part: int | None = None, source: Source | None = None) -> str:
    return numbers.usd_marked(it.usd(calls, part), Precision((source or it.trace.source) == "estimated"))


def _where(found: Finding, messages: Sequence[Message]) -> str:
    at = sorted({edit.message for edit in found.edits})
    named = ", ".join(f"{messages[index].role} {index + 1}" for index in at[:3])
    return f"{named} and {len(at) - 3} more" if len(at) > 3 else named


def _excerpt(text: str, most: int = 60) -> str:
    line = " ".join(plain_text(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
