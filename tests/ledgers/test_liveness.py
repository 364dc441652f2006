"""Who lives, told by locked files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tokmagic.ledgers import liveness
from tokmagic.ledgers.liveness import FileLocks


@pytest.mark.parametrize("still_looks", [True, False])
def test_whoever_begins_while_others_look_for_the_dead_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_looks: bool
) -> None:
    """A file is there a moment before it is locked: who looks then takes it for one that a dead process left behind."""
    looked: list[FileLock] = []

    class Late(FileLock):
        """Another process has found the file before it is locked: it holds it still, or has taken it away."""

        def acquire(self, *given: Any, **options: Any) -> Any:
            if looked:
                return super().acquire(*given, **options)
            other = FileLock(self.lock_file, thread_local=False)
            looked.append(other)
            other.acquire()
            if still_looks:
                return super().acquire(*given, **options)
            other.release()
            got = super().acquire(*given, **options)
            Path(self.lock_file).unlink()
            return got

    monkeypatch.setattr(liveness, "FileLock", Late)
    mine = FileLocks(tmp_path)
    owner = mine.owner()
    monkeypatch.undo()
    looked[0].release()
    assert mine.owner() == owner
    assert (tmp_path / f"{owner}.lock").exists()
    assert not FileLocks(tmp_path).is_dead(owner)
