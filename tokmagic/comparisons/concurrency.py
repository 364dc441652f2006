"""How many runs of a comparison go on at once at each place: a server, or a model of this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import ceil

from tokmagic.engines.endpoint.target import OPENAI, target_of
from tokmagic.errors import UsageError
from tokmagic.runs.many import at_once_by_default, with_ahead
from tokmagic.runs.session import Session

Concurrency = int | Mapping[str, int]
"""So many runs at each place; or for each model its own number."""
Span = tuple[float, float]


class Places:
    """Where the runs of a comparison go on, and how many at once. Models at one server share its limit."""

    def __init__(self, session: Session, arms: Sequence[str], judge: str | None, given: Concurrency | None) -> None:
        """``arms``: each arm's model. Raises UsageError."""
        self._session = session
        self._given = given
        self._models: dict[str, list[str]] = {}
        for model in dict.fromkeys([*arms, *([] if judge is None else [judge])]):
            self._models.setdefault(self.of(model), []).append(model)
        self._in_a_block = Counter(map(self.of, arms))
        if judge is not None:
            self._in_a_block[self.of(judge)] += 2 * (len(arms) - 1)

    def of(self, model: str) -> str:
        """The place of a model: its server, however its address is written, or itself."""
        spec = self._session.models.spec(model)
        if not spec.traits.remote:
            return model
        with suppress(UsageError):  # told when it is opened
            return target_of(spec.api_base or OPENAI).identity
        return spec.api_base or model

    def most(self, place: str) -> int:
        """How many runs go on there at once."""
        return min(map(self._most, self._models[place]))

    def _most(self, model: str) -> int:
        if isinstance(self._given, int):
            return self._given
        if self._given is not None and model in self._given:
            return self._given[model]
        return at_once_by_default(self._session.models.spec(model))

    @property
    def at_once(self) -> int:
        """How many runs go on at once at all places together."""
        return sum(map(self.most, self._models))

    @property
    def blocks_at_once(self) -> int:
        """How many blocks it takes to keep every place busy; one where nothing runs beside anything."""
        wanted = [ceil(with_ahead(self.most(place)) / count) for place, count in self._in_a_block.items()]
        alone = len(wanted) == 1 and self.most(next(iter(self._models))) == 1
        return max(wanted) + (not alone)


def read(given: object, models: Iterable[str]) -> Concurrency | None:
    """What ``concurrency=`` means: a number, or numbers by models. Raises UsageError."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return _number(given)
    known = list(models)
    for model in given:
        if model not in known:
            raise UsageError(
                f"concurrency names the model {model!r}, which takes no part; there are {', '.join(known)}"
            )
    return {model: _number(number) for model, number in given.items()}


def _number(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise UsageError(f"concurrency is {given!r}; give a whole number above 0, or one for each model")
    return given


def most_at_once(spans: Iterable[Span]) -> int:
    """How many of these went on at the same moment, at most. ``spans``: beginnings and ends in seconds."""
    found = now = 0
    # One that begins as another ends is not beside it.
    for _, change in sorted(step for began, ended in spans for step in ((began, 1), (ended, -1))):
        now += change
        found = max(found, now)
    return found
