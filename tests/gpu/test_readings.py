"""What NVML and torch tell of a real GPU agrees: devices, memory, energy. ``make test-gpu``, where there is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import pytest

from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.engines import gpu
from tokmagic.engines.gpu import Gpu
from tokmagic.engines.gpu.memory import split
from tokmagic.engines.gpu.visible import gpu_of
from tokmagic.engines.local.engine import LocalEngine
from tokmagic.runs.session import Session

pytestmark = [pytest.mark.gpu, pytest.mark.model]

STORY = Prompt((Message("user", "Write a very long story about a lighthouse keeper and the sea."),), Sampling(1000))
METERED_S = 12.0
"""Long enough that a power which is averaged over a second says the same as a counter."""


@pytest.fixture(scope="module")
def session(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("ledger")
    opened = Session(TokMagic(home=str(model_home), ledger=f"sqlite:///{folder}/ledger.sqlite"))
    opened.load()
    yield opened
    opened.close()


def used() -> Gpu:
    """The device that torch uses, as NVML sees it now."""
    found = gpu_of("cuda:0", gpu.look().devices)
    assert found is not None
    return found


def engine(session: Session) -> LocalEngine:
    loaded = session.load()
    assert isinstance(loaded, LocalEngine)
    return loaded


def test_torchs_device_is_nvmls_by_uuid(session: Session) -> None:
    import torch

    properties, device = torch.cuda.get_device_properties(0), used()
    assert device.uuid is not None
    if device.instance is None:
        assert device.uuid == f"GPU-{properties.uuid}"
    assert device.name == torch.cuda.get_device_name(0)
    assert device.total_bytes == pytest.approx(properties.total_memory, rel=0.05)
    load = device.load
    assert load.power_w is not None
    assert load.power_limit_w is not None
    assert 0 < load.power_w <= 1.2 * load.power_limit_w
    assert load.temperature_c is not None
    assert 0 < load.temperature_c < 110
    assert device.instance is not None or load.busy is not None


def test_the_parts_of_the_memory_add_up_and_none_is_negative(session: Session) -> None:
    session.generate(STORY, cache=False)
    loaded = engine(session)
    held, needed = loaded.held(), loaded.need()
    assert held is not None
    assert needed is not None
    assert held.weights_bytes == pytest.approx(needed.weights_bytes, rel=0.01)
    device = used()
    parts = split(device, held)
    assert parts is not None
    assert parts.total_bytes == device.total_bytes
    own = (parts.cache_bytes, parts.reserve_bytes, parts.context_bytes, parts.others_bytes or 0, parts.free_bytes)
    assert min(own) >= 0, parts
    assert parts.context_bytes > 0, "CUDA itself holds some"


def test_a_run_takes_no_more_than_was_said_before(session: Session) -> None:
    needed = engine(session).need()
    assert needed is not None
    assert needed.context_tokens is not None
    generation = session.generate(STORY, cache=False).raise_for_status()
    usage, peak = generation.usage, generation.reading.peak_bytes
    assert peak is not None
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    cache = needed.cache_bytes(tokens)
    assert cache is not None
    # At the last step the newest token is not in the cache yet. A cache may be made for the whole context at once, and
    # CUDA's libraries keep some room for themselves.
    most = needed.total_bytes(needed.context_tokens) + 512 * 2**20
    assert needed.weights_bytes + 0.95 * cache <= peak <= most


@contextmanager
def powers_read() -> Iterator[list[tuple[float, float]]]:
    """Read the power as often as it is renewed, beside what runs: seconds of the clock, and watts."""
    found: list[tuple[float, float]] = []
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.1):
            if (watts := used().load.power_w) is not None:
                found.append((time.perf_counter(), watts))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def test_energy_by_the_counter_is_power_by_time(session: Session) -> None:
    session.generate(STORY, cache=False)  # the power rises at first
    records = []
    with powers_read() as found:
        begun = time.perf_counter()
        while time.perf_counter() - begun < METERED_S:
            records.append(session.generate(STORY, cache=False).raise_for_status().record)
        ended = time.perf_counter()
    watts = fmean(power for at, power in found if begun + 1 <= at <= ended)
    device_s = sum(record.reading.device_s or 0 for record in records)
    output_tokens = sum(record.reading.usage.output_tokens or 0 for record in records)
    assert all(record.energy_j is not None for record in records)
    joules = sum(record.energy_j or 0 for record in records)
    assert records[0].env["energy"]["meter"] == "NVML energy counter"
    assert joules / output_tokens == pytest.approx(watts * device_s / output_tokens, rel=0.10)
    if used().instance is None and used().others_bytes(is_used=True) == 0:
        assert {record.energy_bound for record in records} == {"exact"}
    else:
        assert {record.energy_bound for record in records} == {"at_most"}


def test_mig_instances_are_told_apart(session: Session) -> None:
    instances = [device for device in gpu.look().devices if device.instance is not None]
    if not instances:
        pytest.skip("no GPU here is divided by MIG")
    assert len({device.uuid for device in instances}) == len(instances)
    assert all("MIG" in device.name for device in instances)
    device = used()
    assert device in instances or device.instance is not None
    assert session.generate(STORY, cache=False).record.energy_bound == "at_most", "the counter is the whole board's"
