"""A killed process whose forked child lives on: nothing of it stays, neither what it held nor what it had locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal

import pytest

from tests.ledgers.test_interrupts import locked
from tests.ledgers.test_store import asked, run
from tokmagic.core.budget import Budget, Hold
from tokmagic.ledgers import Ledger

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# Its transactions are ones of connections that its child has inherited: they were made before.
PARENT = """
import os, sys, time
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from tests.ledgers.test_store import run
from tokmagic.core.budget import Budget, Hold
from tokmagic.ledgers import Ledger

ledger = Ledger(sys.argv[1], patience_s=60)
hold, day = Hold(usd=Decimal(1), tokens=0), Budget("day", Decimal(9))
ledger.begin(run("begun", status="running", user="ada"), (), hold)
child = os.fork()
if child == 0:
    with suppress(KeyboardInterrupt):
        time.sleep(120)
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
ledger.admit(run("admitted", user="ada"), (), hold, [day], datetime.now())
"""
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@contextmanager
def orphan(url: str) -> Iterator[int]:
    """The child of a process that was killed as it waited in the middle of an admission."""
    command = [sys.executable, "-W", "ignore", "-c", PARENT, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            with locked(url):
                parent.stdin.write("\n")
                parent.stdin.flush()
                deadline = time.monotonic() + 30
                while url.startswith("postgresql") and asked(url, WAITING) == [0]:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                parent.kill()
                parent.wait(30)  # until then it holds what it held
            yield child
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)


def test_nothing_stays_of_a_killed_process_while_its_child_lives(database_url: str) -> None:
    with orphan(database_url) as child, closing(Ledger(database_url, patience_s=10)) as ledger:
        budget = Budget("day", Decimal(1))
        admission = ledger.admit(run("mine", user="ada"), (), Hold(usd=Decimal(1), tokens=0), [budget], datetime.now())
        assert admission.refused is None
        assert {it.run_id: it.status for it in ledger.runs()} == {"begun": "interrupted", "mine": "ok"}
        os.kill(child, 0)
