"""Comparisons in the sidebar: each is one row that stands for all its runs, with a part for each variant at a model.

Who compares hands in a :class:`Running`; the live channel's threads look at it. What an earlier kernel compared is put
together from the ledger (:func:`from_ledger`), as far as that tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from tokmagic.core.compared import compared, variant_name
from tokmagic.core.fields import utc_text
from tokmagic.core.money import plain
from tokmagic.core.record import NO_RUNS, Group, RunRecord, Selection, Status, Sum
from tokmagic.formatting.numbers import counted

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger


@dataclass(frozen=True, slots=True)
class Means:
    """Of a part's runs; unknown is None."""

    latency_s: float | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A variant at a model. ``runs`` are wanted of it, ``done`` of them ended well; ``sum`` is of those.

    ``latency_s`` and ``score`` are means; unknown is None.
    """

    label: str
    variant: str
    model: str
    runs: int | None = None
    done: int = 0
    failed: int = 0
    refused: int = 0
    sum: Sum = NO_RUNS
    latency_s: float | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ToCome:
    """What the rest is likely to take: USD with the ends of the 95 % interval, and seconds. Unknown is None."""

    usd: Decimal | None = None
    low_usd: Decimal | None = None
    high_usd: Decimal | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A comparison as one row. ``row_id`` is what stops it; of how many ``items`` it is may be unknown."""

    row_id: str
    tags: tuple[str, str]
    cell_id: str | None
    status: Status
    started_at: datetime
    parts: tuple[Part, ...]
    runs: int
    items: int | None = None
    repeat: int | None = None
    spent: Sum = NO_RUNS
    """All that it cost so far: the judge's runs and those that did not finish included."""
    to_come: ToCome | None = None
    passes: bool = False
    """Whether scores are pass or fail."""
    judge: Sum = NO_RUNS
    """What the judge cost, of ``spent``."""
    note: str | None = None
    """Why it ended as it did, and what went wrong, in one line."""
    finish_reason: str | None = None
    source_sha256: str | None = None
    execution: str | None = None
    execution_count: int | None = None
    beside: tuple[Part, ...] = ()
    """Variants that were run in addition: the prompt without one of its parts."""

    @property
    def done(self) -> int:
        """How many runs ended, well or not."""
        return sum(it.done + it.failed + it.refused for it in (*self.parts, *self.beside))

    def with_means(self, means: Mapping[str, Means]) -> ComparisonRow:
        """It with other means of its parts, by their labels; a part that is not among them keeps its own."""

        def part(it: Part) -> Part:
            now = means.get(it.label)
            return it if now is None else replace(it, latency_s=now.latency_s, score=now.score)

        return replace(self, parts=tuple(map(part, self.parts)))


def comparison_wire(row: ComparisonRow) -> dict[str, Any]:
    """A comparison as a row of a message, with what only a comparison has under ``comparison``."""
    models = list(dict.fromkeys(it.model for it in row.parts))
    variants = {it.variant for it in row.parts}
    estimated, bound = row.spent.precision
    to_come = row.to_come
    wire = {
        "run_id": row.row_id,
        "cell_id": row.cell_id,
        "status": row.status,
        "finish_reason": row.finish_reason,
        "error": row.note,
        "model": ", ".join(models),
        "started_at": utc_text(row.started_at),
        **_counts(row.spent),
        "cost_source": "estimated" if estimated else "measured",
        "cost_bound": bound,
        "saved_usd": None,
        "shadow_usd": None,
        "shadow_model": None,
        "list_price": None,
        "ttft_s": row.spent.ttft_s,
        "itl_mean_s": row.spent.itl_mean_s,
        "latency_s": None,
        "spark_ms": [],
        "max_tokens": None,
        "comparison": {
            "tags": list(row.tags),
            "variants": len(variants),
            "models": len(models),
            "items": row.items,
            "repeat": row.repeat,
            "runs": row.runs,
            "done": row.done,
            "passes": row.passes,
            "judge_usd": plain(row.judge.cost_usd),
            "judge_estimated": row.judge.precision.estimated,
            "judge_bound": row.judge.precision.bound,
            "to_come": None
            if to_come is None
            else {
                "usd": plain(to_come.usd),
                "low_usd": plain(to_come.low_usd),
                "high_usd": plain(to_come.high_usd),
                "seconds": to_come.seconds,
            },
            "parts": [_part_wire(it) for it in row.parts],
            "beside": [_part_wire(it) for it in row.beside],
        },
    }
    of_cell = {
        "source_sha256": row.source_sha256,
        "execution": row.execution,
        "execution_count": row.execution_count,
    }
    return wire | {name: value for name, value in of_cell.items() if value}


