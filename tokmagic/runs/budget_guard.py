"""A run and its budgets: what it may use at most, whether it is let in, and when it is stopped in mid-stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tokmagic.core.budget import Admission, Budget, Hold, Standing
from tokmagic.core.money import Cost
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import Engine
from tokmagic.errors import BudgetError, LedgerError, ModelError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.prices.budgets import near, refusal

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger

# Where a model has no tokenizer here: more ids than bytes there cannot be, and what a chat template adds to a message.
_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 16

Confirm = Callable[[str], bool | None]
"""Puts a question to the person and says whether the answer was yes; None where nobody is there to answer."""


class BudgetWarning(UserWarning):
    """A budget is nearly used up, or cannot count a run."""


class BudgetGuard:
    """What one run may spend. ``open`` lets it in, ``covers`` watches it while it streams."""

    def __init__(self, held: Sequence[Budget], own: Sequence[Budget], confirm: Confirm | None) -> None:
        """``held`` are all budgets that apply, ``own`` those among them that stand in no ledger."""
        self.held = tuple(held)
        self._own = tuple(own)
        self._confirm = confirm
        self._limit: Decimal | None = None
        self._final = self._elsewhere = False
        self.standings: tuple[Standing, ...] = ()
        self.hold: Hold | None = None

    def open(self, ledger: Callable[[], Ledger], record: RunRecord, prompt: Prompt, engine: Engine) -> None:
        """Count the prompt, set the most it can cost aside, and insert its row as running.

        Raises BudgetError where it does not fit, PromptError where it cannot be counted, and LedgerError where no
        budget needs the ledger and its row could not be written.
        """
        tokens, estimated = _input_tokens(engine, prompt)
        # A server may not keep to the limit that it was given.
        self._elsewhere = engine.info.engine == "endpoint"
        self._ask(tokens)
        self.hold = _hold(ledger, record, prompt, tokens, estimated=estimated)
        try:
            admission = ledger().admit(record, prompt.messages, self.hold, self._own, datetime.now())
        except LedgerError as error:
            admission = self._without_ledger(error)
            if admission.refused is None:
                raise
        if admission.refused is not None:
            raise BudgetError(admission.refused)
        self.standings = admission.standings
        capped = any(budget.usd is not None for budget in self.held)
        self._limit = (self.hold.usd or Decimal(0)) if capped and self._watched else None

    @property
    def _watched(self) -> bool:
        """Whether what is held is no bound, so that the run could use more."""
        return self.hold is not None and (self.hold.usd is None or self.hold.estimated or self._elsewhere)

    def let_go(self) -> None:
        """There is no ledger to ask, and no budget that needs one: what was set aside is the only cap."""
        self._final = True
        caps = [budget.usd for budget in self.held if budget.usd is not None]
        self._limit = min(caps) if caps and self._watched else None

    def covers(self, cost: Callable[[], Decimal | None], ledger: Callable[[], Ledger], record: RunRecord) -> bool:
        """Whether the run may go on, now that it has cost so much. Its hold grows with it, as far as caps allow."""
        if self._limit is None:
            return True
        spent = cost()
        if spent is None:
            return True
        # Asked for ahead of time, so that at the cap itself nothing has to be waited for.
        if not self._final and spent >= self._limit * Decimal("0.8"):
            wanted = 2 * spent
            try:
                self._limit = ledger().extend(record, wanted, self._own, datetime.now())
            except LedgerError:
                self._final = True
            self._final = self._final or self._limit < wanted
        return spent < self._limit

    def stopped(self, cost: Cost) -> BudgetError:
        """What to raise for a run that was stopped."""
        caps = [f"{it.budget.scope} {numbers.usd(it.budget.usd)}" for it in self.standings if it.budget.usd is not None]
        return BudgetError(
            f"stopped at {numbers.cost(cost)}: a budget is used up ({', '.join(caps)}); its text and its cost are "
            "kept, raise the budget to go on"
        )

    def warnings(self, record: RunRecord) -> Iterable[tuple[str, str]]:
        """What to warn of: keys, by which each is told once, and texts."""
        model = record.info.name
        if self._limit is not None and record.rates.input is None and record.rates.device_hour is None:
            unknown = f"the price of {model} is unknown, so no budget in USD can count or stop it"
            yield f"unpriced {model}", f"{unknown}; set rates with %price, or make the budget --strict"
        for it in self.standings:
            if it.budget.scope != "cell" and it.share >= it.budget.warn_at:
                yield it.budget.scope, near(it)

    def _ask(self, tokens: int) -> None:
        limits = [budget.tokens for budget in self.held if budget.scope == "cell" and budget.tokens is not None]
        if not limits or tokens <= min(limits):
            return
        size = numbers.counted(tokens, "token")
        text = f"the prompt has {size}, more than the {min(limits):,} allowed without confirmation"
        answer = self._confirm(f"{text}. Run it?") if self._confirm is not None else None
        if answer is None:
            raise BudgetError(f"{text}, and nobody can be asked; --yes confirms it")
        if not answer:
            raise BudgetError(f"{text}, and it was not confirmed; nothing was run")

    def _without_ledger(self, error: LedgerError) -> Admission:
        """What can be decided though the ledger cannot be asked: a run's own cap; a sum can not."""
        assert self.hold is not None
        for budget in self.held:
            if budget.scope != "cell":
                return Admission(f"the {budget.scope}'s budget cannot be enforced, nothing was run: {error}")
        return Admission(refusal([Standing(budget) for budget in self.held], self.hold))


def _input_tokens(engine: Engine, prompt: Prompt) -> tuple[int, bool]:
    """The prompt's tokens, and whether they are only an upper bound."""
    try:
        return engine.count(prompt), False
    except ModelError:
        size = sum(len(message.content.encode("utf-8", "replace")) + _MESSAGE_TOKENS for message in prompt.messages)
        schema = len((prompt.sampling.json_schema or "").encode("utf-8", "replace"))
        return size + schema + _TEMPLATE_TOKENS, True


def _hold(
    ledger: Callable[[], Ledger], record: RunRecord, prompt: Prompt, input_tokens: int, *, estimated: bool
) -> Hold:
    most = prompt.sampling.max_tokens * prompt.sampling.n
    itl_s = None
    if record.rates.device_hour is not None and record.rates.input is None:
        try:
            itl_s = ledger().token_time_s(record)
        except LedgerError:
            itl_s = None
    usd, guessed = bound_usd(record.rates, input_tokens, most, itl_s)
    return Hold(input_tokens + most, usd, guessed or estimated)
