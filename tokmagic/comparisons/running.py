"""Runs a plan: so many runs at once through the session, scored as they come, within a budget."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import islice

from tokmagic.comparisons import scores
from tokmagic.comparisons.affordable import Most, check_affordable, most_of, no_longer_fits, too_dear
from tokmagic.comparisons.blocks import Ask, Open, judgement, judging, why
from tokmagic.comparisons.came import Came, Got, NotRunError, without_text
from tokmagic.comparisons.concurrency import Places
from tokmagic.comparisons.earlier import Earlier, Key
from tokmagic.comparisons.judges import Judge
from tokmagic.comparisons.outcome import Answer, Outcome
from tokmagic.comparisons.plan import Block, Plan
from tokmagic.comparisons.ratings import Human
from tokmagic.comparisons.scores import Score
from tokmagic.comparisons.tally import NOWHERE, Here, Stand, Tally
from tokmagic.core.compared import SAVINGS
from tokmagic.core.record import Sum
from tokmagic.errors import BudgetError, GenerationInterrupted, ModelError, TokmagicError, UsageError
from tokmagic.formatting import numbers
from tokmagic.prompts.template import sha256
from tokmagic.runs.comparing import ComparisonRow
from tokmagic.runs.generation import Generation
from tokmagic.runs.many import AtOnce, Others
from tokmagic.runs.session import Session

GIVEN_UP = 5
"""So many failures of a model in a row end its part of a comparison."""
_SCORED_AT_ONCE = 64
Progress = Callable[[Stand], None]


class Running:
    """One execution of a plan. All that it knows is changed by the thread that called it; only runs have others."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        score: Score | Judge | Human | None,
        *,
        places: Places,
        budget_usd: Decimal | None = None,
        tags: Sequence[str] = (),
        progress: Progress | None = None,
        here: Here = NOWHERE,
        most_blocks: int | None = None,
    ) -> None:
        """``most_blocks``: so many blocks of the plan are run, not all."""
        self._session = session
        self._plan = plan
        self._score = score
        self._places = places
        self._budget_usd = budget_usd
        self._tags = (plan.question_tag, plan.data_tag, *tags)
        self._progress = progress
        self._earlier = Earlier(session.ledger(), plan, session.user)
        self._in_a_row: Counter[str] = Counter()
        self._outcome = Outcome(spent_usd=self._earlier.spent_usd)
        every = len(plan.items.rows) * plan.repeat
        self._blocks = every if most_blocks is None else min(every, most_blocks)
        passes = score.passes if isinstance(score, Score | Human) else False
        self.tally = Tally(plan, self._earlier.spent, here, blocks=self._blocks, passes=passes, at_once=places.at_once)
        self._runs: AtOnce[Generation] = AtOnce(Others(budget_usd, self._earlier.spent_usd, until_refused=True))
        self._wanted: dict[str, deque[Ask]] = defaultdict(deque)
        self._under_way: Counter[str] = Counter()
        self._open: list[Open] = []
        self._unscored: list[Answer] = []
        self._order = 0
        self._finished: list[str] = []  # run ids; runs note theirs on their own threads

    def execute(self) -> Outcome:
        """Run what is wanted. Raises BudgetError, UsageError and GenerationInterrupted."""
        outcome = self._outcome
        if not self._earlier.spent_usd and self._budget_usd is not None:
            block = next(self._plan.blocks())
            check_affordable(self._session, self._plan, self._judge_in_office, block, self._budget_usd)
        self._load()
        self.tally.begin()
        try:
            with self._runs.settled():
                for block in islice(self._plan.blocks(), self._blocks):
                    if self._stopped and not self._earlier.left:
                        break
                    opened = self._opened(block)
                    if opened is None:
                        break
                    self._begin(opened)
                    self._work_off(self._places.blocks_at_once)
                self._work_off(1)
                self._score_waiting(1)
        except KeyboardInterrupt as interrupt:
            done = len(self._finished)
            saving = any(it.startswith(SAVINGS) for it in self._tags)
            raise GenerationInterrupted(
                f"{'leaving out parts' if saving else 'the comparison'} was interrupted after {done:,} of "
                f"{self._plan.runs:,} runs; call it again to go on: what is finished is in the ledger and is not paid "
                "for twice"
            ) from interrupt
        outcome.check()
        outcome.answers.sort(key=lambda it: it.order)
        return outcome

    def row(self) -> ComparisonRow:
        """As the sidebar shows it, from any thread."""
        return self.tally.row()

    def stop(self) -> None:
        """End it as an interrupt does, from any thread."""
        self._runs.others.stop()

    @property
    def _stopped(self) -> bool:
        """Whether nothing new can run; what the ledger has is still read."""
        models = {arm.model for arm in self._plan.arms}
        return self._outcome.ended is not None or models <= self._outcome.given_up.keys()

    @property
    def _judge_in_office(self) -> Judge | None:
        """The judge, as long as it is not given up."""
        judge = self._score
        return judge if isinstance(judge, Judge) and judge.model not in self._outcome.given_up else None

    def _load(self) -> None:
        """Load what will have to run: before anything does, while an interrupt still ends a load."""
        for arm in self._plan.arms:
            if self._earlier.finished(arm.variant.tag, arm.model) < self._blocks:
                with suppress(TokmagicError):  # told by the runs that fail of it
                    self._ready(arm.model)

    def _ready(self, model: str) -> None:
        if self._session.models.engine(model).state != "ready":
            # Beside the others: interleaved models would be read from disk for every run.
            self._session.load(model, keep_others=True)

    def _work_off(self, open_blocks: int) -> None:
        """Take what is done until fewer blocks than so many are open."""
        self._hand_in()
        while len(self._open) >= open_blocks:
            self._runs.take()
            self._hand_in()
        if self._runs.others.stopped:
            raise KeyboardInterrupt

    def _hand_in(self) -> None:
        """Let begin what its place has room for. A few more than run at once, so that none waits for a score."""
        while (place := self._place_with_room()) is not None:
            ask = self._wanted[place].popleft()
            try:
                self._check_open(ask.model)
                self._ready(ask.model)
            except (TokmagicError, NotRunError) as error:
                ask.then(error)
                continue
            self._under_way[place] += 1
            most = self._places.most(place)
            self._runs.add(place, most, partial(self._run, ask), partial(self._take, place, ask))

    def _place_with_room(self) -> str | None:
        for place, wanted in self._wanted.items():
            if wanted:
                most = self._places.most(place)
                if self._under_way[place] < (most if most == 1 else 2 * most):
                    return place
        return None

    def _check_open(self, model: str) -> None:
        """Raise NotRunError where no run of a model can begin any more."""
        outcome, budget = self._outcome, self._budget_usd
        if outcome.ended is None and budget is not None and outcome.spent_usd >= budget:
            self._end(f"all of {numbers.usd(budget)} is spent")
        if outcome.ended is not None or model in outcome.given_up or self._runs.others.stopped:
            raise NotRunError

    def _end(self, reason: str) -> None:
        """A budget ends it, from any thread: what waits to be let in is not, either."""
        self._outcome.ended = self._outcome.ended or reason
        self._runs.others.close()

    def _run(self, ask: Ask) -> Generation:
        """On a thread of its own."""
        outcome = self._outcome
        if outcome.ended is not None or ask.model in outcome.given_up or self._runs.others.stopped:
            raise NotRunError
        tags = (*self._tags, *ask.tags)
        generation = self._session.generate(ask.prompt, ask.model, tags=tags, cache=False, others=self._runs.others)
        refused = generation.error
        if isinstance(refused, BudgetError) and not (refused.alone or refused.behind):
            self._end(why(ask, refused))
        if generation.error is None and not ask.judges:
            self._finished.append(generation.run_id)
        return generation

    def _take(self, place: str, ask: Ask, done: Future[Generation]) -> None:
        """Take what a run came to. Raises what ends it all."""
        self._under_way[place] -= 1
        outcome = self._outcome
        try:
            generation = done.result()
        except BudgetError as error:
            self._end(why(ask, error))
            ask.then(NotRunError())
            return
        except (TokmagicError, NotRunError) as error:
            ask.then(error)
            return
        outcome.spent_usd += generation.cost.usd or 0
        self.tally.spent(generation.record, judge=ask.judges)
        failure = generation.error
        if isinstance(failure, KeyboardInterrupt):
            raise failure
        if not isinstance(failure, BudgetError):
            ask.then(Got(generation.record, generation.text) if failure is None else failure)
        elif failure.alone:
            outcome.refused = outcome.refused or why(ask, failure)
            ask.then(BudgetError(why(ask, failure), alone=True))
        else:
            ask.then(NotRunError())

    def _want(self, ask: Ask, *, first: bool = False) -> None:
        """Give out a finished run of the ledger, else have it run; ``first``: before those that wait already."""
        found = self._earlier.take(Key(ask.tags, ask.model, sha256(ask.prompt)))
        if found is not None:
            if not ask.judges:
                self._finished.append(found[0].run_id)
            missing = found[1] is None and self._score is not None
            ask.then(without_text() if missing else Got(*found))
            return
        wanted = self._wanted[self._places.of(ask.model)]
        if first:
            wanted.appendleft(ask)
        else:
            wanted.append(ask)

    # The runs of a block

    def _opened(self, block: Block) -> Open | None:
        """A block that can begin; None where nothing is left of the budget to judge it.

        The judge comes after the answers. If all that run at once took what they find, it would find nothing left, so
        a block waits until all that it may cost is there beside the others. Alone it begins in any case: most runs
        cost less than they may.
        """
        budget, judge = self._budget_usd, self._judge_in_office
        if budget is None or judge is None:
            return Open(block, Most({}), 0, waits_for=len(block.arms))
        most, replies = most_of(self._session, self._plan, judge, block), 2 * (len(block.arms) - 1)
        self._hand_in()
        while self._open and most.usd(replies) > self._left_usd(budget) - sum(it.due_usd for it in self._open):
            self._runs.take()
            self._hand_in()
        # What the ledger has is free, whatever is left.
        if not self._open and not self._earlier.left and self._outcome.ended is None:
            left = self._left_usd(budget)
            dear = too_dear(self._session, self._plan, judge, block, left)
            if dear is not None:
                self._end(no_longer_fits(dear, budget, left))
                return None
        return Open(block, most, replies, waits_for=len(block.arms))

    def _left_usd(self, budget: Decimal) -> Decimal:
        return max(Decimal(0), budget - self._outcome.spent_usd)

    def _begin(self, opened: Open) -> None:
        block = opened.block
        self._open.append(opened)
        for arm in block.arms:
            self._order += 1
            answer = Answer(arm, block.item, block.repeat, self._order)
            then = partial(self._answered, opened, answer)
            it = self._plan.arms[arm]
            try:
                prompt = self._plan.prompt(arm, block.item)
            except TokmagicError as error:
                then(error)
                continue
            self._want(Ask(prompt, it.model, (it.variant.tag,), then))

    def _answered(self, opened: Open, answer: Answer, came: Came) -> None:
        if isinstance(came, UsageError):
            raise came  # of an option that no run can have, or of a ledger without texts
        if isinstance(came, NotRunError):
            opened.whole = False
        else:
            self._note(answer, came)
            opened.failed |= isinstance(came, ModelError | BudgetError)
            opened.answers[answer.arm] = answer
            opened.usd += answer.usd or 0
            self._outcome.answers.append(answer)
            if isinstance(self._score, Score):
                self._score_answer(self._score, answer)
            if self._progress is not None:
                self._progress(self.tally.stand)
        opened.waits_for -= 1
        if opened.waits_for == 0:
            if isinstance(self._score, Judge):
                self._judge(self._score, opened)
            else:
                self._close(opened)

    def _note(self, answer: Answer, came: Got | TokmagicError) -> None:
        """Keep what a run came to, and count the failures of its model."""
        model = self._plan.arms[answer.arm].model
        if isinstance(came, TokmagicError):
            answer.problem = f"{type(came).__name__}: {came}"
            failed = isinstance(came, ModelError)  # a prompt that an item does not make is no fault of the model
            self.tally.took(answer, came, failed=failed)
            if failed:
                self._failed(model, answer.problem)
            return
        self._in_a_row[model] = 0
        answer.take(came)
        self._outcome.billed.add(model, came.record)
        self.tally.took(answer, came.record, failed=False)

    def _failed(self, model: str, problem: str) -> None:
        self._in_a_row[model] += 1
        if self._in_a_row[model] >= GIVEN_UP:
            self._outcome.given_up[model] = problem

    def _score_answer(self, score: Score, answer: Answer) -> None:
        if answer.text is not None:
            self._unscored.append(answer)
            self._score_waiting(1 if score.many is None else _SCORED_AT_ONCE)

    def _score_waiting(self, least: int) -> None:
        """Score the answers that wait for it, where there are so many."""
        if len(self._unscored) < least or not isinstance(self._score, Score):
            return
        waiting, self._unscored = self._unscored, []
        rows = self._plan.items.rows
        found = scores.apply_many(self._score, [(it.text or "", rows[it.item]) for it in waiting])
        for answer, scored in zip(waiting, found, strict=True):
            answer.score, answer.problem = scored.value, scored.problem
            self.tally.scored(answer)

    def _close(self, opened: Open) -> None:
        """A block has all that it gets."""
        self._open.remove(opened)
        # What has no price, or no answer, tells nothing of what others will cost.
        tells = opened.whole and not opened.failed
        priced = tells and all(it.ran and it.usd is not None for it in opened.answers.values())
        self.tally.closed(opened.usd, whole=opened.whole, priced=priced)
        if opened.whole:
            self._outcome.blocks += 1
            self._outcome.failed_blocks += opened.failed
        if not tells:
            self._outcome.begun_usd += opened.usd
        if priced:
            self._outcome.costs = self._outcome.costs.plus(opened.usd)

    # The judge

    def _judge(self, judge: Judge, opened: Open) -> None:
        """Let the judge compare each arm with the baseline, as its first and as its second answer."""
        baseline, asks = opened.answers.get(0), list[Ask]()
        if baseline is not None and baseline.text is not None:
            baseline.score = 0.5
            self.tally.scored(baseline)
            # The task is what the baseline was asked, without its instructions where the system message holds them.
            task = self._plan.prompt(0, opened.block.item).messages[-1].content
            asks = list(judging(judge, task, opened, partial(self._replied, judge, opened)))
        opened.waits_for = opened.replies_due = len(asks)
        # Before later blocks: where the budget ends it, what was paid for is judged first.
        for ask in reversed(asks):
            self._want(ask, first=True)
        if not asks:
            self._close(opened)

    def _replied(self, judge: Judge, opened: Open, answer: Answer, place: int, came: Came) -> None:
        opened.replies_due -= 1
        if isinstance(came, ModelError):
            self._failed(judge.model, f"{type(came).__name__}: {came}")
        if isinstance(came, Got):
            self._in_a_row[judge.model] = 0
            self._outcome.replies += 1
            opened.usd += came.record.reading.cost.usd or Decimal(0)
            self._outcome.judge += Sum.of([came.record])
            self.tally.judged(came.record)
        replies = opened.replies[answer.arm]
        replies[place] = came
        if None not in replies:
            self._judged(opened, answer, replies)
        opened.waits_for -= 1
        if opened.waits_for == 0:
            self._close(opened)

    def _judged(self, opened: Open, answer: Answer, replies: Sequence[Came | None]) -> None:
        if (judged := judgement(opened, replies)) is not None:
            self._outcome.judged.append(judged)
            answer.score, answer.problem = judged.value, judged.problem
            self.tally.scored(answer)
