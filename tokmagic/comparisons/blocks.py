"""The blocks of a comparison that are under way: an item once, with a run of each arm and what a judge says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

from tokmagic.comparisons.affordable import RAISE_OR_CHEAPER, Most
from tokmagic.comparisons.came import Came, Got, NotRunError
from tokmagic.comparisons.judges import FAILED, Judge, Judged, verdict
from tokmagic.comparisons.outcome import Answer
from tokmagic.comparisons.plan import Block
from tokmagic.core.compared import JUDGE_TAG
from tokmagic.core.prompt import Prompt
from tokmagic.errors import BudgetError, ModelError, TokmagicError
from tokmagic.prices.budgets import LOWER_OR_RAISE
from tokmagic.runs.budget_guard import CONFIRMS


@dataclass(frozen=True, slots=True)
class Ask:
    """A run that is wanted, and what takes it."""

    prompt: Prompt
    model: str
    tags: tuple[str, ...]
    """Of which variant, or of which judge, it is."""
    then: Callable[[Came], None]

    @property
    def judges(self) -> bool:
        """Whether it is the judge's."""
        return self.tags[-1] == JUDGE_TAG


@dataclass(slots=True)
class Open:
    """A block some of whose runs are still to come."""

    block: Block
    most: Most
    replies_due: int
    """How many runs of the judge are still to come."""
    answers: dict[int, Answer] = field(default_factory=dict)
    waits_for: int = 0
    usd: Decimal = Decimal(0)
    whole: bool = True
    """Whether nothing of it was left out."""
    failed: bool = False
    """Whether a run of it failed that may succeed another time."""
    replies: dict[int, list[Came | None]] = field(default_factory=dict)
    """What the judge said of each arm, as first and as second answer."""

    @property
    def due_usd(self) -> Decimal:
        """What may still be spent on it at most."""
        answers = {arm: usd for arm, usd in self.most.answers.items() if arm not in self.answers}
        return Most(answers, self.most.reply).usd(self.replies_due)


def judging(judge: Judge, task: str, opened: Open, then: Callable[[Answer, int, Came], None]) -> Iterator[Ask]:
    """What a judge is asked: each answer beside the baseline's, as the first and as the second of the two."""
    baseline = opened.answers.get(0)
    if baseline is None or baseline.text is None:
        return
    for arm, answer in opened.answers.items():
        if arm == 0 or answer.text is None:
            continue
        opened.replies[arm] = [None, None]
        for place, (first, second) in enumerate(((answer.text, baseline.text), (baseline.text, answer.text))):
            yield Ask(Prompt(judge.ask(task, first, second)), judge.model, judge.tags, partial(then, answer, place))


def judgement(opened: Open, replies: Sequence[Came | None]) -> Judged | None:
    """What the judge's replies about an answer come to, noted in its block; None where not all were asked for."""
    if any(isinstance(it, NotRunError) for it in replies):
        opened.whole = False
        return None
    failed = next((it for it in replies if isinstance(it, TokmagicError)), None)
    if failed is None:
        return verdict(*(it.text or "" for it in replies if isinstance(it, Got)))
    opened.failed |= isinstance(failed, ModelError | BudgetError)
    return Judged(None, None, f"{FAILED}{type(failed).__name__}: {failed}")


def why(ask: Ask, error: BudgetError) -> str:
    """Why a run ended it all. Only what helps is advised: the judge's limit is not the comparison's max_tokens."""
    says = str(error).replace(CONFIRMS, "raise that with %budget cell --tokens N")
    return f"the judge {ask.model}: {says.replace(LOWER_OR_RAISE, RAISE_OR_CHEAPER)}" if ask.judges else says
