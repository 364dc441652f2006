"""``tokmagic export``: recorded runs, one a line."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tokmagic.cli.common import add_selection, selection
from tokmagic.reports import exports
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", help="jsonl (default), csv or parquet; else by FILE's ending")
    verb.add_argument("-o", "--output", metavar="FILE", help="file to write (-: standard output)")
    add_selection(verb)
    told = "only what sums have: no run that goes on, and of a run that client and server recorded one row"
    verb.add_argument("--once", action="store_true", help=told)


def run(given: argparse.Namespace) -> int:
    """Write the runs."""
    beside = exports.Beside()
    rows = api.ledger().stream(replace(selection(given), once=given.once))
    records = beside.of(it for it in rows if not (given.once and it.status == "running"))
    if given.output and given.output != "-":
        path = Path(given.output)
        exports.export_file(records, path, given.format or (None if path.suffix else "jsonl"))
    else:
        sys.stdout.writelines(exports.export_lines(records, given.format or "jsonl"))
    if beside.note:
        print(beside.note, file=sys.stderr)
    return 0
