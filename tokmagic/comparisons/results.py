"""What a comparison gave: every answer with its numbers, what is missing and why, and what the rest will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tokmagic.comparisons import charts, showing
from tokmagic.comparisons.disagreements import disagreements
from tokmagic.comparisons.figures import METRICS, ArmFigures, figures
from tokmagic.comparisons.forecasts import Forecast, forecast
from tokmagic.comparisons.intervals import needed
from tokmagic.comparisons.judges import Judge
from tokmagic.comparisons.plan import Plan
from tokmagic.comparisons.running import Answer, Outcome
from tokmagic.comparisons.scores import Score
from tokmagic.comparisons.verdicts import verdict
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table, escape

if TYPE_CHECKING:
    from tokmagic.comparisons.intervals import Floats
    from tokmagic.reports.plots import Plot


@dataclass(frozen=True)
class Comparison:
    """Variants of a prompt on the same items. It shows itself as tables with a verdict."""

    plan: Plan
    score: Score | Judge | None
    outcome: Outcome

    @property
    def answers(self) -> list[Answer]:
        """Every run in the order in which it was planned; those that failed have a problem and no run id."""
        return self.outcome.answers

    @property
    def spent_usd(self) -> Decimal:
        """What it cost in all, in USD: runs that did not finish and the judge's included."""
        return self.outcome.spent_usd

    @property
    def complete(self) -> bool:
        """Whether every run of the plan is there."""
        return sum(answer.ran for answer in self.answers) == self.plan.runs

    @property
    def forecast(self) -> Forecast:
        """What the items that have not run yet will cost."""
        planned = len(self.plan.items.rows) * self.plan.repeat
        return forecast(self.outcome.block_usd, planned - self.outcome.blocks)

    @property
    def passes(self) -> bool:
        """Whether the scores are pass or fail."""
        if self.score is None or isinstance(self.score, Judge):
            return False
        if self.score.passes is not None:
            return self.score.passes
        scores = {answer.score for answer in self.answers} - {None}
        return bool(scores) and scores <= {0.0, 1.0}

    def values(self, metric: str) -> Floats:
        """``usd``, ``tokens``, ``latency_s`` or ``score``: arms × items × repeats, NaN where there is none."""
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

    def plot(self) -> Plot:
        """Mean cost against mean score. Raises UsageError where either is unknown, and without altair."""
        return charts.plot(self.figures, "pass rate" if self.passes else "score")

    def to_markdown(self) -> str:
        """Verdict, tables and notes in GitHub's Markdown."""
        tables = [showing.markdown(it) for it in (self.levels, self.differences)]
        notes = "\n".join(f"- {note}" for note in self.notes())
        return "\n\n".join(filter(None, [self.verdict.replace("$", "\\$"), *tables, notes.replace("$", "\\$")])) + "\n"

    def to_html(self) -> str:
        """Verdict, tables and notes as HTML that needs nothing else."""
        tables = "".join(it._repr_html_() for it in (self.levels, self.differences))
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes())
        listed = f"<ul>{notes}</ul>" if notes else ""
        marked = "tex2jax_ignore mathjax_ignore"  # else MathJax reads dollars as formulas
        return f'<div class="{marked}"><p>{escape(self.verdict)}</p>{tables}{listed}</div>'

    _repr_html_ = to_html

    def to_csv(self) -> str:
        """The figures unrounded, as CSV text with a row for each arm and metric; unknown is empty."""
        return showing.as_csv(showing.exact_rows(self.figures))

    def rows(self) -> list[dict[str, Any]]:
        """The figures unrounded, as dictionaries: money as decimal strings, unknown as None."""
        return showing.json_rows(showing.exact_rows(self.figures))

    def __repr__(self) -> str:
        notes = [f"({note})" for note in self.notes()]
        return "\n\n".join([self.verdict, repr(self.levels), repr(self.differences), *notes])

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
            found.append(f"{planned - ran:,} of {planned:,} runs are missing; differences are of complete pairs alone")
        for model, problem in outcome.given_up.items():
            found.append(f"{model} failed too often in a row and was given up: {problem}")
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
        problems = Counter(answer.problem for answer in self.answers if answer.ran and answer.problem)
        if problems:
            often, count = problems.most_common(1)[0][0], sum(problems.values())
            found.append(f"{numbers.counted(count, 'answer')} could not be scored and {_are(count)} left out: {often}")
        if unpriced := sum(answer.ran and answer.usd is None for answer in self.answers):
            found.append(f"{numbers.counted(unpriced, 'run')} had no price; set one with %price")
        if isinstance(self.score, Judge):
            found.append(self._judge_note())
        return found

    def _judge_note(self) -> str:
        agreed = [it.agreed for it in self.outcome.judged if it.agreed is not None]
        share = f"{sum(agreed) / len(agreed):.0%}" if agreed else numbers.UNKNOWN
        return (
            f"the judge {self.score.model if isinstance(self.score, Judge) else ''} cost "
            f"{numbers.usd(self.outcome.judge_usd)} and preferred the same answer with places swapped in {share} of "
            f"{numbers.counted(len(agreed), 'pair')}"
        )


def _tokens(it: Answer) -> int | None:
    return None if it.input_tokens is None or it.output_tokens is None else it.input_tokens + it.output_tokens


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