def _counts(it: Sum) -> dict[str, Any]:
    given, made = (it.input_tokens, it.output_tokens) if it.runs else (None, None)
    return {
        "input_tokens": given,
        "input_source": "unknown" if given is None else "measured",
        "output_tokens": made,
        "output_source": "unknown" if made is None else "measured",
        "cost_usd": plain(it.cost_usd),
    }


def _part_wire(it: Part) -> dict[str, Any]:
    estimated, bound = it.sum.precision
    return {
        "label": it.label,
        "runs": it.runs,
        "done": it.done,
        "failed": it.failed,
        "refused": it.refused,
        **tokens_wire(it.sum),
        "cost_usd": plain(it.sum.cost_usd),
        "cost_source": "estimated" if estimated else "measured",
        "cost_bound": bound,
        "latency_s": it.latency_s,
        "score": it.score,
    }


def tokens_wire(it: Sum) -> dict[str, Any]:
    """The tokens of a sum. Sidebars of earlier versions know only numbers, so what is unknown is said beside them."""
    told: dict[str, Any] = {"input_tokens": it.input_tokens or 0, "output_tokens": it.output_tokens or 0}
    counts = {"input_known": it.input_tokens, "output_known": it.output_tokens}
    return told | {name: False for name, tokens in counts.items() if tokens is None}


class Running(Protocol):
    """A comparison that goes on. Both are called from any thread."""

    def row(self) -> ComparisonRow:
        """As it stands now."""

    def stop(self) -> None:
        """End it: what runs is stopped, and nothing begins any more."""


class Comparisons:
    """Those of a session that go on, and the latest of each cell. For any thread."""

    def __init__(self, touch: Callable[[], None]) -> None:
        self._touch = touch
        self.renew()

    def renew(self) -> None:
        """Begin anew in a forked child: what runs is the parent's."""
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._ended: dict[str, ComparisonRow] = {}
        self._unseen: set[str] = set()

    def begin(self, cell_id: str, running: Running) -> None:
        """A cell began to compare."""
        with self._lock:
            self._running[cell_id] = running
        self._touch()

    def end(self, cell_id: str, row: ComparisonRow) -> None:
        """It ended, or something changed in it after its end."""
        with self._lock:
            self._running.pop(cell_id, None)
            self._ended[cell_id] = row
            self._unseen.add(cell_id)
        self._touch()

    def set_means(self, cell_id: str, tags: tuple[str, str], means: Mapping[str, Means]) -> None:
        """The means of its figures are known, or a person rated answers: by label, if the cell still shows it."""
        with self._lock:
            row = self._ended.get(cell_id)
            if row is None or row.tags != tags:
                return
            self._ended[cell_id] = row.with_means(means)
            self._unseen.add(cell_id)
        self._touch()

    def changes(self) -> list[ComparisonRow]:
        """Those that go on, and those that ended since the last call."""
        with self._lock:
            ended = [self._ended[it] for it in self._unseen if it not in self._running]
            self._unseen.clear()
            running = list(self._running.values())
        return [*ended, *(it.row() for it in running)]

    def with_earlier(self, ledger: Ledger, where: Selection, latest: Iterable[RunRecord]) -> list[ComparisonRow]:
        """The latest of each cell that compared: of this session, or as the ledger tells of the ``latest`` runs.

        Raises LedgerError.
        """
        known = self.known()
        return [*known.values(), *from_ledger(ledger, where, (it for it in latest if it.cell_id not in known))]

    def known(self) -> dict[str, ComparisonRow]:
        """The latest of each cell that compared in this session."""
        with self._lock:
            ended, running = dict(self._ended), dict(self._running)
        return ended | {cell_id: it.row() for cell_id, it in running.items()}

    def stop(self, row_id: str) -> bool:
        """Stop one that goes on; whether there is such a one."""
        with self._lock:
            running = list(self._running.values())
        found = [it for it in running if it.row().row_id == row_id]
        for it in found:
            it.stop()
        return bool(found)


