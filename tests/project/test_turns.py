"""What takes long is run in turns: each test has one, and a run takes one turn or all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.turns import TURNS, Turn, chosen, main, named, of_commit

FILE = "tests/project/test_turns.py"
LONG = TURNS["test-long"]


def collected(turn: str) -> list[str]:
    """The ids of this file's tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", FILE]
    env = {**os.environ, "TOKMAGIC_TEST_TURN": turn}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith(FILE)]


@pytest.mark.parametrize("turns", [*range(1, 12), 100])
def test_a_test_is_in_one_turn(turns: int) -> None:
    ids = [f"tests/room/test_file_{it % 40}.py::test_something[{it}]" for it in range(1000)]
    counts = Counter(number for it in ids for number in range(1, turns + 1) if Turn(number, turns).has(it))
    assert counts.total() == len(ids)
    assert set(counts) == set(range(1, turns + 1))


def test_a_run_takes_the_tests_of_its_turn() -> None:
    everything, first, second = (collected(it) for it in ("all", "1/2", "2/2"))
    assert first == [it for it in everything if Turn(1, 2).has(it)]
    assert second == [it for it in everything if Turn(2, 2).has(it)]
    assert sorted(first + second) == sorted(everything)
    assert first and second, "a run of no tests would fail"  # noqa: PT018


def test_all_tests_are_run_where_no_turn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKMAGIC_TEST_TURN", raising=False)
    assert chosen() is None
    monkeypatch.setenv("TOKMAGIC_TEST_TURN", "all")
    assert chosen() is None
    monkeypatch.setenv("TOKMAGIC_TEST_TURN", "3/8")
    assert chosen() == (3, 8)


@pytest.mark.parametrize(
    ("word", "turn"),
    [("all", None), ("1", (1, LONG)), (str(LONG), (LONG, LONG)), ("0", ""), (str(LONG + 1), ""), ("x", "")],
)
def test_a_turn_is_named_by_its_number(word: str, turn: tuple[int, int] | str | None) -> None:
    if turn == "":
        with pytest.raises(ValueError, match=f"test-long has no turn '{word}'; give a number from 1 to {LONG}, or all"):
            named("test-long", word)
    else:
        assert named("test-long", word) == turn


def test_a_commit_has_a_turn(tmp_path: Path) -> None:
    assert of_commit(tmp_path) == ("test-long", 1), "an unpacked archive has no commit"
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm"]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    expected = [(target, number + 1) for target, turns in TURNS.items() for number in range(turns)]
    for message in "abc":
        subprocess.run(["git", *commit, message], cwd=tmp_path, check=True)
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert of_commit(tmp_path) == expected[int(done.stdout, 16) % len(expected)]


def test_what_is_printed_is_what_make_takes(capsys: pytest.CaptureFixture[str]) -> None:
    target, number = of_commit(ROOT)
    assert main([]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert main([target]) == 0
    assert capsys.readouterr().out == f"{number}/{TURNS[target]}\n"
    for other, turns in TURNS.items():
        assert main([other]) == 0
        assert main([other, "all"]) == 0
        assert main([other, str(turns + 1)]) == 1
        said = capsys.readouterr()
        assert said.out.splitlines()[1] == "all"
        assert f"{other} has no turn '{turns + 1}'" in said.err
