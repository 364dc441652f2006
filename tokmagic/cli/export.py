"""``tokmagic export``: recorded runs, one a line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tokmagic.cli.common import add_selection, selection
from tokmagic.reports import exports
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", help="jsonl (default), csv or parquet; else by FILE's ending")
    verb.add_argument("-o", "--output", metavar="FILE", help="file to write (-: standard output)")
    add_selection(verb)


def run(given: argparse.Namespace) -> int:
    """Write the runs."""
    records = api.ledger().stream(selection(given))
    if given.output and given.output != "-":
        path = Path(given.output)
        exports.export_file(records, path, given.format or (None if path.suffix else "jsonl"))
    else:
        sys.stdout.writelines(exports.export_lines(records, given.format or "jsonl"))
    return 0
