"""What *Run All* will cost: the notebook's prompt cells in their order, against the budgets, before anything runs.

Nothing is run, fetched or loaded for it. What is not known is said: variables that an earlier cell has yet to set,
models that it has yet to add, prices that nobody set.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from tokmagic.core.budget import Standing
from tokmagic.core.money import Rates, plain
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EngineInfo, Histories, PastRun, source_sha256
from tokmagic.core.stream import Source
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import BudgetError, LedgerError, PriceError, PromptError, TokmagicError, UsageError
from tokmagic.prompts.options import check_sampling
from tokmagic.runs.cache import repeatable
from tokmagic.runs.channel import VERSION
from tokmagic.runs.drafts.cells import Asked, read
from tokmagic.runs.drafts.counting import CountMethod, CountMethods, prompt_of, said_in
from tokmagic.runs.drafts.likely import Likely, LikelySum, likely, likely_executions, perhaps_cached
from tokmagic.runs.drafts.pricing import MOST_RUNS, Pricing, bounds
from tokmagic.runs.drafts.wire import likely_wire
from tokmagic.tokens.tokenizer import rough_count

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

Send = Callable[[dict[str, Any]], None]
Fate = Literal["runs", "cached", "free", "unknown"]
"""Of a cell: it runs; the cache has its answer; it runs no prompt; nothing can be told, for a reason."""
Verdict = Literal["fits", "may-exceed", "exceeds"]
_COMPARES = re.compile(r"(?:[ \t\r]*\n)*%%compare(?:\s|\Z)")
_FREE = Likely(Decimal(0), Decimal(0), Decimal(0), 0, True, Decimal(0))


@dataclass(frozen=True, slots=True)
class Written:
    """A cell of the notebook as it stands."""

    cell_id: str
    source: str


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One cell. Unknown is None."""

    cell_id: str
    fate: Fate
    model: str | None = None
    input_tokens: int | None = None
    input_source: Source = "unknown"
    max_output_tokens: int | None = None
    cost: Likely | None = None
    """None where no price is known."""
    reason: str | None = None
    """Why nothing is told, or only an estimate."""


@dataclass(frozen=True, slots=True)
class Against:
    """The forecast against one budget. ``cell_id`` is the first cell that may be refused, or stopped."""

    standing: Standing
    verdict: Verdict
    cell_id: str | None


