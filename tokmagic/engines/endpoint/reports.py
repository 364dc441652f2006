"""The usages of one run as they arrive: early, piecemeal, in every chunk, for one answer of several, or at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokmagic.core.stream import Usage
from tokmagic.engines.endpoint.usage import Reported, summed, updated, without_zeros


@dataclass(slots=True)
class Reports:
    """What a server reported so far of a run with so many choices."""

    choices: int
    _run: Usage | None = None
    _answers: dict[int, Usage] = field(default_factory=dict)
    # The newest report of the run, under None, and of each answer.
    _told: dict[int | None, Reported] = field(default_factory=dict)
    _one_by_one: bool = False
    _of_some: bool = False

    @property
    def anomaly(self) -> str | None:
        """What is odd about what stands."""
        return next((told.anomaly for told in self._told.values() if told.anomaly is not None), None)

    @property
    def unsure(self) -> bool:
        """Whether more may be billed than what stands."""
        return any(told.unsure for told in self._told.values())

    def of(self, ended: list[int]) -> int | None:
        """Of which answer a usage is that comes without any; None where it is the run's.

        ``ended`` are the choices that have ended, in that order. What comes before all have is the newest one's, and
        so are then those that follow: llama.cpp sends a usage an answer.
        """
        if self.choices == 1 or not ended or (len(ended) >= self.choices and not self._one_by_one):
            return None
        self._one_by_one = True
        return next((choice for choice in reversed(ended) if choice not in self._answers), ended[-1])

    def take(self, told: Reported, choice: int | None, *, final: bool, alone: bool = False) -> None:
        """A usage arrived, of one answer or of the run; ``final``: after the end of what it is of.

        ``alone``: it is surely of no other answer, too.
        """
        self._of_some = self._of_some or alone
        self._told[choice] = told
        if told.usage is None:
            return
        usage = told.usage if final else without_zeros(told.usage)
        if choice is not None:
            self._answers[choice] = updated(self._answers.get(choice), usage)
            return
        self._run = updated(self._run, usage)
        if usage.output_tokens is not None:
            self._answers.clear()
            self._told = {None: told}

    def covers(self, spoke: set[int]) -> bool:
        """Whether the usages are of all answers of which anything arrived."""
        return not self._answers or spoke <= self._answers.keys()

    def missing(self, spoke: set[int]) -> set[int]:
        """The answers of which something arrived and that surely no usage is of."""
        return spoke - self._answers.keys() if self._of_some and self._answers else set()

    def usage(self, spoke: set[int]) -> Usage | None:
        """What the server reports of the run at this moment, None where nothing is known of it.

        Where not each of the choices that ``spoke`` has a usage of its own, the newest is taken for the run's.
        """
        if not self._answers:
            return self._run
        answers = list(self._answers.values())
        return updated(self._run, summed(answers) if self.covers(spoke) else answers[-1])
