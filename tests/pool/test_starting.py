"""Pools that cannot start: what is said, in one line, and that nothing is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pool.pools import Pool

pytestmark = pytest.mark.slow


def test_a_model_that_no_replica_can_open(pool_python: Path, tmp_path: Path) -> None:
    pool = Pool(pool_python, tmp_path, "scripted:/nowhere.json", "--pool")
    pool.child.communicate(timeout=400)
    assert pool.child.returncode == 1
    said = [line for line in pool.err.read_text(encoding="utf-8").splitlines() if line.startswith("tokmagic: ")]
    assert len(said) == 1
    assert said[0].startswith("tokmagic: the pool could not be started: /nowhere.json is not a script: ")


def test_a_cluster_that_is_not_there(pool_python: Path, tmp_path: Path) -> None:
    pool = Pool(pool_python, tmp_path, "scripted", "--pool-address", "127.0.0.1:1")
    try:
        pool.child.communicate(timeout=120)
    finally:
        pool.child.kill()
    assert pool.child.returncode == 1
    last = pool.err.read_text(encoding="utf-8").splitlines()[-1]
    assert last.startswith("tokmagic: the pool's cluster at 127.0.0.1:1 cannot be used: Connection refused; ")
