"""Random schedules of threads, interrupts, locks, forks and kills: each run ends once, holds return to 0, caps hold."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.ledgers.test_interrupts import locked, writable
from tests.ledgers.test_store import asked
from tests.runs.schedules import Schedule
from tests.servers import Asked, Wire, chunk, serve
from tokmagic.core.budget import Budget
from tokmagic.core.record import RunRecord, Selection
from tokmagic.errors import LedgerError
from tokmagic.ledgers import Ledger, Outbox

SCHEDULES = 50
"""Of each kind, in each database: 200 in all."""
AT_ONCE = 4
CAP = Decimal(60)
PIECES = 8
LONGEST_S = 150
ENDLESS = 14


def ignores_its_limit(_asked: Asked, wire: Wire) -> None:
    """A server that goes on past max_tokens, and tells its counts as it goes."""
    wire.open_stream()
    for number in range(1, ENDLESS + 1):
        counts = {"prompt_tokens": 12, "completion_tokens": number, "total_tokens": 12 + number}
        wire.event(chunk(" abc", usage=counts))
        if wire.gone.wait(0.01):
            return
    wire.event(chunk(reason="stop"))
    wire.end()


class Zygote:
    """A process that forks one for each schedule."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.runs.schedules"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def perform(self, schedule: Schedule, dice: random.Random) -> tuple[dict[str, str], bool]:
        """Carry a schedule out, with locks and a kill from here; return how runs ended, and whether it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.mkfifo(schedule.pipe)
        print(schedule.line, file=self._process.stdin, flush=True)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(Path(schedule.pipe).read_text().splitlines()))
        reader.start()  # until the last process that could write has ended
        child = int(self._process.stdout.readline())
        for _ in range(dice.choice([0, 1, 2])):
            time.sleep(dice.uniform(0.0, 0.2))
            with locked(schedule.url):
                time.sleep(dice.uniform(0.0, 0.4))
        killed = dice.random() < 0.4
        if killed:
            time.sleep(dice.uniform(0.0, 0.3))
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                killed = False
        status = int(self._process.stdout.readline())
        reader.join(LONGEST_S)
        assert not reader.is_alive(), "a process hangs"
        assert status in ({0, -signal.SIGKILL} if killed else {0})
        return {it["run_id"]: it["status"] for it in map(json.loads, lines)}, status != 0

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@contextmanager
def zygotes(count: int) -> Iterator[list[Zygote]]:
    made = [Zygote() for _ in range(count)]
    try:
        yield made
    finally:
        for it in made:
            it.close()


def settled(ledger: Ledger, user: str) -> list[RunRecord]:
    """A user's runs, when none of them goes on; a server notices a little later that a connection is gone."""
    deadline = time.monotonic() + 60
    while True:
        records = ledger.runs(Selection(user=user))
        if all(it.status != "running" for it in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.02)


def check(ledger: Ledger, schedule: Schedule, told: dict[str, str], *, killed: bool) -> None:
    # What a server's lock kept out of it waits on this machine, and the last process of all delivers nothing. Another
    # one may be at it, and what is kept of other schedules may meet their locks: both pass.
    outbox, deadline = Outbox.of(Path(schedule.home), schedule.url, store_text=True), time.monotonic() + 120
    while outbox and time.monotonic() < deadline:
        with suppress(LedgerError):
            if outbox.deliver(ledger):
                break
        time.sleep(0.02)
    records = settled(ledger, schedule.user)
    ended = {it.run_id: it.status for it in records}
    assert len(ended) == len(records)
    assert set(ended.values()) <= {"ok", "interrupted", "refused", "failed"}
    for run_id, status in told.items():
        # What is not there was told as not being recorded: the ledger was locked for longer than was waited.
        assert ended.get(run_id, status) == status or (killed and ended[run_id] == "interrupted"), run_id
        assert run_id in ended or schedule.patience_s < 1
    (standing,) = ledger.standings([Budget("day", CAP, user=schedule.user)], schedule.user, datetime.now())
    assert (standing.held_usd, standing.held_tokens) == (0, 0)
    # What had arrived when a stream was stopped is paid for.
    over = 0 if schedule.api_base is None else 6 * (ENDLESS - 10)
    assert standing.spent_usd <= CAP + over, [(it.status, it.reading.cost.usd, it.error) for it in records]
    if schedule.url.startswith("sqlite"):  # a server is shared with the locks of other schedules
        assert writable(schedule.url)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "server"])
def test_every_run_ends_once_whatever_happens(database_url: str, tmp_path: Path, kind: str) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"pieces": ["a"] * PIECES, "ttft_s": 0.01, "itl_s": 0.005, "pace": 1}))
    # A file has one writer at a time: with one of its own each schedule waits for itself and for its locks alone.
    urls = [f"{database_url}.{it}" if database_url.startswith("sqlite") else database_url for it in range(AT_ONCE)]
    with ExitStack() as stack:
        server = stack.enter_context(serve(ignores_its_limit))
        made = stack.enter_context(zygotes(AT_ONCE))
        ledgers = [stack.enter_context(closing(Ledger(url))) for url in urls]

        def carry_out(number: int) -> None:
            ledger = ledgers[number % AT_ONCE]
            dice = random.Random(number)
            of_server = kind == "server"
            schedule = Schedule(
                seed=number,
                url=urls[number % AT_ONCE],
                home=str(tmp_path / "home"),
                user=f"user-{kind}-{number}",
                pipe=str(tmp_path / f"pipe-{number}"),
                model="org/m" if of_server else f"scripted:{script}",
                patience_s=dice.choice([0.1, 10.0]),
                api_base=server.url if of_server else None,
            )
            ledger.set_budget(Budget("day", CAP, user=schedule.user))
            told, killed = made[number % AT_ONCE].perform(schedule, dice)
            check(ledger, schedule, told, killed=killed)

        def all_of(worker: int) -> None:
            for number in range(worker, SCHEDULES, AT_ONCE):
                carry_out(number)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(all_of, range(AT_ONCE)))
        for url, ledger in zip(urls, ledgers, strict=True):
            assert ledger.damage() is None
            assert asked(url, "SELECT count(*) FROM runs WHERE owner IS NOT NULL OR hold_pico IS NOT NULL") == [0]
