"""Writers of one process take turns: a long line is no locked database."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tokmagic.ledgers.line import Line

PATIENCE_S = 2.5
"""For so much longer than a turn a busy machine may keep one from ending."""
TURN_S = 0.1
MANY = 30


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 4])
def test_whoever_waits_behind_many_gets_through(at_once: int) -> None:
    """All of them take longer than one is patient for."""
    assert MANY * TURN_S > PATIENCE_S
    line, there, most = Line(at_once, PATIENCE_S), [0], [0]

    def write(_number: int) -> None:
        with line.turn():
            there[0] += 1
            most[0] = max(most[0], there[0])
            time.sleep(TURN_S)
            there[0] -= 1

    with ThreadPoolExecutor(MANY * at_once) as pool:
        list(pool.map(write, range(MANY * at_once)))
    assert 1 <= most[0] <= at_once


@pytest.mark.slow
def test_behind_one_that_does_not_get_through_all_are_told_at_once() -> None:
    line, over = Line(1, PATIENCE_S), threading.Event()

    def hang() -> None:
        with line.turn():
            over.wait(60)

    def wait(_number: int) -> bool:
        try:
            with line.turn():
                return True
        except TimeoutError:
            return False

    with ThreadPoolExecutor(MANY + 1) as pool:
        stuck = pool.submit(hang)
        began = time.monotonic()
        assert not any(pool.map(wait, range(MANY)))
        assert time.monotonic() - began < MANY * PATIENCE_S, "not one after another"
        over.set()
        stuck.result()
        assert all(pool.map(wait, range(MANY)))


@pytest.mark.slow
def test_an_error_of_the_database_moves_nobody_and_another_error_does() -> None:
    """A refusal is an answer of the database's; that it is locked is none."""
    line = Line(1, PATIENCE_S)

    def fail(error: Exception) -> None:
        with line.turn():
            time.sleep(TURN_S)
            raise error

    def through(error: Exception) -> int:
        def one(_number: int) -> bool:
            try:
                fail(error)
            except TimeoutError:
                return False
            except type(error):
                return True
            raise AssertionError("it raises")

        with ThreadPoolExecutor(MANY) as pool:
            return sum(pool.map(one, range(MANY)))

    assert through(ValueError("refused")) == MANY
    assert through(sqlite3.OperationalError("locked")) < MANY
