"""What takes long is run in turns: each test has one, and a run takes one turn or all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.turns import TURNS, chosen, of_commit, turn_of

FILE = "tests/project/test_turns.py"


def collected(**env: str) -> list[str]:
    """The ids of this file's tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", FILE]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith(FILE)]


@pytest.mark.parametrize("number", range(16))
def test_a_test_has_a_turn(number: int) -> None:
    assert 1 <= turn_of(f"test number {number}") <= TURNS


def test_a_run_takes_the_tests_of_its_turn() -> None:
    everything, turn = collected(TOKMAGIC_TEST_TURN="all"), turn_of(f"{FILE}::test_a_test_has_a_turn[0]")
    assert f"{FILE}::test_a_test_has_a_turn[0]" in everything
    taken = collected(TOKMAGIC_TEST_TURN=str(turn))
    assert taken == [it for it in everything if turn_of(it) == turn]
    assert 0 < len(taken) < len(everything)


def test_turns_are_as_long_as_each_other() -> None:
    counts = Counter(turn_of(f"tests/room/test_file_{it % 40}.py::test_something[{it}]") for it in range(8000))
    assert set(counts) == set(range(1, TURNS + 1))
    assert all(0.9 < count * TURNS / 8000 < 1.1 for count in counts.values())


@pytest.mark.parametrize(
    ("turn", "expected"), [("all", None), ("1", 1), (str(TURNS), TURNS), ("0", ""), (str(TURNS + 1), ""), ("x", "")]
)
def test_a_turn_is_named_by_its_number(turn: str, expected: int | str | None) -> None:
    if expected == "":
        with pytest.raises(ValueError, match=f"there is no turn '{turn}'; give a number from 1 to {TURNS}, or all"):
            chosen(turn)
    else:
        assert chosen(turn) == expected


def test_a_commit_has_a_turn(tmp_path: Path) -> None:
    assert of_commit(tmp_path) == 1, "an unpacked archive has no commit"
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "first"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    named = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert of_commit(tmp_path) == int(named.stdout, 16) % TURNS + 1
