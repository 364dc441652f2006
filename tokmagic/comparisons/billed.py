"""At which rates a comparison's runs were billed, and how surely: what a reader has to know about their costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tokmagic.core.money import CERTAIN, Rates, Uncertainty
from tokmagic.core.record import RunRecord
from tokmagic.errors import TokmagicError
from tokmagic.formatting import numbers
from tokmagic.formatting.rates import in_words
from tokmagic.runs.session import Session

_ANEW = "another seed runs all of it anew"


@dataclass(slots=True)
class Billed:
    """What is known of the bills of finished runs, by the names of their models.

    The rates of a run are frozen when it starts. A comparison that goes on later may thus have runs at other rates.
    """

    now: Mapping[str, Rates] = field(default_factory=dict)
    """The rates in force now, where they are known."""
    _uncertainty: Uncertainty = CERTAIN
    _unpriced: Counter[str] = field(default_factory=Counter)
    _unknown: list[str] = field(default_factory=list)
    """Why each run has no cost that had a price."""
    # How many runs there are at each price, and with which rates the first of them ran.
    _runs: dict[str, Counter[Rates]] = field(default_factory=lambda: defaultdict(Counter))
    _first: dict[Rates, Rates] = field(default_factory=dict)
    _tiered: set[str] = field(default_factory=set)
    """Models whose price depends on how their server answers, which tells nothing of the rates now."""

    def add(self, model: str, record: RunRecord) -> None:
        """A run of a model is finished, just now or earlier."""
        cost, rates = record.reading.cost, record.rates
        if cost.usd is None:
            if _is_price(rates):
                self._unknown.append(cost.anomaly or "a count is not known")
            else:
                self._unpriced[model] += 1
            return
        self._uncertainty += Uncertainty.of(cost)
        amounts = rates.charged
        self._runs[model][amounts] += 1
        self._first.setdefault(amounts, rates)
        if record.info.service_tier is not None:
            self._tiered.add(model)

    def notes(self) -> Iterator[str]:
        """What is missing of the costs, and what they are not, one line each."""
        late = sum(count for model, count in self._unpriced.items() if _is_price(self.now.get(model, Rates())))
        if never := self._unpriced.total() - late:
            yield f"{numbers.counted(never, 'run')} had no price; set one with %price"
        if late:
            yield (
                f"{numbers.counted(late, 'run')} had no price when they ran, and what is finished keeps what it had; "
                f"{_ANEW}, at the price that is set now"
            )
        if unknown := self._unknown:
            yield f"the cost of {numbers.counted(len(unknown), 'run')} is not known, the first: {unknown[0]}"
        for model, runs in self._runs.items():
            yield from self._apart(model, runs)
        yield from self._marks()

    def _apart(self, model: str, runs: Mapping[Rates, int]) -> Iterator[str]:
        """Whether runs of a model were billed at different rates, or all at others than those of now."""
        now = self.now.get(model, Rates())
        if len(runs) > 1:
            told = "; ".join(f"{count:,} at {in_words(self._first[it])}" for it, count in runs.items())
            yield (
                f"runs of {model} were billed at different rates, so that their costs do not compare: {told}; {_ANEW}"
            )
        elif _is_price(now) and model not in self._tiered and now.charged not in runs:
            (then,) = (in_words(self._first[it]) for it in runs)
            yield f"runs of {model} were billed at {then}, and now it is {in_words(now)}; {_ANEW}"

    def _marks(self) -> Iterator[str]:
        its, priced = self._uncertainty, sum(runs.total() for runs in self._runs.values())
        counts = {"estimated": its.estimated_runs, "lower bounds": its.at_least_runs, "upper bounds": its.at_most_runs}
        told = ", ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
        if told:
            yield f"not all costs are exact; of {numbers.counted(priced, 'run')}, {told}"


def _is_price(rates: Rates) -> bool:
    return rates.input is not None or rates.device_hour is not None


def rates_now(session: Session, model: str) -> Rates:
    """The rates of a model's next run; those of none where they cannot be told."""
    with suppress(TokmagicError):
        return session.rates(session.info(model))
    return Rates()
