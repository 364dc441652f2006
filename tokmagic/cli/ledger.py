"""``tokmagic ledger``: the ledger, copied into another database, and what is kept for one that could not be reached."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tokmagic.core.config import TokMagic
from tokmagic.errors import UsageError
from tokmagic.formatting.numbers import counted
from tokmagic.ledgers import Ledger, Outbox
from tokmagic.ledgers.move import move
from tokmagic.ledgers.outbox import files_in
from tokmagic.runs import api


def add_options(verb: argparse.ArgumentParser) -> None:
    told = "move: copy every ended run into the ledger at URL; deliver: put the runs that wait in FILE into this one"
    verb.add_argument("action", metavar="ACTION", choices=["move", "deliver"], help=told)
    verb.add_argument("target", metavar="URL|FILE", help="such as postgresql+psycopg://user@host/database")


def run(given: argparse.Namespace) -> int:
    """Copy, or deliver, and tell what was."""
    return _deliver(Path(given.target)) if given.action == "deliver" else _move(given.target)


def _move(url: str) -> int:
    # Whether the target keeps texts follows from what it is, unless the setting says so.
    target = Ledger(url, store_text=TokMagic(ledger=url).store_text)
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


def _deliver(path: Path) -> int:
    # The file goes with what is in it, so that no other one may be named.
    if path.absolute() not in files_in(path.absolute().parent):
        raise UsageError(f"{path} has no runs that wait for a ledger; tokmagic doctor names the files that have")
    ledger = api.ledger()
    delivered = Outbox(path.absolute(), store_text=ledger.store_text).deliver(ledger)
    print(f"{counted(delivered, 'run')} delivered into {ledger.name}")
    return 0
