"""What ``%model info`` says of memory, before and after a model is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.test_fit import SMOLLM, WEIGHTS, folder
from tests.nvml import GIB, Device, install
from tokmagic.engines.base import ModelSpec, Progress
from tokmagic.engines.fit import Held, KvCache, Need
from tokmagic.engines.local.engine import LocalEngine
from tokmagic.magics.memory import memory_rows
from tokmagic.runs.session import Session

Make = Callable[..., Session]
MIB = 2**20


@pytest.fixture
def session(make_session: Make, tmp_path: Path) -> Session:
    """A session that knows a model of known sizes, by its files, and one whose cache is not known."""
    made = make_session()
    for name, config in (("m", SMOLLM), ("odd", {**SMOLLM, "state_size": 16})):
        (tmp_path / name).mkdir()
        made.models.add(name, ModelSpec(str(folder(tmp_path / name, config, **WEIGHTS)), device="cpu"))
    return made


def told(session: Session, name: str, context: int | None = None, batch: int = 1) -> dict[str, str]:
    engine = session.models.engine(name)
    assert isinstance(engine, LocalEngine)
    return dict(memory_rows(session, name, engine, context, batch))


@pytest.mark.parametrize(
    ("free", "context", "batch", "fits", "most"),
    [
        (
            1000,
            None,
            1,
            "yes: 250 MiB needed, 1000 MiB there on cpu",
            "8,192 tokens for 1 answer, or 4 answers of 8,192",
        ),
        (150, None, 1, "not all: 250 MiB needed, 150 MiB there on cpu", "3,642 tokens for 1 answer"),
        (
            150,
            1_000,
            2,
            "yes: 127 MiB needed, 150 MiB there on cpu",
            "1,501 tokens for 2 answers, or 2 answers of 1,000",
        ),
        (
            50,
            None,
            1,
            "no: 250 MiB needed, 50.0 MiB there on cpu; nothing smaller of this model fits",
            None,
        ),
    ],
)
def test_whether_it_fits_in_numbers(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    context: int | None,
    batch: int,
    fits: str,
    most: str | None,
) -> None:
    monkeypatch.setattr("tokmagic.magics.memory.free_bytes", lambda _device: free * MIB)
    found = told(session, "m", context, batch)
    assert found["weights"] == "55.9 MiB in bfloat16"
    assert found["KV cache"].endswith("; 22.5 KiB a token")
    assert found["fits"].startswith(fits)
    if most is None:
        assert "at most" not in found
    else:
        assert found["at most"].startswith(most)


def test_the_kv_cache_of_the_context_that_is_asked_for(session: Session) -> None:
    assert told(session, "m")["KV cache"] == "180 MiB for 8,192 tokens; 22.5 KiB a token"
    asked = told(session, "m", 1024, 4)
    assert asked["KV cache"] == "90.0 MiB for 1,024 tokens × 4; 22.5 KiB a token"
    assert asked["overhead"] == "~56.3 MiB"


def test_where_the_cache_is_not_known_only_the_weights_are(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokmagic.magics.memory.free_bytes", lambda _device: 100 * MIB)
    found = told(session, "odd")
    assert found["KV cache"] == "its configuration does not tell; only the weights are known"
    assert found["fits"] == "the weights do: 70.0 MiB needed, 100 MiB there on cpu"
    assert "at most" not in found
    monkeypatch.setattr("tokmagic.magics.memory.free_bytes", lambda _device: None)
    assert "fits" not in told(session, "odd")


@dataclass
class Loaded:
    """A model on a GPU, as its engine tells of it."""

    def need(self) -> Need:
        return Need("m", "bfloat16", 12 * GIB, KvCache(131_072, {4096: 1024}, at_most=True), 8192)

    def held(self) -> Held:
        return Held(12 * GIB, 15 * GIB, 19 * GIB)

    def require_room(self, progress: Progress, freed_bytes: int) -> None:
        raise NotImplementedError


def test_who_holds_the_gpus_memory(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = {os.getpid(): 20 * GIB}, {17: 9 * GIB}
    board = Device(total=80 * GIB, used=30 * GIB, reserved=GIB, processes=mine | theirs)
    install(monkeypatch, board)
    monkeypatch.delitem(sys.modules, "tokmagic.engines.local.device", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    session.models.add("m", ModelSpec("org/m", device="cuda:0"))
    found = dict(memory_rows(session, "m", Loaded(), None, 1))
    assert found["gpu 0"] == (
        "12.0 GiB weights, 3.0 GiB KV cache and activations, 4.0 GiB torch's reserve, 1.0 GiB CUDA's own, "
        "9.0 GiB other processes, 50.0 GiB free of 80.0 GiB"
    )
    assert found["KV cache"] == "≤1.0 GiB for 8,192 tokens; ≤128 KiB a token, 1.0 KiB of the last 4,096"
    # What it holds already it need not take again.
    assert found["fits"].startswith("yes: 13.0 GiB needed, 62.0 GiB there on cuda:0")
    board.processes = None
    found = dict(memory_rows(session, "m", Loaded(), None, 1))
    assert "10.0 GiB CUDA's own, — other processes, 50.0 GiB free" in found["gpu 0"]
