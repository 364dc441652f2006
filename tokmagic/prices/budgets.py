"""Budgets as values: read from what a person typed, and told in a sentence. Nothing here asks a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from tokmagic.core.budget import Budget, Hold, Standing
from tokmagic.core.days import start_of_day
from tokmagic.errors import BudgetError
from tokmagic.formatting import numbers
from tokmagic.prices import money

LOWER_OR_RAISE = "lower --max-tokens or raise the budget"
"""What helps where a run does not fit that its person has set the limits of."""


def usd(text: str | Decimal | int, *, what: str) -> Decimal:
    """Read a cap in USD. Raises BudgetError for what is no amount above 0, or finer than a picodollar."""
    amount = money.usd(text, what=what, error=BudgetError, above_zero=True)
    if amount != amount.quantize(Decimal("1E-12")):
        raise BudgetError(f"{what} is {text}; that is finer than a picodollar")
    return amount


def tokens(value: int, *, what: str) -> int:
    """Check a cap in tokens. Raises BudgetError."""
    if not 0 < value < 2**62:
        raise BudgetError(f"{what} is {value}; give a whole number above 0")
    return value


def of_run(cap: Decimal | str | int) -> Budget:
    """The budget of one run alone, as ``--budget`` gives it. Raises BudgetError."""
    return Budget("cell", usd(cap, what="--budget"), origin="--budget")


def of_day(setting: str, user: str | None) -> Budget:
    """The budget that TOKMAGIC_BUDGET_DAY sets. Raises BudgetError."""
    return Budget("day", usd(setting, what="TOKMAGIC_BUDGET_DAY"), user=user, origin="TOKMAGIC_BUDGET_DAY")


def of_reproduction(cap: str, notebook: str) -> Budget:
    """The budget that ``tokmagic reproduce --budget`` sets. Raises BudgetError."""
    return Budget("notebook", usd(cap, what="--budget"), notebook=notebook, origin="tokmagic reproduce --budget")


def refusal(standings: Sequence[Standing], hold: Hold) -> str | None:
    """Why a run with this hold does not fit, in one line with the numbers; None if it fits everywhere."""
    for it in standings:
        reason = _usd_refusal(it, hold) or _token_refusal(it, hold)
        if reason is not None:
            return reason
    return None


def passing(standings: Sequence[Standing], hold: Hold) -> bool:
    """Whether a run that does not fit would if active runs gave back all that they hold."""
    return refusal([replace(it, held_usd=Decimal(0), held_tokens=0) for it in standings], hold) is None


def within(standings: Sequence[Standing], wanted: Hold) -> Hold:
    """As much of a hold as every budget has left."""
    usd_left = [it.available_usd for it in standings if it.available_usd is not None]
    tokens_left = [it.available_tokens or 0 for it in standings if caps_tokens(it.budget)]
    most = None if wanted.usd is None else max(Decimal(0), min([wanted.usd, *usd_left]))
    return replace(wanted, usd=most, tokens=max(0, min([wanted.tokens, *tokens_left])))


def caps_tokens(budget: Budget) -> bool:
    """Whether runs may use only so many tokens. A cell's are no cap: above them the user is asked."""
    return budget.tokens is not None and budget.scope != "cell"


def _usd_refusal(it: Standing, hold: Hold) -> str | None:
    budget, left = it.budget, it.available_usd
    if left is None:
        return None
    if hold.usd is None:
        if budget.strict and not hold.by_time:
            name, cap = title(budget), numbers.usd(budget.usd)
            if budget.key is not None:
                return f"the price of this run is unknown, so {name} of {cap} cannot count it; ask who serves the model"
            return f"the price of this run is unknown and {name} of {cap} is strict; set a price with %price"
        raised = "raise it with %budget" if budget.key is None else "have it raised (tokmagic key change)"
        return f"{title(budget)} of {numbers.usd(budget.usd)} is used up; {raised}" if left <= 0 else None
    if hold.usd <= left:
        return None
    about = "about " if hold.estimated else ""
    if budget.scope == "cell":
        return (
            f"this run may cost up to {about}{numbers.usd(hold.usd)}, more than {title(budget)} of "
            f"{numbers.usd(budget.usd)}; {_mend(budget)}"
        )
    return (
        f"this run may cost up to {about}{numbers.usd(hold.usd)}, {title(budget)} of {numbers.usd(budget.usd)} has "
        f"{numbers.usd_marked(max(left, Decimal(0)), it.available_precision)} left "
        f"({numbers.usd_marked(it.spent_usd, it.precision)} spent, {numbers.usd(it.held_usd)} held by active runs); "
        f"{_mend(budget)}"
    )


def _token_refusal(it: Standing, hold: Hold) -> str | None:
    left = it.available_tokens
    if left is None or not caps_tokens(it.budget) or hold.tokens <= left:
        return None
    return (
        f"this run may use up to {numbers.counted(hold.tokens, 'token')}, {title(it.budget)} of {it.budget.tokens:,} "
        f"has {max(left, 0):,} left; {_mend(it.budget)}"
    )


def _mend(budget: Budget) -> str:
    if budget.key is None:
        return LOWER_OR_RAISE
    # Who has a key cannot change its budget.
    return "set a lower max_tokens, or have the budget raised (tokmagic key change)"


def title(budget: Budget) -> str:
    """What to call a budget in a sentence."""
    if budget.scope == "cell":
        return "the cell's budget" if budget.origin == "%budget" else budget.origin
    if budget.key is not None and budget.scope != "key":
        return f"the key's budget for the {budget.scope}"
    return f"the {budget.scope}'s budget"


def figures(it: Standing) -> tuple[str, str, str, str]:
    """A budget's cap, what is spent, held and left of it, as tables show them: in USD, in tokens, or in both."""
    budget, parts = it.budget, list[tuple[str, str, str, str]]()
    if budget.usd is not None:
        spent, left = numbers.usd_marked(it.spent_usd, it.precision), it.available_usd
        shown = numbers.usd_marked(left, it.available_precision)
        parts.append((numbers.usd(budget.usd), spent, numbers.usd(it.held_usd), shown))
    if budget.tokens is not None:
        cap = numbers.counted(budget.tokens, "token")
        parts.append((cap, f"{it.spent_tokens:,}", f"{it.held_tokens:,}", f"{it.available_tokens or 0:,}"))
    cap, spent, held, shown = (", ".join(column) for column in zip(*parts, strict=True))
    return cap, spent, held, shown


def near(it: Standing) -> str:
    """How far a budget is used, in a sentence."""
    budget, used = it.budget, []
    if budget.usd is not None:
        used.append(f"{numbers.usd(it.spent_usd + it.held_usd)} of {numbers.usd(budget.usd)}")
    if budget.tokens is not None:
        used.append(f"{it.spent_tokens + it.held_tokens:,} of {numbers.counted(budget.tokens, 'token')}")
    return f"the {budget.scope}'s budget is {numbers.percent(it.share)} used: {', '.join(used)}"


def today(now: datetime | None = None) -> datetime:
    """When the local day of ``now`` (the present by default) began."""
    return start_of_day(_local(now).date())


def this_month(now: datetime | None = None) -> datetime:
    """When the local month of ``now`` (the present by default) began."""
    return start_of_day(_local(now).date().replace(day=1))


def _local(now: datetime | None) -> datetime:
    return (now or datetime.now()).astimezone()
