"""A run and its budgets: what it may use at most, whether it is let in, and when it is stopped in mid-stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from tokmagic.core.budget import Admission, Budget, Hold, Standing, Used
from tokmagic.core.money import Cost
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import RunRecord
from tokmagic.engines.base import Engine
from tokmagic.errors import BudgetError, LedgerError, ModelError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.prices.budgets import caps_tokens, near, refusal
from tokmagic.runs.recorder import Teller

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.many import Others

# Where a model has no tokenizer here: more ids than bytes there cannot be, and what a chat template adds to a message.
_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 16

Confirm = Callable[[str], bool | None]
"""Puts a question to the person and says whether the answer was yes; None where nobody is there to answer."""


class BudgetWarning(UserWarning):
    """A budget is nearly used up, or cannot count a run."""


@dataclass(slots=True)
class _Limit:
    """What a run may use of ``usd`` or ``tokens`` until more is asked for; ``final``: there is no more."""

    kind: Literal["usd", "tokens"]
    most: Decimal
    final: bool = False

    def near(self, now: Used) -> bool:
        """Whether it is time to ask for more."""
        used = getattr(now, self.kind)
        return not self.final and used is not None and used >= self.most * Decimal("0.8")

    def reached(self, now: Used) -> bool:
        """Whether the run has to stop: at the last dollar, but not at the last token, which may well be its end."""
        used = getattr(now, self.kind)
        return used is not None and (used > self.most if self.kind == "tokens" else used >= self.most)

    def grow(self, granted: Hold, wanted: Hold) -> None:
        """Take what was granted."""
        most, asked = getattr(granted, self.kind), getattr(wanted, self.kind)
        if most is not None:
            self.most, self.final = Decimal(most), most < asked


class BudgetGuard:
    """What one run may spend. ``admit`` lets it in, ``covers`` watches it while it streams."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        held: Sequence[Budget],
        own: Sequence[Budget],
        *,
        teller: Teller,
        confirm: Confirm | None = None,
        others: Others | None = None,
    ) -> None:
        """``held`` are all budgets that apply, ``own`` those among them that stand in no ledger.

        What does not fit beside what ``others`` hold waits until they have ended.
        """
        self._ledger = ledger
        self._held = tuple(held)
        self._own = tuple(own)
        self._teller = teller
        self._confirm = confirm
        self._others = others
        self._limits: list[_Limit] = []
        self._standings: tuple[Standing, ...] = ()
        self.hold: Hold | None = None

    def admit(self, record: RunRecord, prompt: Prompt, engine: Engine) -> bool:
        """Let a run in and say whether its row was inserted, as running, with the most it can cost set aside.

        It was not where no budget applies, nor where those that do need no ledger and that could not be written.
        Raises BudgetError where it does not fit, and PromptError where it cannot be counted.
        """
        if not self._held:
            return False
        tokens, estimated = _input_tokens(engine, prompt)
        self._ask(tokens)
        hold = self._set_aside(record, prompt, tokens, estimated=estimated)
        return self.admit_hold(record, prompt.messages, hold)

    def admit_hold(self, record: RunRecord, messages: Sequence[Message], hold: Hold) -> bool:
        """The same where what is to be set aside is known."""
        if not self._held:
            return False
        self.hold = hold
        while True:
            attempt = None if self._others is None else self._others.attempt()
            in_ledger = True
            try:
                admission = self._ledger().admit(record, messages, hold, self._held, datetime.now())
            except LedgerError as error:
                admission, in_ledger = self._without_ledger(error, hold), False
            if admission.refused is None:
                break
            if self._others is None or attempt is None or not self._others.ended_since(attempt):
                raise BudgetError(admission.refused)
        self._standings = admission.standings
        self._limits = list(self._watched(hold, remote=record.info.traits.remote, in_ledger=in_ledger))
        self._teller.tell(dict(self._causes(record)))
        return in_ledger

    def _watched(self, hold: Hold, *, remote: bool, in_ledger: bool) -> Iterator[_Limit]:
        """What the run is watched for. What it holds may be no bound: a server may not keep to its limit, for one."""
        caps = [budget.usd for budget in self._held if budget.usd is not None]
        if caps and (hold.usd is None or hold.estimated or remote):
            # Without a ledger what was set aside cannot grow, and the caps themselves are all that there is.
            yield _Limit("usd", hold.usd or Decimal(0)) if in_ledger else _Limit("usd", min(caps), final=True)
        if any(map(caps_tokens, self._held)) and (hold.estimated or remote):
            yield _Limit("tokens", Decimal(hold.tokens))

    def covers(self, used: Callable[[], Used], record: RunRecord) -> bool:
        """Whether the run may go on, now that it has used so much. Its hold grows with it, as far as caps allow."""
        if not self._limits:
            return True
        now = used()
        # Asked for ahead of time, so that at the cap itself nothing has to be waited for.
        if any(limit.near(now) for limit in self._limits):
            self._extend(now, record)
        return not any(limit.reached(now) for limit in self._limits)

    def _extend(self, now: Used, record: RunRecord) -> None:
        hold = self.hold
        assert hold is not None
        usd = hold.usd if now.usd is None else max(hold.usd or Decimal(0), 2 * now.usd)
        wanted = replace(hold, usd=usd, tokens=max(hold.tokens, 2 * now.tokens))
        try:
            self.hold = self._ledger().extend(record, wanted, self._own, datetime.now())
        except LedgerError:
            for limit in self._limits:
                limit.final = True
            return
        for limit in self._limits:
            limit.grow(self.hold, wanted)

    def stopped(self, cost: Cost) -> BudgetError:
        """What to raise for a run that was stopped."""
        budgets = [it.budget for it in self._standings]
        caps = [f"{budget.scope} {numbers.usd(budget.usd)}" for budget in budgets if budget.usd is not None]
        caps += [f"{it.scope} {numbers.counted(it.tokens or 0, 'token')}" for it in budgets if caps_tokens(it)]
        return BudgetError(
            f"stopped at {numbers.cost(cost)}: a budget is used up ({', '.join(caps)}); its text and its cost are "
            "kept, raise the budget to go on"
        )

    def _causes(self, record: RunRecord) -> Iterable[tuple[str, str]]:
        """What to warn of: keys, by which each is told once, and texts."""
        model = record.info.name
        in_usd = any(limit.kind == "usd" for limit in self._limits)
        if in_usd and record.rates.input is None and record.rates.device_hour is None:
            unknown = f"the price of {model} is unknown, so no budget in USD can count or stop it"
            yield f"unpriced {model}", f"{unknown}; set rates with %price, or make the budget --strict"
        for it in self._standings:
            if it.budget.scope != "cell" and it.share >= it.budget.warn_at:
                yield it.budget.scope, near(it)

    def _ask(self, tokens: int) -> None:
        limits = [budget.tokens for budget in self._held if budget.scope == "cell" and budget.tokens is not None]
        if not limits or tokens <= min(limits):
            return
        size = numbers.counted(tokens, "token")
        text = f"the prompt has {size}, more than the {min(limits):,} allowed without confirmation"
        answer = self._confirm(f"{text}. Run it?") if self._confirm is not None else None
        if answer is None:
            raise BudgetError(f"{text}, and nobody can be asked; --yes confirms it")
        if not answer:
            raise BudgetError(f"{text}, and it was not confirmed; nothing was run")

    def _set_aside(self, record: RunRecord, prompt: Prompt, input_tokens: int, *, estimated: bool) -> Hold:
        most, itl_s = prompt.sampling.max_tokens * prompt.sampling.n, None
        if record.rates.device_hour is not None and record.rates.input is None:
            with suppress(LedgerError):
                itl_s = self._ledger().token_time_s(record.info)
        usd, guessed = bound_usd(record.rates, input_tokens, most, itl_s)
        return Hold(input_tokens + most, usd, guessed or estimated)

    def _without_ledger(self, error: LedgerError, hold: Hold) -> Admission:
        """What can be decided though the ledger cannot be asked: a run's own cap; a sum can not."""
        for budget in self._held:
            if budget.scope != "cell":
                return Admission(f"the {budget.scope}'s budget cannot be enforced, nothing was run: {error}")
        return Admission(refusal([Standing(budget) for budget in self._held], hold))


def _input_tokens(engine: Engine, prompt: Prompt) -> tuple[int, bool]:
    """The prompt's tokens, and whether they are only an upper bound."""
    try:
        return engine.count(prompt), False
    except ModelError:
        return prompt.utf8_bytes + len(prompt.messages) * _MESSAGE_TOKENS + _TEMPLATE_TOKENS, True
