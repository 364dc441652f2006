"""One process's part of a random schedule: threads, interrupts and forks, each running prompts in one ledger.

``python -m tests.runs.schedules`` reads a schedule a line, as JSON, and forks a child for each: importing tokmagic
takes longer than a schedule. What a run ended as is written to the schedule's pipe, which closes when the last process
has ended.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from tokmagic.core.config import TokMagic
from tokmagic.core.money import Rates
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines.base import ModelSpec
from tokmagic.ledgers import backend
from tokmagic.runs import recorder
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),), Sampling(max_tokens=10))
DOLLAR_A_TOKEN = Rates(input=Decimal(0), output=Decimal(1_000_000), source="%price")
LONGEST_S = 120


@dataclass(frozen=True)
class Schedule:
    """What one process does, drawn from its seed."""

    seed: int
    url: str
    home: str
    user: str
    pipe: str
    model: str
    patience_s: float
    api_base: str | None = None

    @property
    def line(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    """Fork a child for each line."""
    warm_up()
    for line in sys.stdin:
        schedule = Schedule(**json.loads(line))
        told = os.open(schedule.pipe, os.O_WRONLY)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                limit_time()
                perform(schedule, told)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(told)
        os.write(1, f"{child}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


def limit_time() -> None:
    """A process that hangs tells where, and dies."""
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.alarm(LONGEST_S)


def warm_up() -> None:
    """Import what runs import, and leave nothing open: no fork may cut an import of another thread's in two."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(TokMagic(home=folder, model="scripted"))
        session.models.add("m", ModelSpec("org/m", api_base="http://127.0.0.1:9/v1"))
        for model in ("scripted", "m"):
            session.generate(ASK, model, budget="1")
        session.close()


def perform(schedule: Schedule, told: int) -> None:
    """Run prompts on several threads, in the main thread between interrupts, and in forked children."""
    backend.BUSY_S, recorder.PAY_AGAIN_S = schedule.patience_s, 0.05
    os.environ["LOGNAME"] = schedule.user
    session, dice = Session(TokMagic(home=schedule.home, ledger=schedule.url)), random.Random(schedule.seed)
    session.models.add("m", ModelSpec(schedule.model, api_base=schedule.api_base))
    session.prices.set("m", DOLLAR_A_TOKEN)
    threads = [
        threading.Thread(target=run, args=(session, told, dice.randint(1, 3))) for _ in range(dice.choice([0, 1, 4]))
    ]
    moments = [dice.uniform(0.0, 0.2) for _ in range(dice.choice([0, 1, 3]))]
    main_thread, begun, over = threading.get_ident(), threading.Event(), threading.Event()

    def interrupt() -> None:
        begun.wait()  # an interrupt while threads start would be one of this test's own
        for moment in moments:
            if over.wait(moment):
                return
            signal.pthread_kill(main_thread, signal.SIGINT)

    interrupts = threading.Thread(target=interrupt)
    for thread in [*threads, interrupts]:
        thread.start()
    children: list[int] = []
    numbers = iter(range(4))
    # Up to three come, at any moment until they are ignored: between two runs, or while another is being caught, too.
    for _ in range(4):
        with suppress(KeyboardInterrupt):
            begun.set()
            for number in numbers:
                with suppress(KeyboardInterrupt):
                    if number and dice.random() < 0.3:
                        children.append(forked(session, told))
                    run(session, told, 1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            break
    over.set()
    for thread in [*threads, interrupts]:
        thread.join()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    settle(session)


def forked(session: Session, told: int) -> int:
    """A child that runs prompts with its parent's session, whatever that is doing at this moment."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            limit_time()
            run(session, told, 2)
            settle(session)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def run(session: Session, told: int, times: int) -> None:
    """Run prompts and tell what each ended as."""
    for _ in range(times):
        generation = session.generate(ASK, "m")
        said: dict[str, Any] = {"run_id": generation.run_id, "status": generation.status}
        os.write(told, f"{json.dumps(said)}\n".encode())


def settle(session: Session) -> None:
    """Wait until nothing is owed any more, as a kernel does that goes on, and end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(Exception):
            mine = [it for it in session.ledger().runs() if it.session == session.session_id]
            if all(it.status != "running" for it in mine):
                break
        time.sleep(0.02)
    session.close()


if __name__ == "__main__":
    main()
