"""A network that goes away without a word, as a VPN does: no run waits long for a ledger behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

# In a network of its own, whose only interface is taken down: what is sent is lost, and nobody says so.
SCRIPT = """
import json, subprocess, tempfile, time, warnings
from contextlib import suppress
from pathlib import Path
from tests.ledgers.test_team import ASK
from tests.postgres import new_database, running_postgres
from tokmagic.core.config import TokMagic
from tokmagic.errors import LedgerError
from tokmagic.ledgers import backend, way
from tokmagic.runs.session import Session

def network(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)

warnings.simplefilter("ignore")
backend.BUSY_S = way.SILENT_S = 2.0
way.AWAY_S = 1.0
network("up")
with tempfile.TemporaryDirectory() as name, running_postgres(Path(name)) as address:
    session = Session(TokMagic(home=f"{name}/home", ledger=new_database(address), model="scripted"))
    runs = [session.generate(ASK)]
    network("down")
    runs += [session.generate(ASK) for _ in range(2)]
    network("up")
    kept = {}
    while not {it.run_id for it in runs} <= set(kept):
        time.sleep(0.5)
        session.generate(ASK)
        with suppress(LedgerError):
            kept = {it.run_id: it.status for it in session.ledger().runs()}
    print(json.dumps([kept[it.run_id] for it in runs]))
    session.close()
"""


@pytest.fixture
def apart() -> list[str]:
    """The beginning of a command that runs in a network of its own."""
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child"]  # so the server ends with it in any case
    if shutil.which("unshare") is None or shutil.which("ip") is None or subprocess.run([*command, "true"]).returncode:
        pytest.skip("no network of one's own can be made here")
    return command


def test_a_network_that_goes_away_holds_no_run_up(apart: list[str]) -> None:
    done = subprocess.run([*apart, sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=150)
    assert (done.stderr, done.returncode) == ("", 0)
    assert json.loads(done.stdout.splitlines()[-1]) == ["ok", "ok", "ok"]
