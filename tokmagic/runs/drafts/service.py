"""The cells that are being written, and the answers about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Source
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import Models
from tokmagic.errors import PriceError, PromptError, TokmagicError, UsageError
from tokmagic.prices import span
from tokmagic.prompts.template import build
from tokmagic.runs.drafts.cells import Asked, fill, read
from tokmagic.runs.drafts.counting import CountMethod, CountMethods
from tokmagic.runs.drafts.wire import Draft, Edit, State, Text, draft_wire, parse
from tokmagic.tokens.counter import LiveCounter
from tokmagic.tokens.tokenizer import rough_count

if TYPE_CHECKING:
    from tokmagic.core.config import TokMagic
    from tokmagic.tokens.tokenizer import Tokenizer

Send = Callable[[dict[str, Any]], None]

MOST_CELLS = 8
"""How many cells' texts and counts are kept; the one that was edited least recently leaves first."""
_LONG_CHARS = 20_000
"""From here on a full count is felt while typing."""


@dataclass(frozen=True, slots=True)
class DraftContext:
    """What a draft sees of its session; all of it is read while the notebook computes."""

    models: Models
    settings: TokMagic
    rates: Callable[[EngineInfo], Rates]
    chats: Mapping[str, Sequence[Message]]
    variables: Callable[[], Mapping[str, Any]]
    turn: Callable[[], AbstractContextManager[object]]
    """Entered while something is imported in the background."""


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
        counter = self._counter_for(way.tokenizer, prompt.completion)
        return counter.update(text), "counted", not counter.incremental and len(text) > _LONG_CHARS

    def _counter_for(self, tokenizer: Tokenizer, completion: bool) -> LiveCounter:
        if self.counter is None or self.counter[:2] != (tokenizer, completion):
            # A template writes the special tokens itself; as Tokenizer.count does it.
            counter = LiveCounter(tokenizer.whole_backend(), add_special_tokens=completion)
            self.counter = (tokenizer, completion, counter)
        return self.counter[2]


class DraftService:
    """Answers what sidebars tell of cells' texts. For any thread."""

    def __init__(self, around: DraftContext) -> None:
        self._around = around
        self._methods = CountMethods(around.models, around.settings, around.turn)
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

    def _changed(self, page: str, edit: Edit) -> _Cell | None:
        """The cell with its new text; None where the text that was changed is not known."""
        key = (page, edit.cell_id)
        cell = self._cells.pop(key, None)
        if edit.base is None:
            cell = cell or _Cell()
            cell.text = Text()
        elif cell is None or cell.seq != edit.base:
            return None
        if not cell.text.apply(edit.change):
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
            name, spec = self._model(asked)
            draft = Draft(name, max_output_tokens=asked.max_output_tokens)
            way = _method_of_unused(name) if spec is None else self._methods.find(name, spec)
            draft = self._counted(draft, cell, asked, way or CountMethod())
            if not asked.model_known:
                draft = replace(draft, model=None)
            elif spec is not None:
                draft = self._priced(draft, self._around.models.info(name), runs=asked.runs)
            return draft, (name, spec) if spec is not None and way is None else None
        except TokmagicError as error:
            return replace(draft, reason=str(error)), None
        except Exception as error:
            # Not foreseen; the sidebar waits for an answer all the same, and asks nothing before it comes.
            return replace(draft, reason=f"{type(error).__name__}: {' '.join(str(error).split())}"), None

    def _model(self, asked: Asked) -> tuple[str, ModelSpec | None]:
        """The model's name, and how it is run; None for one that using it would register. Raises UsageError."""
        models = self._around.models
        name = models.current if asked.model is None else asked.model
        return name, models.peek(name)

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
        messages, exact = fill(asked.body, self._around.variables(), literal=asked.literal)
        doubt = asked.doubt
        if not exact:
            doubt = doubt or "the template holds more than {{ name }} of a string or number, which only a run fills in"
        history = self._around.chats.get(asked.chat, ()) if asked.chat else ()
        try:
            prompt = build(messages, Sampling(), system=asked.system, history=history, completion=asked.completion)
        except PromptError as error:
            raise PromptError(doubt or str(error)) from None
        return prompt, doubt

    def _priced(self, draft: Draft, info: EngineInfo, *, runs: bool) -> Draft:
        draft = replace(draft, context_tokens=info.context_tokens)
        try:
            rates = self._around.rates(info)
        except PriceError:
            return draft
        assert draft.input_tokens is not None
        low, high = span(draft.input_tokens, draft.input_source, draft.max_output_tokens or 0, rates)
        known = runs and draft.max_output_tokens is not None
        return replace(draft, low=low, high=high) if known else replace(draft, low=low)


def _method_of_unused(name: str) -> CountMethod:
    return CountMethod(reason=f"{name} has not been used in this session yet; its first run reads its tokenizer")
