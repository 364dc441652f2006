"""What a comparison gave: every answer with its numbers, what is missing and why, and what the rest will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tokmagic.comparisons import charts, showing
from tokmagic.comparisons.amounts import amount
from tokmagic.comparisons.concurrency import most_at_once
from tokmagic.comparisons.contrasts import Contrasts
from tokmagic.comparisons.disagreements import disagreements, side_by_side
from tokmagic.comparisons.figures import METRICS, ArmFigures, figures, level_means
from tokmagic.comparisons.forecasts import Forecast, forecast
from tokmagic.comparisons.judges import FAILED, Judge
from tokmagic.comparisons.outcome import Answer, Outcome
from tokmagic.comparisons.packages import needed
from tokmagic.comparisons.plan import Plan
from tokmagic.comparisons.ratings import Book, Human, Rating
from tokmagic.comparisons.saved import Cell, for_output, to_json
from tokmagic.comparisons.scores import Score
from tokmagic.comparisons.verdicts import verdict
from tokmagic.core.record import COMPARISON_IN_OUTPUTS as IN_OUTPUTS
from tokmagic.errors import BudgetError, UsageError, nearest
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table, escape
from tokmagic.runs.comparing import ComparisonRow, Means

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats
    from tokmagic.comparisons.running import Progress
    from tokmagic.comparisons.savings import Savings
    from tokmagic.reports.plots import Plot


@dataclass(frozen=True)
class Comparison:
    """Variants of a prompt on the same items. It shows itself as tables with a verdict."""

    plan: Plan
    score: Score | Judge | Human | None
    outcome: Outcome
    cell: Cell = field(default_factory=Cell)
    book: Book | None = field(default=None, repr=False, compare=False)
    """Where a person's ratings are kept, if a person is to give the scores."""
    measure: Callable[..., Savings] | None = field(default=None, repr=False, compare=False)
    """What :meth:`savings` asks: it can run more of the same."""
    money: Savings | None = field(default=None, repr=False)
    """Where its money goes, if :meth:`with_savings` was asked."""
    row: ComparisonRow | None = field(default=None, repr=False, compare=False)
    """How it stands in the sidebar."""
    rated: Callable[[Mapping[str, Means]], None] | None = field(default=None, repr=False, compare=False)
    """Told each arm's means, by its label, when they are known and whenever a person's ratings change one."""

    @property
    def answers(self) -> list[Answer]:
        """Every run in the order in which it was planned; those that failed have a problem and no run id."""
        return self.outcome.answers

    @property
    def spent_usd(self) -> Decimal | None:
        """What it cost in all, in USD: runs that did not finish and the judge's included.

        None where it ran and no run of it has a price.
        """
        spent_usd, ran = self.outcome.spent_usd, [answer.usd for answer in self.answers if answer.ran]
        return None if not spent_usd and ran and all(usd is None for usd in ran) else spent_usd

    @property
    def complete(self) -> bool:
        """Whether every run of the plan is there."""
        return sum(answer.ran for answer in self.answers) == self.plan.runs

    @property
    def forecast(self) -> Forecast:
        """What the items that have not run yet will cost."""
        planned, outcome = len(self.plan.items.rows) * self.plan.repeat, self.outcome
        return forecast(outcome.costs, planned - outcome.blocks + outcome.failed_blocks, outcome.begun_usd)

    @property
    def passes(self) -> bool:
        """Whether the scores are pass or fail."""
        if self.score is None or isinstance(self.score, Judge):
            return False
        if self.score.passes is not None:
            return self.score.passes
        scores = {answer.score for answer in self.answers} - {None}
        return bool(scores) and scores <= {0.0, 1.0}

    @property
    def unscored(self) -> dict[str, int]:
        """How many answers of each arm, by its label, wait for a score or could not be given one."""
        if self.score is None:
            return {}
        counts = Counter(it.arm for it in self.answers if it.ran and it.score is None)
        return {self.plan.arms[arm].label: count for arm, count in sorted(counts.items())}

    def values(self, metric: str) -> Floats:
        """``usd``, ``tokens``, ``latency_s`` or ``score``: arms × items × repeats, NaN where there is none.

        Raises UsageError for another metric.
        """
        if metric not in METRICS:
            raise UsageError(f"the metric {metric!r} is unknown{nearest(metric, METRICS)}; known: {', '.join(METRICS)}")
        shape = (len(self.plan.arms), len(self.plan.items.rows), self.plan.repeat)
        found: Floats = np.full(shape, np.nan)
        for it in self.answers:
            value = _tokens(it) if metric == "tokens" else getattr(it, metric)
            if value is not None:
                found[it.arm, it.item, it.repeat] = float(value)
        return found

    @cached_property
    def figures(self) -> list[ArmFigures]:
        """Each arm's means and what it differs by from the first, the baseline."""
        labels = [arm.label for arm in self.plan.arms]
        values = {metric: self.values(metric) for metric in METRICS}
        return figures(labels, values, passes=self.passes, seed=self.plan.seed)

    @property
    def means(self) -> dict[str, Means]:
        """Of each arm, by its label, as its figures have them: of the items that every arm has."""
        labels = [arm.label for arm in self.plan.arms]
        each = zip(*(level_means(self.values(it)) for it in ("latency_s", "score")), strict=True)
        return dict(zip(labels, (Means(*it) for it in each), strict=True))

    @property
    def shown(self) -> ComparisonRow | None:
        """The row that the sidebar shows, with these means; None where there is none."""
        return None if self.row is None else self.row.with_means(self.means)

    def rescored(self) -> None:
        """Scores have changed: the figures are to be calculated anew, and the sidebar is to know."""
        self.__dict__.pop("figures", None)
        if self.rated is not None:
            self.rated(self.means)

    def rating(self) -> Rating:
        """What asks a person for the scores, answer by answer. Raises UsageError where the score is no ``human(…)``."""
        if not isinstance(self.score, Human) or self.book is None:
            raise UsageError("the score is no person's; compare with score=\"human('Is it right?')\"")
        return Rating(self, self.score.question, self.book)

    @property
    def levels(self) -> Table:
        """Each arm's means with their intervals, as a table."""
        return showing.levels(self.figures, passes=self.passes)

    @property
    def differences(self) -> Table:
        """What each arm differs by from the baseline, as a table."""
        return showing.differences(self.figures, passes=self.passes)

    @property
    def verdict(self) -> str:
        """In plain words what was seen, what was not, and what follows."""
        return verdict(self.figures, passes=self.passes)

    def disagreements(self, most: int = 20) -> Table:
        """The items on which a variant scored otherwise than the baseline, with both answers."""
        return disagreements(self.plan, self.answers, self.values("score"), most)

    def side_by_side(self, most: int = 10, items: Sequence[int] | None = None) -> Contrasts:
        """Answers beside the baseline's with the words marked in which they differ, as HTML, Markdown and text.

        On ``items``, numbers from 1 on, else on those that disagree in score, or where there is no score in text.
        Raises UsageError.
        """
        return side_by_side(self.plan, self.answers, self.values("score"), most, items)

    def savings(
        self,
        budget: object = None,
        *,
        variant: str | None = None,
        items: int | None = None,
        most: int = 8,
        progress: Progress | None = None,
    ) -> Savings:
        """Where a variant's money goes, by default that of the one to keep: what its runs tell, and with a budget more.

        Told without a run: what a cache of prompts' beginnings and a lower output limit would have saved. With
        ``budget``, in USD, its examples, system message and sentences are left out, one at a time and the ``most``
        longest of them, on the same items (or so many of them), and compared with the variant as it is.

        Raises as :func:`tokmagic.compare` does.
        """
        if self.measure is None:
            raise UsageError("this comparison was not made by tokmagic.compare, so it has no session to run more in")
        return self.measure(self, budget=budget, variant=variant, items=items, most=most, progress=progress)

    def with_savings(self, budget: object = None, *, progress: Progress | None = None) -> Comparison:
        """This comparison with its :meth:`savings`, which it shows then, too. A budget of 0 is none.

        Where a budget covers not even one pair, it says so. Raises as :meth:`savings` does otherwise.
        """
        ask = partial(self.savings, progress=progress)
        limit = None if budget is None else amount(budget, "savings")
        try:
            money = ask(limit or None)
        except BudgetError as error:
            without = ask()
            money = replace(without, remarks=(f"no part was left out: {error}",))
        # Run in another cell it has a row of its own there.
        same = money.row is not None and self.row is not None and money.row.tags == self.row.tags
        return replace(self, money=money, row=money.row if same else self.row)

    def plot(self) -> Plot:
        """Mean cost against mean score. Raises UsageError where either is unknown, and without altair."""
        return charts.plot(self.figures, "pass rate" if self.passes else "score")

    def to_markdown(self) -> str:
        """Verdict, tables and notes in GitHub's Markdown."""
        tables = [showing.markdown(it) for it in (self.levels, self.differences)]
        notes = "\n".join(f"- {note}" for note in self.notes())
        told = [self.verdict.replace("$", "\\$"), *tables, notes.replace("$", "\\$")]
        money = "" if self.money is None else self.money.to_markdown().rstrip("\n")
        return "\n\n".join(filter(None, [*told, money])) + "\n"

    def to_html(self) -> str:
        """Verdict, tables and notes as HTML that needs nothing else."""
        tables = "".join(it._repr_html_() for it in (self.levels, self.differences))
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes())
        listed = f"<ul>{notes}</ul>" if notes else ""
        money = "" if self.money is None else self.money._repr_html_()
        marked = "tex2jax_ignore mathjax_ignore"  # else MathJax reads dollars as formulas
        return f'<div class="{marked}"><p>{escape(self.verdict)}</p>{tables}{listed}{money}</div>'

    _repr_html_ = to_html

    def to_json(self) -> dict[str, Any]:
        """Verdict, notes and unrounded figures as a JSON object, without answers: what :mod:`.saved` reads."""
        return to_json(self)

    def _repr_mimebundle_(self, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        metadata = {IN_OUTPUTS: for_output(self)} if self.cell.keeps else {}
        return {"text/html": self.to_html(), "text/plain": repr(self)}, metadata

    def to_csv(self) -> str:
        """The figures unrounded, as CSV text with a row for each arm and metric; unknown is empty."""
        return showing.as_csv(showing.exact_rows(self.figures))

    def rows(self) -> list[dict[str, Any]]:
        """The figures unrounded, as dictionaries: money as decimal strings, unknown as None."""
        return showing.json_rows(showing.exact_rows(self.figures))

    def __repr__(self) -> str:
        notes = [f"({note})" for note in self.notes()]
        money = [] if self.money is None else [repr(self.money)]
        return "\n\n".join([self.verdict, repr(self.levels), repr(self.differences), *notes, *money])

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each run, in the order in which they ran. Raises UsageError."""
        try:
            import pandas
        except ImportError:
            raise needed("pandas") from None
        return pandas.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for it in self.answers:
            arm = self.plan.arms[it.arm]
            yield {
                "order": it.order,
                "variant": arm.variant.name,
                "version": arm.variant.version,
                "model": arm.model,
                "item": it.item + 1,
                "repeat": it.repeat + 1,
                "run_id": it.run_id,
                "usd": None if it.usd is None else float(it.usd),
                "input_tokens": it.input_tokens,
                "output_tokens": it.output_tokens,
                "latency_s": it.latency_s,
                "score": it.score,
                "problem": it.problem,
                "answer": it.text,
            }

    def notes(self) -> list[str]:
        """What a reader has to know: what is missing and why, one line each, however often it happened."""
        outcome, plan = self.outcome, self.plan
        found = []
        if outcome.ended is not None:
            found.append(f"it ended early: {outcome.ended}")
        planned, ran = plan.runs, sum(answer.ran for answer in self.answers)
        if ran < planned:
            found.append(
                f"{planned - ran:,} of {planned:,} runs are missing; means are of the items that every variant has, "
                "differences of complete pairs alone"
            )
        for model, problem in outcome.given_up.items():
            found.append(self._given_up_note(model, problem))
        for arm, it in enumerate(plan.arms):
            failed = [answer for answer in self.answers if answer.arm == arm and not answer.ran]
            if failed:
                found.append(
                    f"{numbers.counted(len(failed), 'run')} of {it.label} failed, the first: {failed[0].problem}"
                )
        if cut := sum(answer.finish_reason == "length" for answer in self.answers):
            found.append(f"{numbers.counted(cut, 'answer')} reached max_tokens and may be incomplete")
        if empty := sum(answer.text is not None and not answer.text.strip() for answer in self.answers):
            found.append(f"{numbers.counted(empty, 'answer')} had no text")
        unscored = [answer for answer in self.answers if answer.ran and answer.problem]
        if isinstance(self.score, Judge) and self.score.model in outcome.given_up:
            # Told above, with the pairs that were not judged since.
            unscored = [answer for answer in unscored if not str(answer.problem).startswith(FAILED)]
        if unscored:
            often, _ = Counter(answer.problem for answer in unscored).most_common(1)[0]
            of = Counter(plan.arms[answer.arm].label for answer in unscored)
            whose = ", ".join(f"{count:,} of {label}" for label, count in of.items())
            count = len(unscored)
            found.append(
                f"{numbers.counted(count, 'answer')} could not be scored and {_are(count)} left out ({whose}): {often}"
            )
        found += outcome.billed.notes()
        found += self._beside_notes()
        if isinstance(self.score, Judge):
            found += self._judge_notes()
        if isinstance(self.score, Human):
            waiting = sum(it.ran and it.text is not None and it.score is None for it in self.answers)
            if waiting:
                wait = "waits" if waiting == 1 else "wait"
                found.append(
                    f"{numbers.counted(waiting, 'answer')} {wait} for a person's rating: run %%compare in a notebook, "
                    "or see result.rating()"
                )
        if (left := self.forecast).left:
            found.append(str(left))
        return found

    def _beside_notes(self) -> Iterator[str]:
        """A latency among others is not that of a run alone, and is never shown as such."""
        for model in dict.fromkeys(arm.model for arm in self.plan.arms):
            spans = [it.span for it in self.answers if it.span is not None and self.plan.arms[it.arm].model == model]
            if (most := most_at_once(spans)) > 1:
                yield (
                    f"up to {most} runs went on at once at {model}: a latency is that of a run among others, which "
                    "may be longer than alone; concurrency 1 measures one at a time"
                )

    def _given_up_note(self, model: str, problem: str) -> str:
        says = f"failed too often in a row and was given up: {problem}"
        if not isinstance(self.score, Judge) or self.score.model != model:
            return f"{model} {says}"
        baselines = {(it.item, it.repeat) for it in self.answers if it.arm == 0 and it.text is not None}
        unjudged = sum(
            it.arm > 0
            and it.text is not None
            and it.score is None
            and (it.problem is None or it.problem.startswith(FAILED))
            and (it.item, it.repeat) in baselines
            for it in self.answers
        )
        told = f"{numbers.counted(unjudged, 'pair')} {_are(unjudged)} not judged"
        return f"the judge {model} {says}; {told}" if unjudged else f"the judge {model} {says}"

    def _judge_notes(self) -> Iterator[str]:
        agreed = [it.agreed for it in self.outcome.judged if it.agreed is not None]
        name = self.score.model if isinstance(self.score, Judge) else ""
        cost = self.outcome.judge
        shown = numbers.usd_marked(cost.cost_usd, cost.precision)
        paid = f"the judge {name} cost {shown}" if cost.cost_usd is not None else f"the judge {name} has no price"
        if agreed:
            share = f"{sum(agreed) / len(agreed):.0%}"
            yield (
                f"{paid} and preferred the same answer with places swapped in {share} of "
                f"{numbers.counted(len(agreed), 'pair')}"
            )
        elif self.outcome.replies:
            yield f"{paid}, and no two replies of it could be read"
        elif name not in self.outcome.given_up:
            yield f"{paid} and gave no reply"


def _tokens(it: Answer) -> int | None:
    return None if it.input_tokens is None or it.output_tokens is None else it.input_tokens + it.output_tokens


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
