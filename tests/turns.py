"""What takes long is run in turns: ``make test-long`` and ``make image-test`` take one of theirs, by the commit.

A run of CI takes a turn of one of both; ``make test-all`` takes all turns. A turn has tests of each kind, so that the
databases, the browser and the servers of others are met in each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

TURNS = {"test-long": 6, "image-test": 3}
"""How many turns each target has."""
ALL = "all"


class Turn(NamedTuple):
    """A turn, from 1, of so many."""

    number: int
    turns: int

    def has(self, nodeid: str) -> bool:
        """Whether a test belongs to it; the same in every process."""
        return zlib.crc32(nodeid.encode()) % self.turns + 1 == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.turns}"


def chosen() -> Turn | None:
    """The turn that TOKMAGIC_TEST_TURN names, as ``3/8``; None for all tests."""
    given = os.environ.get("TOKMAGIC_TEST_TURN", ALL)
    return None if given == ALL else Turn(*map(int, given.split("/")))


def named(target: str, word: str) -> Turn | None:
    """The turn of a target that a word names, such as ``3``; None for all of them. Raises ValueError."""
    turns = TURNS[target]
    if word == ALL:
        return None
    if not word.isdecimal() or not 1 <= int(word) <= turns:
        raise ValueError(f"{target} has no turn {word!r}; give a number from 1 to {turns}, or {ALL}")
    return Turn(int(word), turns)


def of_commit(folder: Path) -> tuple[str, int]:
    """The target that CI runs for the commit that is checked out, and its turn; the first where there is none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    all_turns = [(target, number + 1) for target, turns in TURNS.items() for number in range(turns)]
    return all_turns[int(done.stdout, 16) % len(all_turns) if done.returncode == 0 else 0]


def main(words: list[str]) -> int:
    """Print what a target's turn is, by its number or the commit; without a target, which one CI runs."""
    target, number = of_commit(Path(__file__).parent)
    if not words:
        sys.stdout.write(f"{target}\n")
        return 0
    asked, *given = words
    try:
        turn = named(asked, given[0] if given else str(min(number, TURNS[asked])))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    told = "all turns" if turn is None else f"turn {turn}; TURN=N takes another one, TURN={ALL} all of them"
    sys.stderr.write(f"{asked}: {told}\n")
    sys.stdout.write(f"{turn or ALL}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
