"""The cells that are being written, and the answers about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import Cost
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import source_sha256
from tokmagic.core.stream import Source
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import PriceError, TokmagicError, UsageError
from tokmagic.runs.drafts.cells import Asked, read
from tokmagic.runs.drafts.counting import CountMethod, CountMethods, prompt_of
from tokmagic.runs.drafts.forecast import ForecastService
from tokmagic.runs.drafts.likely import likely
from tokmagic.runs.drafts.pricing import Pricing, bounds, by_the_hour
from tokmagic.runs.drafts.wire import Draft, Edit, State, Text, draft_wire, parse
from tokmagic.tokens.counter import LiveCounter
from tokmagic.tokens.tokenizer import Tokenizer, rough_count

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

Send = Callable[[dict[str, Any]], None]

MOST_CELLS = 8
"""How many cells' texts and counts are kept; the one that was edited least recently leaves first."""
_LONG_CHARS = 20_000
"""From here on a full count is felt while typing."""


@dataclass
class _Cell:
    """One cell of one page."""

    text: Text = field(default_factory=Text)
    seq: int = 0
    counter: tuple[Tokenizer, bool, LiveCounter] | None = None

    def count(self, way: CountMethod, prompt: Prompt) -> tuple[int, Source, bool]:
        """Return the input tokens, and whether each count takes the whole of a long text. Raises PromptError."""
        if way.tokenizer is None:
            if way.engine is None:
                return rough_count(prompt), "estimated", False
            return *way.engine.estimate(prompt), sum(len(it.content) for it in prompt.messages) > _LONG_CHARS
        text = way.tokenizer.text(prompt)
        if way.tokenizer.backend is None:
            return way.tokenizer.count(prompt), "counted", len(text) > _LONG_CHARS
        if self.counter is None or self.counter[:2] != (way.tokenizer, prompt.completion):
            # A template writes the special tokens itself; as Tokenizer.count does it.
            counter = LiveCounter(way.tokenizer.backend, add_special_tokens=prompt.completion)
            self.counter = (way.tokenizer, prompt.completion, counter)
        counter = self.counter[2]
        return counter.update(text), "counted", not counter.incremental and len(text) > _LONG_CHARS


class DraftService:
    """Answers what sidebars tell of cells' texts. For any thread: the session is read while the notebook computes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._methods, self._pricing = CountMethods(session), Pricing(session)
        self._forecasts = ForecastService(session, self._methods, self._pricing)
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._lock = threading.RLock()

    def take(self, page: str, request: Mapping[str, Any], send: Send) -> None:
        """Take a change in and answer it, at once or when the model's tokenizer was read. Raises UsageError.

        ``page`` tells one page's texts from another's; ``send`` may be called on another thread.
        """
        edit = parse(request)
        with self._lock:
            cell = self._changed(page, edit)
            if cell is None:
                send(draft_wire(Draft(), cell_id=edit.cell_id, seq=edit.seq, state="lost"))
            else:
                self._answer(cell, edit, send)

    def forecast(self, page: str, request: Mapping[str, Any], send: Send) -> None:
        """Forecast what a notebook's cells will cost; see :mod:`tokmagic.runs.drafts.forecast`. Raises UsageError."""
        self._forecasts.take(page, request, send)

    def _changed(self, page: str, edit: Edit) -> _Cell | None:
        """The cell with its new text; None where the text that was changed is not known."""
        key = (page, edit.cell_id)
        cell = self._cells.pop(key, None)
        if edit.base is None:
            cell = cell or _Cell()
            cell.text = Text()
        elif cell is None or cell.seq != edit.base:
            return None
        if not cell.text.change(edit.offset, edit.deleted, edit.inserted):
            return None
        cell.seq = edit.seq
        self._cells[key] = cell
        while len(self._cells) > MOST_CELLS:
            del self._cells[next(iter(self._cells))]
        return cell

    def _answer(self, cell: _Cell, edit: Edit, send: Send) -> None:
        draft, unread = self._draft(cell, edit.cell_id)
        state: State = "counted" if unread is None else "counting"
        send(draft_wire(draft, cell_id=edit.cell_id, seq=edit.seq, state=state))
        if unread is not None:
            self._methods.seek(*unread, lambda: self._answer_later(cell, edit, send))

    def _answer_later(self, cell: _Cell, edit: Edit, send: Send) -> None:
        with self._lock:
            # Whatever was typed meanwhile asks for itself.
            if cell.seq == edit.seq and any(it is cell for it in self._cells.values()):
                draft, _ = self._draft(cell, edit.cell_id)
                send(draft_wire(draft, cell_id=edit.cell_id, seq=edit.seq, state="counted"))

    def _draft(self, cell: _Cell, cell_id: str) -> tuple[Draft, tuple[str, ModelSpec] | None]:
        """What a cell would take, and the model whose way of counting has to be found out first."""
        draft = Draft()
        try:
            asked = read(str(cell.text))
            if asked is None:
                raise UsageError("this cell contains no prompt")
            models = self._session.models
            name = models.current if asked.model is None else asked.model
            spec = models.peek(name)
            draft = Draft(name, max_output_tokens=asked.max_output_tokens)
            unused = f"{name} has not been used in this session yet; its first run reads its tokenizer"
            way = CountMethod(reason=unused) if spec is None else self._methods.find(name, spec)
            draft = self._counted(draft, cell, asked, way or CountMethod())
            if not asked.model_known:
                draft = replace(draft, model=None)
            elif spec is not None:
                draft = self._priced(draft, cell, cell_id, name, runs=asked.runs)
            return draft, (name, spec) if spec is not None and way is None else None
        except TokmagicError as error:
            return replace(draft, reason=str(error)), None
        except Exception as error:
            # Not foreseen; the sidebar waits for an answer all the same, and asks nothing before it comes.
            return replace(draft, reason=f"{type(error).__name__}: {' '.join(str(error).split())}"), None

    def _counted(self, draft: Draft, cell: _Cell, asked: Asked, way: CountMethod) -> Draft:
        prompt, doubt = prompt_of(self._session, asked)
        tokens, source, costly = cell.count(way, prompt)
        return replace(
            draft,
            input_tokens=tokens,
            input_source=source if doubt is None else "estimated",
            costly=costly,
            reason=doubt or way.reason,
        )

    def _priced(self, draft: Draft, cell: _Cell, cell_id: str, name: str, *, runs: bool) -> Draft:
        try:
            info, rates = self._pricing.rates(name)
        except PriceError:
            return replace(draft, context_tokens=self._session.models.info(name).context_tokens)
        draft = replace(draft, context_tokens=info.context_tokens)
        tokens, source = draft.input_tokens, draft.input_source
        assert tokens is not None
        hourly = by_the_hour(rates)
        if hourly and not runs:
            return draft
        low, high = self._pricing.span(info, rates, tokens, source, draft.max_output_tokens)
        if hourly:
            listed = rates.source if rates.source.startswith("list price") else None
            draft = replace(draft, device_hour=rates.device_hour, list_price=listed)
        draft = replace(draft, low=low, high=high if runs else Cost())
        past = self._pricing.past(cell_id, info.model_id) if runs else []
        if not past:
            return draft
        digest = source_sha256(str(cell.text))
        found = likely(past, digest, tokens, source, rates, bounds(low, high))
        return replace(draft, likely=found)
