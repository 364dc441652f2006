"""The GPU in the sidebar's head: read at most once a second, and only where a loaded model is on one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.nvml import Device, Functions, install
from tokmagic.core.config import TokMagic
from tokmagic.core.record import EngineInfo
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.fit import Held, Need
from tokmagic.engines.registry import Models
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.runs.gpu_readings import GpuReadings
from tokmagic.runs.session import Session

GIB = 2**30


class OnDevice(ScriptedEngine):
    """A scripted model whose weights are on a device."""

    def __init__(self, name: str, device: str, weights: int) -> None:
        super().__init__(name, [Script.of_text(["Yes."])])
        self._device, self._weights = device, weights

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, device=self._device)

    def need(self) -> Need | None:
        return None

    def held(self) -> Held | None:
        return Held(self._weights, 15 * GIB, 19 * GIB)

    def require_room(self, progress: Any, freed_bytes: int) -> None:
        raise NotImplementedError


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def settings(tmp_path: Path) -> TokMagic:
    return TokMagic(home=str(tmp_path))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.delitem(sys.modules, "tokmagic.engines.local.device", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Device(total=140 * GIB, used=29 * GIB, processes={os.getpid(): 20 * GIB, 17: 8 * GIB}, power=412_000)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, board: Device) -> Functions:
    return install(monkeypatch, board)


def registered(models: Models, *engines: OnDevice) -> Models:
    for engine in engines:
        models.register(engine, ModelSpec("scripted"))
        engine.load(lambda _doing, _share: None)
    return models


def test_a_device_is_read_once_a_second_at_most(nvml: Functions, board: Device, settings: TokMagic) -> None:
    clock = Clock()
    readings = GpuReadings(registered(Models(settings), OnDevice("m", "cuda:0", 12 * GIB)), clock)
    first = readings.of("m")
    assert first is not None
    assert (first.gpu.load.busy, first.gpu.load.power_w, first.gpu.total_bytes) == (0.37, 412.0, 140 * GIB)
    board.busy = (90, 50)
    clock.now_s += 0.9
    assert readings.of("m") is first
    clock.now_s += 0.2
    second = readings.of("m")
    assert second is not None
    assert second.gpu.load.busy == 0.9
    assert second.at > first.at


def test_the_memory_is_split_among_this_model_others_and_the_rest(nvml: Functions, settings: TokMagic) -> None:
    models = registered(
        Models(settings),
        OnDevice("m", "cuda:0", 10 * GIB),
        OnDevice("other", "cuda:0", 2 * GIB),
        OnDevice("elsewhere", "cuda:1", 7 * GIB),
    )
    reading = GpuReadings(models).of("m")
    assert reading is not None
    split = reading.split
    assert split is not None
    assert (split.weights_bytes, split.other_weights_bytes, split.cache_bytes) == (10 * GIB, 2 * GIB, 3 * GIB)
    assert (split.reserve_bytes, split.others_bytes) == (4 * GIB, 8 * GIB)
    assert split.total_bytes == 140 * GIB


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_where_there_is_no_such_gpu_there_is_no_reading(nvml: Functions, settings: TokMagic, device: str) -> None:
    readings = GpuReadings(registered(Models(settings), OnDevice("m", device, GIB)))
    assert readings.of("m") is None
    assert readings.of("smollm2") is None, "it is not loaded"


def test_where_nvml_cannot_be_used_there_is_no_reading(
    monkeypatch: pytest.MonkeyPatch, board: Device, settings: TokMagic
) -> None:
    install(monkeypatch, board, fails=9)
    assert GpuReadings(registered(Models(settings), OnDevice("m", "cuda:0", GIB))).of("m") is None


def test_a_session_tells_of_it_in_its_view(nvml: Functions, make_session: Callable[..., Session]) -> None:
    session = make_session()
    registered(session.models, OnDevice("m", "cuda:0", 10 * GIB))
    session.use("m")
    model = session.changes().model
    assert model is not None
    assert model.gpu is not None
    assert model.gpu.gpu.name == "NVIDIA H200"
    session.use("smollm2")
    model = session.changes().model
    assert model is not None
    assert model.gpu is None