@dataclass(slots=True)
class _Look:
    """One look at a notebook: what its cells have in common is found out once."""

    histories: Histories
    unread: dict[str, ModelSpec] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    """The keys of answers that the cells further up will have given."""
    chats: dict[str, Sequence[Message]] = field(default_factory=dict)
    """What is known of the conversations that the cells further up will have begun or gone on with."""
    priced: dict[str, tuple[EngineInfo, Rates]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Page:
    """What one page asked last."""

    seq: int
    cells: tuple[Written, ...]
    send: Send


class ForecastService:
    """Answers what sidebars ask about whole notebooks. For any thread."""

    def __init__(self, session: Session, methods: CountMethods, pricing: Pricing) -> None:
        self._session = session
        self._methods = methods
        self._pricing = pricing
        self._pages: dict[str, _Page] = {}
        self._lock = threading.RLock()

    def take(self, name: str, request: Mapping[str, Any], send: Send) -> None:
        """Answer one request, and once more for each tokenizer that had to be read first. Raises UsageError."""
        page = _parse(request, send)
        with self._lock:
            self._pages[name] = page
            self._answer(name, page)

    def _answer(self, name: str, page: _Page) -> None:
        with self._lock:
            if self._pages.get(name) is not page:
                return  # another question came meanwhile
            look = _Look(self._pricing.histories())
            cells = [self._cell(cell, look) for cell in page.cells]
            page.send(self._wire(page.seq, cells, done=not look.unread))
        for model, spec in look.unread.items():
            self._methods.seek(model, spec, lambda: self._answer(name, page))
            break  # the answer to this one asks for the next

    def _cell(self, cell: Written, look: _Look) -> Foreseen:
        try:
            asked = read(cell.source)
            if asked is None:
                return _of_python(cell, look)
            if not asked.runs or asked.dry_run:
                return Foreseen(cell.cell_id, "free", cost=_FREE)
            return self._prompt(cell, asked, look)
        except TokmagicError as error:
            return Foreseen(cell.cell_id, "unknown", reason=str(error))
        except Exception as error:
            # Not foreseen; the other cells are told of all the same.
            return Foreseen(cell.cell_id, "unknown", reason=f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _prompt(self, cell: Written, asked: Asked, look: _Look) -> Foreseen:
        said = look.chats.get(asked.chat) if asked.chat else None
        if asked.adds_to is not None:
            look.chats[asked.adds_to] = said if said is not None else said_in(self._session, asked)
        if not asked.model_known:
            raise UsageError(asked.doubt or "the model is not known before the cell runs")
        models = self._session.models
        name = models.current if asked.model is None else asked.model
        spec = models.peek(name)
        unused = f"{name} has not been used in this session yet; its first run reads its tokenizer"
        method = CountMethod(reason=unused) if spec is None else self._methods.find(name, spec)
        if method is None and spec is not None:
            look.unread[name] = spec
        priced = look.priced.get(name)
        model_id = priced[0].model_id if priced else models.info(name).model_id if spec is not None else None
        history = look.histories.get(cell.cell_id, [])
        past = [it for it in history if it.model_id == model_id and not it.replayed]
        prompt, tokens, source, doubt = self._counted(asked, method, past, look, said)
        found = Foreseen(
            cell.cell_id,
            "runs",
            name,
            tokens,
            source,
            asked.max_output_tokens,
            reason=doubt or (method or CountMethod()).reason,
        )
        if prompt is not None and spec is not None and self._is_cached(name, prompt, asked, look.seen):
            return replace(found, fate="cached", cost=_FREE)
        if spec is None:
            return found
        try:
            info, rates = look.priced.get(name) or self._pricing.rates(name)
            look.priced[name] = info, rates
        except PriceError as error:
            return replace(found, reason=str(error))
        if rates.input is None and rates.device_hour is None:
            return replace(found, reason=f"{name} has no price; set one with %price")
        low, high = self._pricing.span(info, rates, tokens, source, asked.max_output_tokens)
        digest = source_sha256(cell.source)
        cost = likely(past, digest, tokens, source, rates, bounds(low, high))
        known = prompt is not None and asked.sampling is not None and name in models.opened()
        if not known and self._may_be_cached(asked):
            replayed = bool(history) and history[0].replayed and history[0].source_sha256 == digest
            cost = perhaps_cached(cost, replayed=replayed)
        return replace(found, cost=cost)

    def _counted(
        self,
        asked: Asked,
        method: CountMethod | None,
        past: Sequence[PastRun],
        look: _Look,
        said: Sequence[Message] | None,
    ) -> tuple[Prompt | None, int, Source, str | None]:
        """The prompt, None unless it is all known; its tokens, and why they are only estimated. Raises PromptError."""
        before = past[0].input_tokens if past else None
        try:
            prompt, doubt = prompt_of(self._session, asked, said)
        except PromptError as error:
            if before is None:
                raise
            return None, before, "estimated", str(error)
        if asked.adds_to is not None:
            look.chats[asked.adds_to] = prompt.messages
        tokens, source = _count(prompt, method)
        if doubt is None:
            return prompt, tokens, source, None
        # What an earlier run was filled in with says more than a template without its values.
        return None, max(tokens, before or 0), "estimated", doubt

    def _is_cached(self, name: str, prompt: Prompt, asked: Asked, seen: set[str]) -> bool:
        """Whether the cache has the answer, or will have it from a cell further up. Only of an engine that is open."""
        if asked.sampling is None or name not in self._session.models.opened():
            return False
        check_sampling(prompt.sampling)
        # One that is renewed is generated, and the cells below find it.
        wanted = True if asked.refresh else asked.cache
        place = self._session.cache.place(self._session.models.engine(name), prompt, wanted, refresh=False)
        there = place.find() is not None or (place.key != "" and place.key in seen)
        if place.key:
            seen.add(place.key)
        return there and not asked.refresh

    def _may_be_cached(self, asked: Asked) -> bool:
        wanted = asked.cache
        if wanted is None:
            wanted = asked.sampling is None or repeatable(asked.sampling)
        return self._session.cache.on and wanted and not asked.refresh

    def _wire(self, seq: int, cells: Sequence[Foreseen], *, done: bool) -> dict[str, Any]:
        costs = [it.cost for it in cells if it.cost is not None]
        total = LikelySum.of(costs)
        unpriced = sum(it.fate == "runs" and it.cost is None for it in cells)
        unknown = sum(it.fate == "unknown" for it in cells)
        if unpriced or unknown:
            total = replace(total, high=None) if costs else LikelySum(None, None, None)
        return {
            "v": VERSION,
            "type": "forecast",
            "seq": seq,
            "done": done,
            "cells": [_cell_wire(it) for it in cells],
            "total": {
                "likely_usd": plain(total.usd),
                "low_usd": plain(total.low),
                "high_usd": plain(total.high),
                "cached": sum(it.fate == "cached" for it in cells),
                "without_history": sum(it.usd is None for it in costs),
                "unpriced": unpriced,
                "unknown": unknown,
            },
            "budgets": [_against_wire(it) for it in self._against(cells, total)],
        }

    def _against(self, cells: Sequence[Foreseen], total: LikelySum) -> list[Against]:
        standings: list[Standing] = []
        # A person who asks what it costs is told, whether budgets can be read or not.
        with suppress(LedgerError, BudgetError):
            standings = self._session.standings()
        return [_against(it, cells, total) for it in standings if it.budget.usd is not None]


def _of_python(cell: Written, look: _Look) -> Foreseen:
    """A cell without a prompt of its own: its code may run some."""
    if _COMPARES.match(cell.source):
        return Foreseen(cell.cell_id, "unknown", reason="this magic makes a forecast of its own")
    past = look.histories.get(cell.cell_id, ())
    cost = likely_executions(past, source_sha256(cell.source), MOST_RUNS)
    if cost is None:
        return Foreseen(cell.cell_id, "unknown", reason="which prompts its code runs, only a run tells")
    models = list(dict.fromkeys(it.model_id for it in past))
    return Foreseen(cell.cell_id, "runs", models[0] if len(models) == 1 else None, cost=cost)


def _count(prompt: Prompt, method: CountMethod | None) -> tuple[int, Source]:
    if method is not None and method.tokenizer is not None:
        return method.tokenizer.count(prompt), "counted"
    if method is not None and method.engine is not None:
        return method.engine.estimate(prompt)
    return rough_count(prompt), "estimated"


def _against(standing: Standing, cells: Sequence[Foreseen], total: LikelySum) -> Against:
    left = max(Decimal(0), standing.available_usd or Decimal(0))
    # A run is let in if the most that it may cost is left: the first that may not be.
    spent, first = Decimal(0), None
    for it in cells:
        if it.cost is None:
            continue
        most = it.cost.most if it.cost.most is not None else it.cost.usd or Decimal(0)
        if first is None and it.fate == "runs" and spent + most > left:
            first = it.cell_id
        if standing.budget.scope != "cell":
            spent += it.cost.usd if it.cost.usd is not None else it.cost.low or Decimal(0)
    if standing.budget.scope == "cell":
        return Against(standing, "fits" if first is None else "may-exceed", first)
    if total.usd is not None and total.usd > left:
        return Against(standing, "exceeds", first)
    fits = first is None and total.high is not None and total.high <= left
    return Against(standing, "fits" if fits else "may-exceed", first)


def _parse(request: Mapping[str, Any], send: Send) -> _Page:
    seq, cells = request.get("seq"), request.get("cells")
    told = [(it.get("id"), it.get("source")) for it in cells if isinstance(it, dict)] if isinstance(cells, list) else []
    texts = [Written(a, b) for a, b in told if isinstance(a, str) and isinstance(b, str)]
    if type(seq) is not int or not isinstance(cells, list) or len(texts) != len(cells):
        raise UsageError("this 'forecast' is not a message of the live protocol; reload the page")
    return _Page(seq, tuple(texts), send)


def _cell_wire(it: Foreseen) -> dict[str, Any]:
    return {
        "cell_id": it.cell_id,
        "fate": it.fate,
        "model": it.model,
        "input_tokens": it.input_tokens,
        "input_source": it.input_source,
        "max_output_tokens": it.max_output_tokens,
        **likely_wire(it.cost),
        "reason": it.reason,
    }


def _against_wire(it: Against) -> dict[str, Any]:
    return {
        "scope": it.standing.budget.scope,
        "cap_usd": plain(it.standing.budget.usd),
        "left_usd": plain(max(Decimal(0), it.standing.available_usd or Decimal(0))),
        "verdict": it.verdict,
        "cell_id": it.cell_id,
    }
