"""Runs a plan: one run after another through the session, scored as they come, within a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal

from tokmagic.comparisons import scores
from tokmagic.comparisons.earlier import Earlier, Key
from tokmagic.comparisons.judges import Judge, Judged, verdict
from tokmagic.comparisons.plan import JUDGE_TAG, Block, Plan
from tokmagic.comparisons.scores import Score
from tokmagic.core.prompt import Prompt
from tokmagic.core.record import RunRecord
from tokmagic.errors import BudgetError, GenerationInterrupted, ModelError, TokmagicError, UsageError
from tokmagic.formatting import numbers
from tokmagic.prices import bound_usd
from tokmagic.prompts.template import sha256
from tokmagic.runs.session import Session

GIVEN_UP = 5
"""So many failures of a model in a row end its part of a comparison."""


@dataclass(slots=True)
class Answer:
    """What is kept of one run of an arm; what is unknown is None. ``order`` counts the runs from 1 on."""

    arm: int
    item: int
    repeat: int
    order: int
    run_id: str | None = None
    text: str | None = None
    usd: Decimal | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    score: float | None = None
    problem: str | None = None
    finish_reason: str | None = None

    @property
    def ran(self) -> bool:
        """Whether the run ended well."""
        return self.run_id is not None


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a comparison is, for whoever shows it."""

    done: int
    runs: int
    usd: Decimal


@dataclass(slots=True)
class Outcome:
    """All answers, and what a reader has to know about them."""

    answers: list[Answer] = field(default_factory=list)
    block_usd: list[Decimal] = field(default_factory=list)
    """What each complete block cost, its judge included."""
    blocks: int = 0
    """How many blocks were tried to their end."""
    spent_usd: Decimal = Decimal(0)
    """What the whole comparison cost so far, runs that did not finish included."""
    judge_usd: Decimal = Decimal(0)
    judged: list[Judged] = field(default_factory=list)
    ended: str | None = None
    """Why it ended before all was run."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Models that failed too often, and how they failed last."""


Progress = Callable[[Stand], None]


@dataclass(slots=True)
class _Got:
    record: RunRecord
    text: str | None


class _NotRunError(Exception):
    """There is no finished run, and a new one cannot begin: a budget is used up, or its model was given up."""


