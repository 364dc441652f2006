"""A large comparison holds its answers, and nothing else that grows with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ten_thousand_items_leave_the_answers_in_memory(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.comparisons.memory", "10000", str(tmp_path)]
    told = json.loads(subprocess.run(program, check=True, capture_output=True, text=True, timeout=600).stdout)
    # 14 MB of answers with their numbers, 21 MB in all; the prompts would be 58 MB more. The rest is the items, and
    # what an allocator leaves between them.
    assert told["texts"] > 2_000_000
    assert told["prompts"] > 3 * told["answers"], "else it would not be seen whether they are kept"
    assert told["answers"] < told["grew"] < 1.75 * told["answers"]
    assert told["peak"] < 1.75 * told["answers"], "nor was there more while it ran"
