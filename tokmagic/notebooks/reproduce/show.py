"""A report for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tokmagic.core.money import plain
from tokmagic.formatting import numbers
from tokmagic.formatting.markdown import plain_text
from tokmagic.formatting.tables import Table
from tokmagic.notebooks.reproduce.compare import Change, Comparison, by_time
from tokmagic.notebooks.reproduce.report import Report
from tokmagic.notebooks.snapshots import RunSnapshot

_NO_PROMISE = "at an endpoint, which guarantees nothing"


def table(report: Report) -> Table:
    """A line for each run, and beneath it what changed and what differs that could explain it."""
    # Names of models and the like come from files of anybody's.
    rows = tuple(tuple(plain_text(cell) for cell in _row(it)) for it in report.comparisons)
    columns = ("cell", "model", "drawn", "text", "in", "out", "cost")
    return Table(columns, rows, plain_text("\n".join(_lines(report))), words=("model", "drawn", "text"))


def _row(it: Comparison) -> tuple[str, ...]:
    run = it.now or it.before
    assert run is not None
    changes = {change.what: change for change in it.changes}
    return (
        it.name.removeprefix("cell "),
        run.info.name,
        it.decoding or numbers.UNKNOWN,
        _text(it),
        _figure(changes.get("input tokens"), numbers.tokens(run.usage.input_tokens, run.usage.input_source)),
        _figure(changes.get("output tokens"), numbers.tokens(run.usage.output_tokens, run.usage.output_source)),
        _figure(changes.get("cost"), numbers.cost(run.cost)),
    )


def _text(it: Comparison) -> str:
    if it.state in ("not compared", "new"):
        return it.state
    kinds = {change.kind for change in it.changes}
    if "runs" in kinds:
        return "missing" if it.now is None else it.now.status
    if "text" in kinds:
        return "changed"
    return "same" if it.before and it.before.answer_sha256 else "not known"


def _figure(change: Change | None, same: str) -> str:
    return same if change is None else f"{change.was} → {change.now}"


def _lines(report: Report) -> Iterator[str]:
    for it in report.comparisons:
        yield from _about(it)
    yield from report.notes
    if any(_is_timed(it) for it in report.comparisons):
        yield "costs from device time are measurements and differ each time: they are shown, not compared"
    if report.compared:
        yield _verdict(report)


def _is_timed(it: Comparison) -> bool:
    """Whether its cost was left out of what is compared."""
    told = any(change.kind == "cost" for change in it.changes)
    return it.state in ("same", "changed") and not told and it.now is not None and by_time(it.now)


def _about(it: Comparison) -> Iterator[str]:
    """What there is to say of a run: nothing where all is the same."""
    if it.state == "same":
        return
    there = it.now is not None and it.now.info.traits.remote and it.now.status != "refused"
    where = f" ({_NO_PROMISE})" if it.state == "changed" and there else ""
    told = "; ".join(_told(change) for change in it.changes) or f"{it.state}: {it.why}"
    yield f"{it.name}: {told}{where}"
    if it.changes:
        if it.why:
            yield f"  {it.why}"
        if it.reasons:
            yield f"  what differs: {'; '.join(str(reason) for reason in it.reasons)}"


def _told(change: Change) -> str:
    if change.kind == "text":
        return f"the text changed {change.where}".rstrip()
    return f"{change.what} {change.was} → {change.now}"


def _verdict(report: Report) -> str:
    if report.changed:
        compared = numbers.counted(report.compared, "compared run")
        return f"{len(report.changed)} of {compared} changed (against {report.against})"
    allowed = ", where more than that may change" if any(it.changes for it in report.comparisons) else ""
    unknown = sum(it.state == "same" and _text(it) != "same" for it in report.comparisons)
    but = f", but of {numbers.counted(unknown, 'run')} the text is not known" if unknown else ""
    return f"{numbers.counted(report.compared, 'run')} compared with {report.against}: the same{allowed}{but}"


def as_dict(report: Report) -> dict[str, Any]:
    """A report as JSON: money as decimal strings, unknown as null."""
    return {
        "notebook": report.notebook,
        "against": report.against,
        "ok": report.ok,
        "error": report.error,
        "problems": list(report.problems),
        "notes": list(report.notes),
        "allowed": sorted(report.allowed),
        "compared": report.compared,
        "changed": len(report.changed),
        "runs": [_comparison_dict(it) for it in report.comparisons],
    }


def _comparison_dict(it: Comparison) -> dict[str, Any]:
    return {
        "cell": it.cell,
        "run": it.run,
        "of": it.runs,
        "drawn": it.decoding,
        "state": it.state,
        "why": it.why or None,
        "changes": [_change_dict(change) for change in it.changes],
        "differences": [asdict(reason) for reason in it.reasons],
        "before": _run_dict(it.before),
        "now": _run_dict(it.now),
    }


def _change_dict(change: Change) -> dict[str, Any]:
    return {name: value for name, value in asdict(change).items() if name != "where" or value}


def _run_dict(run: RunSnapshot | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "run_id": run.run_id,
        "status": run.status,
        "model": run.info.name,
        "engine": run.info.engine or None,
        "input_tokens": run.usage.input_tokens,
        "output_tokens": run.usage.output_tokens,
        "finish_reason": run.finish_reason,
        "cost_usd": plain(run.usd),
        "answer_sha256": run.answer_sha256,
    }
