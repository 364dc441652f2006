"""``tokmagic report``: tokens, cost and latency of recorded runs."""

from __future__ import annotations

import argparse
import sys

from tokmagic import reports
from tokmagic.cli.common import add_json, add_selection, print_table, selection
from tokmagic.errors import UsageError
from tokmagic.formatting.tables import Table
from tokmagic.prices.projection import calls_a_day, project
from tokmagic.reports.csv_lines import csv_lines
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--by", help="cell, run, model, notebook, day, tag, user, status, key or team")
    kind = verb.add_mutually_exclusive_group()
    kind.add_argument("--waste", action="store_true", help="runs that cost something and gave nothing new")
    told = "what the runs would cost today, next to their recorded cost"
    kind.add_argument("--reprice", action="store_true", help=told)
    kind.add_argument("--project", metavar="N/UNIT", help="what a measured cell costs at scale, such as 1e6/day")
    told = "with --project: the cell's number in the table, or its id (default: the latest that ran)"
    verb.add_argument("--cell", metavar="CELL", help=told)
    add_selection(verb)
    told = "print CSV without a total, such as a month's bill: --month 2026-11 --by team --csv"
    verb.add_argument("--csv", action="store_true", help=told)
    add_json(verb)


def run(given: argparse.Namespace) -> int:
    """Print the table that is asked for."""
    if given.csv:
        for option, value in vars(given).items():
            if option in ("json", "waste", "reprice", "project") and value:
                raise UsageError(f"--csv cannot be used with --{option}")
        table = _table(given)
        sys.stdout.writelines(csv_lines(table))
        if table.note:
            print(table.note, file=sys.stderr)
        return 0
    return print_table(_table(given), given)


def _table(given: argparse.Namespace) -> Table:
    if given.by and (given.waste or given.project):
        raise UsageError(f"--by cannot be used with {'--waste' if given.waste else '--project'}")
    if given.cell and not given.project:
        raise UsageError("--cell needs --project")
    if given.project is not None:
        calls_a_day(given.project, "--project")  # before any run is looked up
    where, ledger = selection(given), api.ledger()
    if where.notebook is not None and not ledger.runs(where, limit=1):
        told = f"no such run of {where.notebook} is recorded; tokmagic report --by notebook lists the notebooks"
        print(told, file=sys.stderr)
    if given.project is not None:
        return project(reports.cell_runs(ledger, where, given.cell), given.project).table()
    if given.waste:
        return reports.waste(ledger, where)
    if given.reprice:
        return reports.repriced(ledger, where, api.session().prices, given.by or "model")
    return reports.table(ledger, where, given.by or "cell")
