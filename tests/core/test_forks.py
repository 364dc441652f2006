"""Forks beside threads that work: none cuts a block in two, and none waits for ever for a moment without any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import first

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# Four threads that go from one block to the next: there is hardly a moment at which none is in one.
BUSY = """
import os, threading, time
from tokmagic.core import forks
from tokmagic.core.forks import whole
forks._LONGEST_S = 3600.0
forks.let_forks_wait()
stop, inside, cut = threading.Event(), [], []

def go_on():
    while not stop.is_set():
        with whole():
            inside.append(1)
            with whole():  # what is part of a block goes on while a fork waits for it
                time.sleep(0.003)
            inside.pop()

threads = [threading.Thread(target=go_on) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        with whole():
            os._exit(len(inside))
    cut.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
print(set(cut), len(inside))
"""
# Threads that open and close a ledger's file, as keeping a run for a server that is away does.
CLOSING = """
import os, signal, sys, threading
from tokmagic.ledgers import Ledger
sys.setswitchinterval(1e-5)
stop, ends = threading.Event(), set()

def go_on(number):
    ledger = Ledger(f"sqlite:///{number}.sqlite")
    while not stop.is_set():
        ledger.budgets(None, None)
        ledger.close()

threads = [threading.Thread(target=go_on, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        Ledger("sqlite:///child.sqlite").close()
        os._exit(0)
    ends.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if ends != {0}:
        break
stop.set()
for thread in threads:
    thread.join()
print(ends)
"""


@pytest.mark.parametrize(("script", "said"), first(1, [(BUSY, "{0} 0"), (CLOSING, "{0}")]), ids=["blocks", "ledgers"])
def test_children_of_a_busy_process_begin_and_go_on(script: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.strip() == said


MADE = """
import os, sys, threading
from tokmagic.core.forks import in_child

sys.setswitchinterval(1e-6)
marks = []

class Thing:
    def __init__(self):
        in_child(self.mark)

    def mark(self):
        marks.append(self)

kept = []

def make():
    for _ in range(100):
        kept.append(Thing())
        Thing()

threads = [threading.Thread(target=make) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
child = os.fork()
if not child:
    os._exit(0 if set(marks) == set(kept) and len(marks) == 400 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_each_of_what_threads_make_at_once_begins_anew_in_a_child() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MADE], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")
