"""What is made at its first use is made once, whichever threads come first; and a forked child makes its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = 16
PRICES = '[models.{model}]\ninput = "1"\noutput = "2"\n' + "".join(
    f'[models.other-{number}]\ninput = "1"\noutput = "2"\n' for number in range(400)
)
START = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import tokmagic
sys.setswitchinterval(1e-4)
"""
MANY = """
together = threading.Barrier({threads})
def ask(number):
    together.wait()
    return tokmagic.generate("Hi", max_tokens=2, cache=False)
with ThreadPoolExecutor({threads}) as pool:
    answers = list(pool.map(ask, range({threads})))
records = [it.record for it in answers]
print(len(records), len({{it.session for it in records}}), len({{it.info.tokenizer_sha256 for it in records}}))
print({{str(it.cost.usd is not None) for it in answers}}, {{record.status for record in tokmagic.ledger().runs()}})
"""


def script(source: str, folder: Path, **settings: str) -> str:
    """What a Python program prints that has settings of its own."""
    given = {"TOKMAGIC_HOME": str(folder), "TOKMAGIC_LEDGER": f"sqlite:///{folder}/ledger.sqlite", **settings}
    done = subprocess.run(
        [sys.executable, "-c", START + source], env={**os.environ, **given}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("model", ["scripted", pytest.param("smollm2", marks=[pytest.mark.model, pytest.mark.slow])])
def test_threads_that_come_first_together_share_one_session(
    tmp_path: Path, request: pytest.FixtureRequest, model: str
) -> None:
    home = request.getfixturevalue("tiny_home") if model == "smollm2" else tmp_path
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES.format(model=model))
    more = {"TOKMAGIC_MODEL": model, "TOKMAGIC_PRICES": str(prices), "TOKMAGIC_HOME": str(home)}
    told = script(MANY.format(threads=THREADS), tmp_path, **more)
    assert told.splitlines() == [f"{THREADS} 1 1", "{'True'} {'ok'}"]


FORK = """
import signal
first = tokmagic.generate("Hi", max_tokens=3, cache=False)
stop = threading.Event()
def go_on():
    while not stop.is_set():
        tokmagic.generate("Hi", max_tokens=3, cache=False)
threads = [threading.Thread(target=go_on) for _ in range({threads})]
for thread in threads:
    thread.start()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        again = tokmagic.generate("Hi", max_tokens=3, cache=False)
        os._exit(0 if again.text == first.text else 1) if {hard} else sys.exit(0 if again.text == first.text else 1)
    children.append(child)
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads:
    thread.join()
tokmagic.generate("Hi", max_tokens=3, cache=False)
rows = tokmagic.ledger().runs()
print(ends, {{row.status for row in rows}}, len(rows) == len({{row.run_id for row in rows}}))
"""


@pytest.mark.parametrize(
    ("model", "threads", "hard"),
    [
        ("scripted", 3, False),
        pytest.param("scripted", 3, True, marks=pytest.mark.slow),
        pytest.param("smollm2", 0, True, marks=(pytest.mark.model, pytest.mark.slow)),
        pytest.param("smollm2", 3, False, marks=(pytest.mark.model, pytest.mark.slow)),
    ],
)
def test_a_forked_child_runs_what_its_parent_used(
    tmp_path: Path, request: pytest.FixtureRequest, model: str, threads: int, hard: bool
) -> None:
    home = request.getfixturevalue("tiny_home") if model == "smollm2" else tmp_path
    more = {"TOKMAGIC_MODEL": model, "TOKMAGIC_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    told = script(FORK.format(threads=threads, hard=hard), tmp_path, **more)
    assert told.splitlines() == ["[0, 0, 0, 0] {'ok'} True"]
