"""``%cost``: what this notebook's runs cost, as a table, a chart, a file or a projection."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokmagic import reports
from tokmagic.core.files import expanded, read_file
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics.shell import Shell
from tokmagic.notebooks import check
from tokmagic.prices import loaded_usd
from tokmagic.prices.projection import calls_a_day, project
from tokmagic.prompts.options import add_tag_filter
from tokmagic.prompts.parser import Parser
from tokmagic.reports import exports
from tokmagic.reports.plots import plot
from tokmagic.runs.session import Session

ACTIONS = ("by", "compare", "df", "export", "plot", "project", "waste")
_TAKE_A_WORD = ("by", "compare", "export")


def parser() -> Parser:
    """The words and options of ``%cost``."""
    made = Parser("%cost")
    add = made.add_argument
    told = "by GROUP, compare OLD, df (pandas), export FILE, plot, project, waste; none: a line for each cell"
    add("action", nargs="?", choices=ACTIONS, help=told)
    told = "what to group by (cell, run, model, notebook, day, tag, user, status, key, team); the file; "
    add("value", nargs="?", help=f"{told}compare: an earlier .ipynb, or git:HEAD")
    add_tag_filter(made)
    add("--calls", metavar="N/UNIT", help="project: how often, such as 1e6/day (hour, day, week, month)")
    add("--cell", metavar="CELL", help="project: the cell's number in %%cost, or its id (default: the one run last)")
    return made


def run(at: Shell, line: str) -> Any:
    """Do what the words ask for. Raises UsageError, NotebookError, LedgerError."""
    options, session = at.parse(parser(), line), at.session
    _check(options)
    if options.action == "compare":
        return _compared(session, options.value)
    ledger, where = session.ledger(), replace(session.selection, tags=tuple(options.tag))
    if options.action is None:
        return _with_notes(reports.table(ledger, where), [reports.waste_line(ledger, where), *_loaded(session)])
    if options.action == "by":
        return _with_notes(reports.table(ledger, where, options.value or "cell"), _loaded(session))
    if options.action == "export":
        exports.export_file(ledger.stream(where), expanded(options.value))
        return None
    if options.action == "df":
        return exports.dataframe(ledger.stream(where))
    if options.action == "plot":
        return plot(ledger.stream(replace(where, once=True)))
    if options.action == "project":
        return project(reports.cell_runs(ledger, where, options.cell), options.calls).table()
    return reports.waste(ledger, where)


def _check(options: argparse.Namespace) -> None:
    """Refuse words that are missing, and those that would change nothing. Raises UsageError."""
    action, value = options.action, options.value
    if value is not None and action not in _TAKE_A_WORD:
        raise UsageError(f"%cost {action} takes no argument {value!r}")
    if action != "project" and (options.calls or options.cell):
        raise UsageError("--calls and --cell belong to %cost project")
    if action == "export" and not value:
        raise UsageError("%cost export needs a file, such as runs.csv, runs.jsonl or runs.parquet")
    if action == "compare" and not value:
        raise UsageError("%cost compare needs the earlier version: a file, or git:HEAD")
    if action == "compare" and options.tag:
        raise UsageError("--tag cannot be used with %cost compare, which reads the notebook's file")
    if action == "project" and not options.calls:
        raise UsageError("%cost project needs how often: --calls 1e6/day")
    if action == "project":
        calls_a_day(options.calls)  # before any run is looked up


def _compared(session: Session, earlier: str) -> Table:
    """The notebook's file beside an earlier version, cell by cell: what ``tokmagic check --against`` shows."""
    path = session.notebook
    if path is None or not Path(path).is_file():
        raise UsageError(
            "this notebook's file cannot be found from here; use: tokmagic check NOTEBOOK.ipynb --against OLD.ipynb"
        )
    notebook, against = check.read(read_file(path), Path(path).name), check.earlier(earlier, path)
    verdict = check.check(notebook, check.Limits(), against, new=against is None)
    return _with_notes(check.table(verdict), [*verdict.problems, f"{notebook.name} as it was last saved"])


def _with_notes(table: Table, notes: list[str]) -> Table:
    return replace(table, note="\n".join(note for note in (table.note, *notes) if note))


def _loaded(session: Session) -> list[str]:
    """What keeping models loaded is worth: a figure of the engine, in no run's row."""
    notes = []
    for name, seconds in session.loaded_s().items():
        rates = session.rates(session.info(name))
        if rates.device_hour is not None:
            worth = numbers.usd(loaded_usd(seconds, rates.device_hour))
            notes.append(
                f"{name} has been loaded for {numbers.seconds(seconds)}, idle time included: {worth} "
                f"at {numbers.usd(rates.device_hour)} an hour ({rates.source})"
            )
    return notes
