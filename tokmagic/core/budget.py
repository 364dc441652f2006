"""Caps, how they stand, and what a run sets aside before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from tokmagic.core.money import CERTAIN, Bound, Precision, Uncertainty

Scope = Literal["cell", "notebook", "day", "month", "key"]


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap on what runs may cost. Of USD and tokens either may be None: no cap of that kind.

    ``cell`` bounds each single run (its ``tokens``: the prompt's, above which a person is asked); the other scopes
    bound the sum over a notebook, over a user's local day or month, or over everything that was run with a key.
    ``warn_at`` is a share of the cap. With ``strict`` a run whose price is unknown is refused. ``user`` None means each
    user by himself; ``notebook`` is set for the scopes cell and notebook. ``key`` is a key's id: a day or a month then
    bounds the runs with that key alone, whoever ran them.
    """

    scope: Scope
    usd: Decimal | None = None
    tokens: int | None = None
    warn_at: float = 0.8
    strict: bool = False
    notebook: str | None = None
    user: str | None = None
    origin: str = "%budget"
    key: str | None = None


_OTHER_WAY: dict[Bound, Bound] = {"exact": "exact", "at_least": "at_most", "at_most": "at_least"}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands: what ended runs have used and what running ones hold."""

    budget: Budget
    spent_usd: Decimal = Decimal(0)
    held_usd: Decimal = Decimal(0)
    spent_tokens: int = 0
    held_tokens: int = 0
    unpriced_runs: int = 0
    """Ended runs whose price is not known: they are in no sum of USD."""
    uncertainty: Uncertainty = CERTAIN
    """How sure ``spent_usd`` is; none where it was not asked for, since it takes longer than all the others."""

    @property
    def precision(self) -> Precision:
        """Whether ``spent_usd`` is only an estimate, and what it bounds."""
        return self.uncertainty.precision(self.unpriced_runs)

    @property
    def available_precision(self) -> Precision:
        """The same of ``available_usd``: where more may have been spent, less is left."""
        estimated, bound = self.precision
        return Precision(estimated, _OTHER_WAY[bound])

    @property
    def available_usd(self) -> Decimal | None:
        """Cap − spent − live holds; None without a cap. Below 0 where a cap was lowered."""
        return None if self.budget.usd is None else self.budget.usd - self.spent_usd - self.held_usd

    @property
    def available_tokens(self) -> int | None:
        """The same in tokens."""
        return None if self.budget.tokens is None else self.budget.tokens - self.spent_tokens - self.held_tokens

    @property
    def share(self) -> float:
        """The larger of the used shares of both caps, holds included; 1 is all of it."""
        used = self.spent_usd + self.held_usd
        shares = [float(used / self.budget.usd)] if self.budget.usd else []
        if self.budget.tokens:
            shares.append((self.spent_tokens + self.held_tokens) / self.budget.tokens)
        return max(shares, default=0.0)


@dataclass(frozen=True, slots=True)
class Hold:
    """The most that a run can use: set aside before it starts. ``usd`` None: its price is not known.

    ``estimated``: not a bound, so the run is watched while it streams. ``by_time``: its price is known, by the device's
    time, but not how much of that it takes, as of a model's first run: it is counted as it runs.
    """

    tokens: int
    usd: Decimal | None = None
    estimated: bool = False
    by_time: bool = False


class Used(NamedTuple):
    """What a run has used so far. ``usd`` None: its price is not known."""

    usd: Decimal | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a run may start. ``refused`` says why not, in one line; ``standings`` are after its hold.

    ``passing``: what is refused would fit if active runs gave back what they hold, so that it may be tried again.
    """

    refused: str | None = None
    standings: tuple[Standing, ...] = ()
    passing: bool = False
