"""A run and its budgets: what it may use at most, whether it is let in, and when it is stopped in mid-stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from tokmagic.core.budget import Admission, Budget, Hold, Standing, Used
from tokmagic.core.money import Cost
from tokmagic.core.prompt import Message, Prompt
from tokmagic.core.record import EngineInfo, RunRecord
from tokmagic.engines.base import Engine
from tokmagic.errors import BudgetError, LedgerError, ModelError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.prices.budgets import caps_tokens, near, passing, refusal
from tokmagic.runs.recorder import Teller

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger
    from tokmagic.runs.many import Others

# Where a model has no tokenizer here: more ids than bytes there cannot be, and what a chat template adds to a message.
_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 16

HoldBy = Literal["worst", "p95"]
"""How many output tokens are set aside for a run: as many as it may generate, or as nearly all answers have."""
Confirm = Callable[[str], bool | None]
"""Puts a question to the person and says whether the answer was yes; None where nobody is there to answer."""


class BudgetWarning(UserWarning):
    """A budget is nearly used up, or cannot count a run."""


CONFIRMS = "--yes confirms it"
"""What helps a single run whose prompt is longer than passes unasked."""


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

    def is_all_of(self, worst: Hold) -> bool:
        """Whether it is the most that the run can use at all."""
        most = getattr(worst, self.kind)
        return most is not None and self.most >= most


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
        hold_by: HoldBy = "worst",
    ) -> None:
        """``held`` are all budgets that apply, ``own`` those among them that stand in no ledger.

        What does not fit beside what ``others`` hold waits until they have ended. ``hold_by`` says how many output
        tokens are set aside: all that a run may generate, or the 95th percentile of its model's answers.
        """
        self._ledger = ledger
        self._held = tuple(held)
        self._own = tuple(own)
        self._teller = teller
        self._confirm = confirm
        self._others = others
        self._hold_by = hold_by
        # The most that the run can use, where less than that is held.
        self._worst: Hold | None = None
        self._limits: list[_Limit] = []
        self._standings: tuple[Standing, ...] = ()
        self.hold: Hold | None = None

    def admit(self, record: RunRecord, prompt: Prompt, engine: Engine) -> bool:
        """Let a run in and say whether its row was inserted, as running, with the most it can cost set aside.

        It was not where no budget applies, nor where those that do need no ledger and that could not be written.
        Raises BudgetError where it does not fit, and PromptError where it cannot be counted.
        """
        if not self._bounded:
            return False
        tokens, estimated = input_tokens(engine, prompt)
        self._ask(tokens)
        hold = self._set_aside(record, prompt, tokens, estimated=estimated)
        return self.admit_hold(record, prompt.messages, hold)

    def admit_hold(self, record: RunRecord, messages: Sequence[Message], hold: Hold) -> bool:
        """The same where what is to be set aside is known."""
        if not self._bounded:
            return False
        self.hold = hold
        with nullcontext() if self._others is None else self._others.door():
            held, admission, in_ledger = self._at_the_door(record, messages, hold)
        self._standings = admission.standings
        self._limits = list(self._watched(held, hold, remote=record.info.traits.remote, in_ledger=in_ledger))
        self._teller.tell(dict(self._causes(record)))
        return in_ledger

    def _at_the_door(
        self, record: RunRecord, messages: Sequence[Message], hold: Hold
    ) -> tuple[list[Budget], Admission, bool]:
        """Let a run in: by which budgets, and whether the ledger did. What does not fit waits. Raises BudgetError."""
        others = self._others
        while True:
            if others is not None and others.closed:
                told = "a budget ended what this run belongs to before it began; nothing was run"
                raise BudgetError(told, behind=True)
            attempt = None if others is None else others.attempt()
            common = self._common(record, hold)
            held = [*self._held, *common]
            away: LedgerError | None = None
            try:
                admission = self._ledger().admit(record, messages, hold, held, datetime.now())
            except LedgerError as error:
                admission, away = _without_ledger(error, held, hold), error
            if admission.refused is None:
                return held, admission, away is None
            if others is not None:
                others.let_go(record.run_id)
            # What would not even fit alone waits for nobody. Of a budget in common the others' part is no hold in the
            # ledger, which cannot tell whether that would pass.
            never = self._alone(common, hold)
            is_common = refusal([Standing(it) for it in common], hold) is not None
            may_pass = never is None if is_common else admission.passing
            if others is None or attempt is None or not may_pass or not others.ended_since(attempt):
                alone = never is None and self._is_alone(admission.standings, common, hold)
                if others is not None and not alone:
                    others.refused()
                raise BudgetError(never or admission.refused, passing=admission.passing, alone=alone) from away

    def _alone(self, common: Sequence[Budget], hold: Hold) -> str | None:
        """Why a run would not fit into the common budget even without the others; None where it would."""
        unspent = Decimal(0) if self._others is None else self._others.unspent_usd
        return refusal([Standing(replace(it, usd=unspent)) for it in common], hold)

    def _is_alone(self, standings: Sequence[Standing], common: Sequence[Budget], hold: Hold) -> bool:
        """Whether a run is refused by what each may cost, and would fit into all that runs have in common."""
        single = [it for it in standings if it.budget.scope == "cell" and it.budget not in common]
        sums = [it for it in standings if it.budget.scope != "cell"]
        return refusal(single, hold) is not None and passing(sums, hold)

    @property
    def _bounded(self) -> bool:
        """Whether any budget applies."""
        return bool(self._held) or (self._others is not None and self._others.bounded)

    def _common(self, record: RunRecord, wanted: Hold) -> list[Budget]:
        """What others leave this run of a budget that they have in common, where they have one."""
        if self._others is None:
            return []
        left = self._others.set_aside(record.run_id, wanted.usd)
        return [left] if self._others.bounded else []

    def _watched(self, held: Sequence[Budget], hold: Hold, *, remote: bool, in_ledger: bool) -> Iterator[_Limit]:
        """What the run is watched for. What it holds may be no bound: a server may not keep to its limit, for one."""
        caps = [budget.usd for budget in held if budget.usd is not None]
        if caps and (hold.usd is None or hold.estimated or remote):
            # Without a ledger what was set aside cannot grow, and the caps themselves are all that there is.
            yield _Limit("usd", hold.usd or Decimal(0)) if in_ledger else _Limit("usd", min(caps), final=True)
        if any(map(caps_tokens, held)) and (hold.estimated or remote):
            yield _Limit("tokens", Decimal(hold.tokens))

    @property
    def watches(self) -> bool:
        """Whether the run has to be watched: then :meth:`covers` may stop it at any token."""
        return bool(self._limits)

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
        worst = self._worst
        if worst is not None:
            # More it cannot use, and what it cannot use others shall have.
            usd = None if wanted.usd is None or worst.usd is None else min(wanted.usd, worst.usd)
            wanted = replace(wanted, usd=usd, tokens=min(wanted.tokens, worst.tokens))
        try:
            own = [*self._own, *self._common(record, wanted)]
            self.hold = self._ledger().extend(record, wanted, own, datetime.now())
            if self._others is not None:
                self._others.set_aside(record.run_id, self.hold.usd)
        except LedgerError:
            for limit in self._limits:
                limit.final = True
            return
        for limit in self._limits:
            limit.grow(self.hold, wanted)
        if worst is not None:
            # What has all of its worst case is watched no longer: it may use that to its last token.
            self._limits = [limit for limit in self._limits if not limit.is_all_of(worst)]

    def stopped(self, cost: Cost) -> BudgetError:
        """What to raise for a run that was stopped."""
        budgets = [it.budget for it in self._standings]
        single = [it.usd for it in self._held if it.scope == "cell" and it.usd is not None]
        caps = [f"{budget.scope} {numbers.usd(budget.usd)}" for budget in budgets if budget.usd is not None]
        caps += [f"{it.scope} {numbers.counted(it.tokens or 0, 'token')}" for it in budgets if caps_tokens(it)]
        return BudgetError(
            f"stopped at {numbers.cost(cost)}: a budget is used up ({', '.join(caps)}); its text and its cost are "
            "kept, raise the budget to go on",
            alone=bool(single) and cost.usd is not None and cost.usd >= min(single),
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
            raise BudgetError(f"{text}, and nobody can be asked; --yes confirms it", alone=True)
        if not answer:
            raise BudgetError(f"{text}, and it was not confirmed; nothing was run", alone=True)

    def _set_aside(self, record: RunRecord, prompt: Prompt, input_tokens: int, *, estimated: bool) -> Hold:
        most, itl_s = prompt.sampling.max_tokens * prompt.sampling.n, None
        if record.rates.device_hour is not None and record.rates.input is None:
            with suppress(LedgerError):
                itl_s = self._ledger().token_time_s(record.info)
        worst = _hold(record, input_tokens, most, itl_s, estimated=estimated)
        usual = self._usual_tokens(record.info) if self._hold_by == "p95" else None
        if usual is None or usual >= prompt.sampling.max_tokens:
            return worst
        # A server may not keep to its limit, and an estimate is no bound: such a run is watched to its end.
        self._worst = None if worst.estimated or record.info.traits.remote else worst
        return _hold(record, input_tokens, usual * prompt.sampling.n, itl_s, estimated=True)

    def _usual_tokens(self, info: EngineInfo) -> int | None:
        """How long nearly all answers of a model are, in tokens; None where that is not known."""
        with suppress(LedgerError):
            return self._ledger().output_tokens_p95(info)
        return None


def _without_ledger(error: LedgerError, held: Sequence[Budget], hold: Hold) -> Admission:
    """What can be decided though the ledger cannot be asked: a run's own cap; a sum can not."""
    for budget in held:
        if budget.scope != "cell":
            return Admission(f"the {budget.scope}'s budget cannot be enforced, nothing was run: {error}")
    standings = tuple(Standing(budget) for budget in held)
    return Admission(refusal(standings, hold), standings)


def _hold(record: RunRecord, input_tokens: int, most: int, itl_s: float | None, *, estimated: bool) -> Hold:
    usd, guessed = bound_usd(record.rates, input_tokens, most, itl_s)
    # Without a figure it is a guess only where there is a device's rate.
    return Hold(input_tokens + most, usd, guessed or estimated, by_time=usd is None and guessed)


def input_tokens(engine: Engine, prompt: Prompt) -> tuple[int, bool]:
    """The prompt's tokens, and whether they are only an upper bound."""
    try:
        return engine.count(prompt), False
    except ModelError:
        return prompt.utf8_bytes + len(prompt.messages) * _MESSAGE_TOKENS + _TEMPLATE_TOKENS, True
