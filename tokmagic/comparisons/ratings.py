"""Scores that a person gives: blind to the variant, in shuffled order, kept at once, so that one can go on later."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmagic.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from tokmagic.comparisons.outcome import Answer
    from tokmagic.comparisons.results import Comparison

_QUESTION = "Is this a good answer?"


@dataclass(frozen=True, slots=True)
class Human:
    """A person who answers a question about each answer with yes or no."""

    question: str = _QUESTION
    passes: bool = True

    @property
    def name(self) -> str:
        return f"human({self.question!r})"


def human(question: str = _QUESTION) -> Human:
    """Let a person answer a question about each answer with yes or no. Raises UsageError."""
    if not isinstance(question, str) or not question.strip():
        raise UsageError(f"human's question is {question!r}; give its text, as in human('Is it right?')")
    return Human(question.strip())


class Book:
    """The ratings of one question, a JSON object a line: by run, the last one counts."""

    def __init__(self, path: Path, question: str) -> None:
        self.path = path
        self._question = question

    def read(self) -> dict[str, float]:
        """1 or 0 by run id. A line that cannot be read, as a crash leaves one, is passed over. Raises LedgerError."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise LedgerError(f"the ratings in {self.path} cannot be read: {error}") from error
        found: dict[str, float] = {}
        for line in lines:
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                row = json.loads(line)
                if row["question"] != self._question:
                    continue
                if row["passed"] is None:
                    found.pop(row["run_id"], None)
                else:
                    found[str(row["run_id"])] = float(bool(row["passed"]))
        return found

    def write(self, run_ids: Iterable[str], passed: bool | None) -> None:
        """Add ratings; None takes earlier ones back. Raises LedgerError."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [{"run_id": it, "question": self._question, "passed": passed, "rated_at": at} for it in run_ids]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A line that a crash cut short must not take the next one with it.
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * torn + "".join(f"{json.dumps(row)}\n" for row in rows))
        except OSError as error:
            raise LedgerError(f"the rating cannot be kept in {self.path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer to rate, and the columns of its item. Which variant it is of is not told."""

    item: Mapping[str, Any]
    text: str
    question: str


@dataclass(slots=True)
class _Group:
    """The same answer to the same item, from whichever variants: it is rated once."""

    item: int
    text: str
    answers: list[Answer] = field(default_factory=list)

    def score(self, value: float | None) -> None:
        """Give all of them this score; None: not rated."""
        for answer in self.answers:
            answer.score = value


class Rating:
    """A person's way through the answers of a comparison. What is given counts in the comparison at once."""

    def __init__(self, found: Comparison, question: str, book: Book) -> None:
        """Raises LedgerError where earlier ratings cannot be read."""
        self._found = found
        self._question = question
        self._book = book
        groups: dict[tuple[int, str], _Group] = {}
        for it in found.answers:
            if it.run_id is not None and it.text is not None:
                groups.setdefault((it.item, it.text), _Group(it.item, it.text)).answers.append(it)
        self._groups = list(groups.values())
        # In the order in which they ran the variants of an item would stand together.
        self._groups.sort(key=lambda it: (it.item, it.text))
        random.Random(found.plan.seed).shuffle(self._groups)
        self._given: list[_Group] = []
        known = book.read()
        for group in self._groups:
            rated = [known[it.run_id] for it in group.answers if it.run_id in known]
            if rated:
                group.score(rated[-1])
        self._waiting = [group for group in self._groups if group.answers[0].score is None]
        found.rescored()

    @property
    def left(self) -> int:
        """How many different answers wait for a rating."""
        return len(self._waiting)

    @property
    def done(self) -> int:
        """How many are rated."""
        return len(self._groups) - len(self._waiting)

    @property
    def can_undo(self) -> bool:
        """Whether a rating was given here that can be taken back."""
        return bool(self._given)

    @property
    def now(self) -> Asked | None:
        """What is to be rated; None: nothing is left."""
        if not self._waiting:
            return None
        group = self._waiting[0]
        return Asked(self._found.plan.items.rows[group.item], group.text, self._question)

    def give(self, passed: bool) -> None:
        """Rate what is to be rated now: yes or no. Raises LedgerError, and UsageError where nothing is left."""
        if not self._waiting:
            raise UsageError("every answer is rated")
        group = self._waiting[0]
        self._book.write([it.run_id for it in group.answers if it.run_id is not None], bool(passed))
        self._waiting.pop(0).score(float(bool(passed)))
        self._given.append(group)
        self._found.rescored()

    def skip(self) -> None:
        """Put off what is to be rated now until the others are."""
        if self._waiting:
            self._waiting.append(self._waiting.pop(0))

    def undo(self) -> None:
        """Take back the last rating that was given here, and ask it again. Raises LedgerError."""
        if self._given:
            group = self._given.pop()
            self._book.write([it.run_id for it in group.answers if it.run_id is not None], None)
            group.score(None)
            self._waiting.insert(0, group)
            self._found.rescored()