class Running:
    """One execution of a plan."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        score: Score | Judge | None,
        *,
        budget_usd: Decimal | None = None,
        tags: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        self._session = session
        self._plan = plan
        self._score = score
        self._budget_usd = budget_usd
        self._tags = (plan.question_tag, plan.data_tag, *tags)
        self._progress = progress
        self._earlier = Earlier(session.ledger(), plan)
        self._in_a_row: Counter[str] = Counter()
        self._outcome = Outcome(spent_usd=self._earlier.spent_usd)

    def execute(self, most_blocks: int | None = None) -> Outcome:
        """Run all blocks, or so many of them. Raises BudgetError, UsageError and GenerationInterrupted."""
        outcome = self._outcome
        try:
            for number, block in enumerate(self._plan.blocks()):
                if number == most_blocks or (self._stopped and not self._earlier.left):
                    break
                self._run_block(block)
        except KeyboardInterrupt as interrupt:
            done = sum(answer.ran for answer in outcome.answers)
            raise GenerationInterrupted(
                f"the comparison was interrupted after {done:,} of {self._plan.runs:,} runs; call it again to go on: "
                "what is finished is in the ledger and is not paid for twice"
            ) from interrupt
        if outcome.ended is not None and not outcome.blocks:
            raise BudgetError(f"the budget ended the comparison before one pair was complete: {outcome.ended}")
        return outcome

    @property
    def _stopped(self) -> bool:
        """Whether nothing new can run; what the ledger has is still read."""
        models = {arm.model for arm in self._plan.arms}
        return self._outcome.ended is not None or models <= self._outcome.given_up.keys()

    def _run_block(self, block: Block) -> None:
        outcome, plan = self._outcome, self._plan
        if not outcome.answers and not outcome.spent_usd:
            self._check_budget(block)
        answers, usd = {}, Decimal(0)
        for arm in block.arms:
            try:
                answer = answers[arm] = self._answer(block, arm)
            except _NotRunError:
                continue
            usd += answer.usd or 0
            outcome.answers.append(answer)
            if isinstance(self._score, Score):
                self._score_answer(self._score, answer)
            if self._progress is not None:
                self._progress(Stand(len(outcome.answers), plan.runs, outcome.spent_usd))
        if isinstance(self._score, Judge):
            try:
                usd += self._judge(self._score, answers)
            except _NotRunError:
                return
        if len(answers) == len(plan.arms):
            outcome.blocks += 1
            if all(answer.ran for answer in answers.values()):
                outcome.block_usd.append(usd)

    def _answer(self, block: Block, arm: int) -> Answer:
        plan, outcome = self._plan, self._outcome
        model, tag = plan.arms[arm].model, plan.arms[arm].variant.tag
        answer = Answer(arm, block.item, block.repeat, len(outcome.answers) + 1)
        try:
            got = self._ask(plan.prompt(arm, block.item), model, tag)
        except UsageError:
            raise  # of an option that no run can have, or of a ledger without texts
        except TokmagicError as error:
            answer.problem = f"{type(error).__name__}: {error}"
            if isinstance(error, ModelError):  # a prompt that an item does not make is no fault of the model
                self._in_a_row[model] += 1
                if self._in_a_row[model] >= GIVEN_UP:
                    outcome.given_up[model] = answer.problem
            return answer
        self._in_a_row[model] = 0
        reading = got.record.reading
        answer.run_id, answer.text, answer.finish_reason = got.record.run_id, got.text, got.record.finish_reason
        answer.usd, answer.latency_s = reading.cost.usd, reading.latency_s
        answer.input_tokens, answer.output_tokens = reading.usage.input_tokens, reading.usage.output_tokens
        return answer

    def _ask(self, prompt: Prompt, model: str, tag: str) -> _Got:
        """A finished run of the ledger, or a new one. Raises what ended it, and _NotRunError."""
        found = self._earlier.take(Key(tag, model, sha256(prompt)))
        if found is not None:
            if found[1] is None and self._score is not None:
                raise _without_text()
            return _Got(*found)
        if self._outcome.ended is not None or model in self._outcome.given_up:
            raise _NotRunError
        left = None if self._budget_usd is None else self._budget_usd - self._outcome.spent_usd
        if left is not None and left <= 0:
            raise self._out_of_budget(f"all of {numbers.usd(self._budget_usd)} is spent")
        if self._session.models.engine(model).state != "ready":
            # Beside the others: interleaved models would be read from disk for every run.
            self._session.load(model, keep_others=True)
        tags = (*self._tags, tag)
        try:
            generation = self._session.generate(prompt, model, tags=tags, budget=left, cache=False)
        except BudgetError as error:
            raise self._out_of_budget(str(error)) from error
        self._outcome.spent_usd += generation.cost.usd or 0
        if isinstance(generation.error, BudgetError):
            raise self._out_of_budget(str(generation.error))
        if generation.error is not None:
            raise generation.error
        return _Got(generation.record, generation.text)

    def _out_of_budget(self, why: str) -> _NotRunError:
        self._outcome.ended = why
        return _NotRunError()

    def _score_answer(self, score: Score, answer: Answer) -> None:
        if answer.text is None:
            return
        scored = scores.apply(score, answer.text, self._plan.items.rows[answer.item])
        answer.score, answer.problem = scored.value, scored.problem

    def _judge(self, judge: Judge, answers: dict[int, Answer]) -> Decimal:
        """Let the judge compare each arm with the baseline, and return what that cost."""
        before, baseline = self._outcome.judge_usd, answers.get(0)
        if baseline is None or baseline.text is None:
            return Decimal(0)
        baseline.score = 0.5
        for arm, answer in answers.items():
            if arm != 0 and answer.text is not None:
                judged = self._judged(judge, answer, baseline.text, answer.text)
                self._outcome.judged.append(judged)
                answer.score, answer.problem = judged.value, judged.problem
        return self._outcome.judge_usd - before

    def _judged(self, judge: Judge, answer: Answer, baseline: str, variant: str) -> Judged:
        # The task is what the baseline was asked, without its instructions where the system message holds them.
        task = self._plan.prompt(0, answer.item).messages[-1].content
        replies = []
        for first, second in ((variant, baseline), (baseline, variant)):
            prompt = Prompt(judge.ask(task, first, second))
            try:
                got = self._ask(prompt, judge.model, JUDGE_TAG)
            except TokmagicError as error:
                return Judged(None, None, f"the judge failed: {type(error).__name__}: {error}")
            self._outcome.judge_usd += got.record.reading.cost.usd or 0
            replies.append(got.text or "")
        return verdict(*replies)

    def _check_budget(self, block: Block) -> None:
        """Raise BudgetError where not even one run of each arm is sure to fit."""
        if self._budget_usd is None:
            return
        dearest = Decimal(0)
        for arm in block.arms:
            with suppress(TokmagicError):  # what is wrong with a model is told when it runs
                prompt = self._plan.prompt(arm, block.item)
                engine = self._session.models.engine(self._plan.arms[arm].model)
                tokens, _ = engine.estimate(prompt)
                most, _ = bound_usd(self._session.rates(engine.info), tokens, prompt.sampling.max_tokens, None)
                dearest = max(dearest, most or Decimal(0))
        if dearest > self._budget_usd:
            raise BudgetError(
                f"a budget of {numbers.usd(self._budget_usd)} does not cover one pair: a single run may cost up to "
                f"{numbers.usd(dearest)}; raise the budget, or lower max_tokens"
            )


def _without_text() -> UsageError:
    return UsageError(
        "the ledger has finished runs of this comparison, but not their answers, since texts are not kept "
        "(TOKMAGIC_STORE_TEXT); leave score out to compare costs, or give another seed to begin anew"
    )
