"""Frozen runs beside those of now: what changed, and what could explain it. A pure fold; nothing is run here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tokmagic.core.money import plain
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.numbers import UNKNOWN, marked, tokens
from tokmagic.notebooks.align import align, align_runs
from tokmagic.notebooks.reproduce.differences import CACHED, OF_COSTS, Difference, differences, meaning
from tokmagic.notebooks.snapshots import CellSnapshot, Decoding, RunSnapshot

Kind = Literal["text", "tokens", "cost", "finish", "runs"]
"""What can change: the answer, its counts, its cost, why it ended, and whether a run is there at all."""
State = Literal["same", "changed", "not compared", "new"]
_AROUND = 30


@dataclass(frozen=True, slots=True)
class Change:
    """Something of a run that is not as it was frozen. ``where`` is a text's first difference."""

    kind: Kind
    what: str
    was: str
    now: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run then and now. ``run`` of ``runs``, from 1, where the cell has several; ``why`` says what it means."""

    cell: str
    run: int
    runs: int
    before: RunSnapshot | None
    now: RunSnapshot | None
    state: State
    changes: tuple[Change, ...] = ()
    reasons: tuple[Difference, ...] = ()
    why: str = ""

    @property
    def decoding(self) -> Decoding | None:
        """How it was drawn; where that is not known, how it is drawn now."""
        return (self.before.decoding if self.before else None) or (self.now.decoding if self.now else None)

    @property
    def name(self) -> str:
        """``cell 3 (a1b2), run 2 of 4``."""
        return self.cell + (f", run {self.run} of {self.runs}" if self.runs > 1 else "")


@dataclass(frozen=True, slots=True)
class RanCell(CellSnapshot):
    """A cell of the notebook as it was run again. ``shown`` are the runs that its outputs told of before.

    ``ended``: whether it came to its end, or the notebook failed in or before it.
    """

    shown: frozenset[str] = frozenset()
    ended: bool = True


def compare(before: Sequence[CellSnapshot], now: Sequence[RanCell]) -> tuple[Comparison, ...]:
    """Compare all runs, in the order of the notebook; see :func:`tokmagic.notebooks.align.align`."""
    # A cell whose place is not known may be one that the notebook did not come to.
    failed = not all(cell.ended for cell in now)
    return tuple(it for pair in align(before, now, [cell.shown for cell in now]) for it in _pair(*pair, failed))


def _pair(before: CellSnapshot | None, now: RanCell | None, failed: bool) -> Iterator[Comparison]:
    shown = now or before
    assert shown is not None
    cut_short = not now.ended if now is not None else failed and shown.number is None
    gone = "the notebook no longer has this cell" if now is None else "the cell did not run this prompt now"
    found = list(align_runs(before.runs if before else (), now.runs if now else ()))
    for place, (was, run) in enumerate(found, 1):
        yield Comparison(shown.name, place, len(found), was, run, *_compared(was, run, gone, cut_short))


_Compared = tuple[State, tuple[Change, ...], tuple[Difference, ...], str]


def _compared(before: RunSnapshot | None, now: RunSnapshot | None, gone: str, cut_short: bool) -> _Compared:
    if before is None:
        return "new", (), (), "it was not there when the notebook was frozen"
    if before.decoding == "sampled" or (before.decoding is None and now is not None and now.decoding == "sampled"):
        return "not compared", (), (), "sampled without a seed"
    if not before.ended_well:
        return "not compared", (), (), f"it was incomplete then ({before.status})"
    if now is None and cut_short:
        return "not compared", (), (), "the notebook failed before it"
    if now is None:
        return "changed", (Change("runs", "run", before.status, UNKNOWN),), (), gone
    if not now.ended_well:
        change = Change("runs", "status", before.status, now.status)
        # A run without an answer has no cached input, which explains nothing.
        return "changed", (change,), tuple(it for it in differences(before, now) if it.what != CACHED), ""
    changes = tuple(_changes(before, now))
    if not changes:
        return "same", (), (), ""
    kinds = {change.kind for change in changes}
    answer_changed = bool(kinds & {"text", "finish", "tokens"})
    # What explains a cost explains no answer, and nothing else explains a cost whose counts are the same.
    reasons = tuple(
        it for it in differences(before, now) if ("cost" in kinds if it.what in OF_COSTS else answer_changed)
    )
    return "changed", changes, reasons, meaning(before, now, reasons, answer_changed=answer_changed)


def _changes(before: RunSnapshot, now: RunSnapshot) -> Iterator[Change]:
    if before.answer_sha256 is not None and before.answer_sha256 != now.answer_sha256:
        was, then = ((run.answer_sha256 or UNKNOWN)[:12] for run in (before, now))
        yield Change("text", "text", was, then, _where(before, now))
    for what in ("input_tokens", "output_tokens"):
        one, other = getattr(before.usage, what), getattr(now.usage, what)
        if one != other:
            yield Change("tokens", what.replace("_", " "), tokens(one), tokens(other))
    # Where both pay for their device's time the costs are measurements, which say nothing of the answer.
    measured = by_time(now) and (before.rates is None or by_time(before))
    if before.usd != now.usd and not measured:
        yield Change("cost", "cost", _usd(before), _usd(now))
    # A server that gives no reason says nothing of the answer.
    if before.finish_reason and now.finish_reason and before.finish_reason != now.finish_reason:
        yield Change("finish", "finish reason", before.finish_reason, now.finish_reason)


def by_time(run: RunSnapshot) -> bool:
    """Whether a run is paid by its device's time."""
    return run.rates is not None and run.rates.input is None and run.rates.device_hour is not None


def _where(before: RunSnapshot, now: RunSnapshot) -> str:
    """The first place at which two answers differ, in words; empty where one of the texts is not at hand."""
    if before.answer is None or now.answer is None or before.answer == now.answer:
        return ""
    pairs = enumerate(zip(before.answer, now.answer, strict=False))
    shorter = min(len(before.answer), len(now.answer))
    at = next((place for place, (one, other) in pairs if one != other), shorter)
    return f"from character {at + 1} on: {_around(before.answer, at)} → {_around(now.answer, at)}"


def _around(text: str, at: int) -> str:
    start, end = max(0, at - _AROUND), at + _AROUND
    cut = " ".join(plain_text(text[start:end]).split())
    return f"“{'…' if start else ''}{cut}{'…' if end < len(text) else ''}”"


def _usd(run: RunSnapshot) -> str:
    # In full: two amounts that differ must not look the same.
    return UNKNOWN if run.usd is None else marked(f"${plain(run.usd)}", run.uncertainty.precision(0))