def alone(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs that are of no comparison: those have rows of their own."""
    return [it for it in records if compared(it.tags) is None]


def from_ledger(ledger: Ledger, where: Selection, latest: Iterable[RunRecord]) -> Iterator[ComparisonRow]:
    """The comparisons to which cells' latest runs belong, from what the ledger has of them. Raises LedgerError."""
    for record in latest:
        of = compared(record.tags)
        if of is None or record.cell_id is None:
            continue
        here = replace(where, cell_id=record.cell_id)
        groups: Sequence[Group] = []
        if of.savings_of is not None:
            # What was run to find out where the money goes is shown with what it was found out of.
            groups = ledger.parts(replace(here, tags=(of.savings_of,)))
        groups = groups or ledger.parts(replace(here, tags=(of.question, of.data)))
        if groups:
            yield _restored(record, groups)


def _restored(record: RunRecord, groups: Sequence[Group]) -> ComparisonRow:
    of = next(found for it in reversed(groups) if (found := compared(it.tags)) is not None)
    mine = [it for it in groups if compared(it.tags) == of]
    parts: dict[tuple[str, str], Part] = {}
    several = len({it.model for it in mine if variant_name(it.tags[-1]) is not None}) > 1
    for it in mine:
        name = variant_name(it.tags[-1])
        if name is not None:
            label = f"{name} · {it.model}" if several else name
            part = parts.get((it.tags[-1], it.model)) or Part(label, name, it.model)
            parts[it.tags[-1], it.model] = _with(part, it)
    judged = [it.sum for it in mine if variant_name(it.tags[-1]) is None]
    each = of.runs // max(1, len(parts))
    # A part that never ran is not known to the ledger, so what each should have is known where they add up alone.
    # One alone is always without another, since there is nothing to compare with then.
    wanted = each if len(parts) > 1 and each * len(parts) == of.runs else None
    settled = tuple(_settled(it, wanted) for it in parts.values())
    complete = sum(it.done for it in settled) >= of.runs
    note = told(sum(it.failed for it in settled), sum(it.refused for it in settled))
    return ComparisonRow(
        row_id=f"{of.question}/{of.data}",
        tags=(of.question, of.data),
        cell_id=record.cell_id,
        status="ok" if complete else "interrupted",
        started_at=min(it.started_at for it in mine),
        parts=settled,
        runs=of.runs,
        spent=sum((it.sum for it in mine), NO_RUNS),
        judge=sum(judged, NO_RUNS),
        note=note,
        finish_reason=None if complete else "interrupted",
        source_sha256=record.env.get("source_sha256"),
        execution_count=record.env.get("execution_count"),
    )


def _with(part: Part, it: Group) -> Part:
    if it.status == "ok":
        return replace(part, done=part.done + it.sum.runs, sum=part.sum + it.sum, latency_s=it.latency_s)
    if it.status == "failed":
        return replace(part, failed=part.failed + it.sum.runs)
    return replace(part, refused=part.refused + it.sum.runs) if it.status == "refused" else part


def _settled(part: Part, runs: int | None) -> Part:
    """Without the failures that a later attempt made good."""
    if runs is None:
        return part
    left = max(0, runs - part.done)
    failed = min(part.failed, left)
    return replace(part, runs=runs, failed=failed, refused=min(part.refused, left - failed))


def told(failed: int, refused: int, first: str | None = None) -> str | None:
    """How many runs failed and how many were refused, in words; None where none were."""
    counts = []
    if failed:
        counts.append(f"{counted(failed, 'run')} failed")
    if refused:
        counts.append(f"{counted(refused, 'run')} {'was' if refused == 1 else 'were'} refused")
    if not counts:
        return None
    return ", ".join(counts) + ("" if first is None else f"; the first: {first}")
