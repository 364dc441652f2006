"""``tokmagic ledger move``: the ledger, copied into another database."""

from __future__ import annotations

import argparse
import sys

from tokmagic.core.config import TokMagic
from tokmagic.formatting.numbers import counted
from tokmagic.ledgers import Ledger
from tokmagic.ledgers.move import move
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    told = "move: copy every ended run into the ledger at URL"
    verb.add_argument("action", metavar="ACTION", choices=["move"], help=told)
    verb.add_argument("url", metavar="URL", help="such as postgresql+psycopg://user@host/database")


def run(given: argparse.Namespace) -> int:
    """Copy, and tell what was."""
    # Whether the target keeps texts follows from what it is, unless the setting says so.
    target = Ledger(given.url, store_text=TokMagic(ledger=given.url).store_text)
    try:
        moved = move(api.ledger(), target)
    finally:
        target.close()
    left = f"; {moved.running} still run, copy again when they have ended" if moved.running else ""
    if moved.budgets_left:
        left += f"; {counted(moved.budgets_left, 'budget')} of {target.name} left unchanged"
    if moved.keys_left:
        left += f"; {counted(moved.keys_left, 'key')} not copied, since {target.name} has others of these names"
    if moved.keys:
        left = f"; {counted(moved.keys, 'key')} copied{left}"
    what = f"{counted(moved.runs, 'run')}, {counted(moved.texts, 'text')} and {counted(moved.answers, 'cached answer')}"
    print(f"{what} copied into {target.name}, {counted(moved.present, 'run')} already there{left}")
    print("use it from now on with TOKMAGIC_LEDGER (the ledger copied from is unchanged)", file=sys.stderr)
    return 0
