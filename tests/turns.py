"""What takes long is run in turns: a run of CI takes one of them, by its commit, and ``make test-all`` takes all.

A turn has some tests of each kind, so that each run meets the databases, the browser and the servers of others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

TURNS = 8
ALL = "all"


def turn_of(nodeid: str) -> int:
    """The turn that a test belongs to, from 1; the same in every process."""
    return zlib.crc32(nodeid.encode()) % TURNS + 1


def chosen(turn: str | None = None) -> int | None:
    """The turn that is asked for, by default in TOKMAGIC_TEST_TURN; None for all of them. Raises ValueError."""
    turn = os.environ.get("TOKMAGIC_TEST_TURN", ALL) if turn is None else turn
    if turn == ALL:
        return None
    if not turn.isdecimal() or not 1 <= int(turn) <= TURNS:
        raise ValueError(f"there is no turn {turn!r}; give a number from 1 to {TURNS}, or {ALL}")
    return int(turn)


def of_commit(folder: Path) -> int:
    """The turn of the commit that is checked out; the first where there is none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return int(done.stdout, 16) % TURNS + 1 if done.returncode == 0 else 1


def main() -> None:
    """Print the turn that the first word names, or the commit's."""
    try:
        turn = chosen(sys.argv[1]) if len(sys.argv) > 1 else of_commit(Path(__file__).parent)
    except ValueError as error:
        sys.exit(str(error))
    told = "all turns" if turn is None else f"turn {turn} of {TURNS}; TURN=N takes another one, TURN={ALL} all of them"
    sys.stderr.write(f"What takes long: {told}\n")
    sys.stdout.write(f"{turn or ALL}\n")


if __name__ == "__main__":
    main()
