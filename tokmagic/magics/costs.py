"""``%cost``: which table, chart, file or projection its words ask for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokmagic import exports, numbers, report
from tokmagic.errors import UsageError, nearest
from tokmagic.events import RunRecord
from tokmagic.plots import plot
from tokmagic.prices import loaded_usd
from tokmagic.projection import project
from tokmagic.run import Session
from tokmagic.tables import Table

ACTIONS = ("by", "df", "export", "plot", "project", "waste")


def cost(session: Session, options: argparse.Namespace) -> Any:
    """Do what the words ask for. Raises UsageError, LedgerError."""
    ledger, here = session.ledger(), session.selection
    action = options.action
    if action in (None, "by"):
        by = (options.value or "cell") if action == "by" else "cell"
        return _with_loaded(session, report.table(ledger, here, by))
    if action == "df":
        return exports.dataframe(ledger.stream(here))
    if action == "export":
        if not options.value:
            raise UsageError("%cost export needs a file, such as runs.csv, runs.jsonl or runs.parquet")
        exports.export_file(ledger.stream(here), Path(options.value).expanduser())
        return None
    if action == "plot":
        return plot(ledger.stream(here))
    if action == "project":
        if not options.calls:
            raise UsageError("%cost project needs how often: --calls 1e6/day")
        return project(_cell_runs(session, options.cell), options.calls).table()
    if action == "waste":
        return report.waste(ledger, here)
    raise UsageError(f"%cost {action!r} is unknown{nearest(action, ACTIONS)}; use {', '.join(ACTIONS)}")


def _cell_runs(session: Session, cell: str | None) -> list[RunRecord]:
    """The runs of a cell: by its number in ``%cost``, by its id, or the one that ran last."""
    if cell is None:
        # The last that ran whole: a cell's latest run may be a replay, or have failed.
        last: RunRecord | None = None
        for record in session.ledger().stream(session.selection):
            last = record if record.status == "ok" else last
        if last is None:
            raise UsageError("there is no whole run to project from; run a cell first")
        cell_id = last.cell_id
    elif any(record.cell_id == cell for record in session.ledger().latest_by_cell(session.selection)):
        cell_id = cell
    else:
        names = report.cell_names()
        found = session.ledger().summarise(session.selection, "cell")
        numbered = {names(key).removeprefix("cell "): key[2] for key, _ in found}
        if cell.removeprefix("cell ") not in numbered:
            raise UsageError(f"--cell {cell!r} is no cell that ran here; %cost shows their numbers")
        cell_id = numbered[cell.removeprefix("cell ")]
    return [
        record
        for record in session.ledger().stream(replace(session.selection, cell_id=cell_id))
        if record.cell_id == cell_id
    ]


def _with_loaded(session: Session, table: Table) -> Table:
    """The table with what keeping models loaded is worth: a figure of the engine, in no run's row."""
    notes = [table.note] if table.note else []
    for name, seconds in session.loaded_s().items():
        rates = session.rates(session.info(name))
        if rates.device_hour is not None:
            worth = numbers.usd(loaded_usd(seconds, rates.device_hour))
            notes.append(
                f"{name} has been loaded for {numbers.seconds(seconds)}, idle time included: {worth} "
                f"at {numbers.usd(rates.device_hour)} an hour ({rates.source})"
            )
    return replace(table, note="\n".join(notes))
