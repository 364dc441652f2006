"""The cells that are being written, and the answers about them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import Cost, Rates
from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import LedgerError, PriceError, PromptError, TokmagicError, UsageError
from tokmagic.prices import bound_usd, span
from tokmagic.prompts.template import build
from tokmagic.runs.drafts.cells import Asked, fill, read
from tokmagic.runs.drafts.counting import CountMethod, CountMethods
from tokmagic.runs.drafts.wire import Draft, Edit, State, Text, draft_wire, parse
from tokmagic.runs.environment import expected_device
from tokmagic.tokens.counter import LiveCounter
from tokmagic.tokens.tokenizer import Tokenizer, rough_count

if TYPE_CHECKING:
    from tokmagic.runs.session import Session

Send = Callable[[dict[str, Any]], None]

MOST_CELLS = 8
"""How many cells' texts and counts are kept; the one that was edited least recently leaves first."""
_TIMES_S = 5.0
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
        self._methods = CountMethods(session)
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._times: dict[EngineInfo, tuple[float, float | None]] = {}
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
        draft, unread = self._draft(cell)
        state: State = "counted" if unread is None else "counting"
        send(draft_wire(draft, cell_id=edit.cell_id, seq=edit.seq, state=state))
        if unread is not None:
            self._methods.seek(*unread, lambda: self._answer_later(cell, edit, send))

    def _answer_later(self, cell: _Cell, edit: Edit, send: Send) -> None:
        with self._lock:
            # Whatever was typed meanwhile asks for itself.
            if cell.seq == edit.seq and any(it is cell for it in self._cells.values()):
                draft, _ = self._draft(cell)
                send(draft_wire(draft, cell_id=edit.cell_id, seq=edit.seq, state="counted"))

    def _draft(self, cell: _Cell) -> tuple[Draft, tuple[str, ModelSpec] | None]:
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
                draft = self._priced(draft, models.info(name), runs=asked.runs)
            return draft, (name, spec) if spec is not None and way is None else None
        except TokmagicError as error:
            return replace(draft, reason=str(error)), None
        except Exception as error:
            # Not foreseen; the sidebar waits for an answer all the same, and asks nothing before it comes.
            return replace(draft, reason=f"{type(error).__name__}: {' '.join(str(error).split())}"), None

    def _counted(self, draft: Draft, cell: _Cell, asked: Asked, way: CountMethod) -> Draft:
        prompt, doubt = self._prompt(asked)
        tokens, source, costly = cell.count(way, prompt)
        return replace(
            draft,
            input_tokens=tokens,
            input_source=source if doubt is None else "estimated",
            costly=costly,
            reason=doubt or way.reason,
        )

    def _prompt(self, asked: Asked) -> tuple[Prompt, str | None]:
        """The prompt as far as it is known, and why that is not all of it. Raises PromptError."""
        messages, exact = fill(asked.body, self._session.variables(), literal=asked.literal)
        doubt = asked.doubt
        if not exact:
            doubt = doubt or "the template holds more than {{ name }} of a string or number, which only a run fills in"
        history = self._session.chats.get(asked.chat, ()) if asked.chat else ()
        try:
            prompt = build(messages, Sampling(), system=asked.system, history=history, completion=asked.completion)
        except PromptError as error:
            raise PromptError(doubt or str(error)) from None
        return prompt, doubt

    def _priced(self, draft: Draft, info: EngineInfo, *, runs: bool) -> Draft:
        draft = replace(draft, context_tokens=info.context_tokens)
        try:
            spec = self._session.models.peek(info.name)
            info = expected_device(info, spec.device if spec is not None else None)
            rates = self._session.prices.rates(info)
        except PriceError:
            return draft
        assert draft.input_tokens is not None
        if rates.input is None and rates.device_hour is not None:
            return self._priced_by_time(draft, info, rates) if runs else draft
        low, high = span(draft.input_tokens, draft.input_source, draft.max_output_tokens or 0, rates)
        known = runs and draft.max_output_tokens is not None
        return replace(draft, low=low, high=high) if known else replace(draft, low=low)

    def _priced_by_time(self, draft: Draft, info: EngineInfo, rates: Rates) -> Draft:
        """What the longest answer costs by the hour, if its tokens take as long as those of the model's latest runs."""
        listed = rates.source if rates.source.startswith("list price") else None
        most, _ = bound_usd(rates, 0, draft.max_output_tokens or 0, self._token_time_s(info))
        high = Cost() if most is None or draft.max_output_tokens is None else Cost(most, "estimated")
        return replace(draft, high=high, device_hour=rates.device_hour, list_price=listed)

    def _token_time_s(self, info: EngineInfo) -> float | None:
        """Seconds a token takes, looked up anew at most every few seconds: each keystroke asks."""
        now = time.monotonic()
        asked_at, known = self._times.get(info, (-_TIMES_S, None))
        if now - asked_at >= _TIMES_S:
            with suppress(LedgerError):
                known = self._session.ledger().token_time_s(info)
            self._times[info] = now, known
        return known
