"""Meters of energy: NVML's counter, its power added up, and RAPL's counters, which begin again at 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml import GIB, Device, divided, install
from tokmagic.engines.energy import Board, Meter, NvmlPower, energy_meter
from tokmagic.engines.gpu.nvml import open_nvml


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tokmagic.engines.local.device", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def the(meter: Meter | None) -> Meter:
    assert meter is not None
    return meter


def test_a_gpus_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: Iterator[int | None] = iter([5_000, 5_000, 6_234, None])
    install(monkeypatch, Device(energy=lambda: next(readings), processes={os.getpid(): GIB}))
    meter = the(energy_meter("cuda:0"))
    assert (meter.name, meter.source) == ("NVML energy counter", "measured")
    assert [meter.joules(), meter.joules(), meter.joules()] == [5.0, 6.234, None]
    assert meter.is_shared() is False


def test_each_gpu_has_its_own_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Device(energy=1_000), Device(uuid="GPU-2", energy=2_000, processes={1: GIB, os.getpid(): GIB}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert [the(energy_meter(f"cuda:{number}")).joules() for number in range(2)] == [2.0, 1.0]
    assert [the(energy_meter(f"cuda:{number}")).is_shared() for number in range(2)] == [True, None]
    assert energy_meter("cuda:2") is None


def test_a_gpu_without_a_counter_is_metered_by_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(energy=None, power=100_000)
    install(monkeypatch, device)
    meter = the(energy_meter("cuda:0"))
    assert (meter.name, meter.source) == ("NVML power", "estimated")
    nvml, seconds = open_nvml(), iter([0, 1, 3, 4, 5])
    timed = NvmlPower(Board(nvml, next(nvml.handles())), lambda: next(seconds) * 10**9)
    readings = []
    # Where it is not read for a while, both sides of the gap count.
    for device.power in (100_000, 300_000, 300_000, None, 300_000):
        readings.append(timed.joules())
    assert readings == [0.0, 200.0, 800.0, None, 1400.0]


def test_a_mig_instance_has_its_boards_counter_and_is_shared_as_far_as_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, divided("1g.18gb", energy=7_000))
    meter = the(energy_meter("cuda:0"))
    assert (meter.joules(), meter.is_shared()) == (7.0, None)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1", "none", "mps"])
def test_what_has_no_meter(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    install(monkeypatch, Device(energy=None, power=None))
    assert energy_meter(device) is None
    install(monkeypatch, fails=12)
    assert energy_meter(device) is None


def test_nvml_stays_open_while_a_meter_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = install(monkeypatch, Device())
    meter = the(energy_meter("cuda:0"))
    open_nvml().ask("nvmlShutdown")
    assert functions.opened == 1
    assert meter.joules() == 1_000.0


def zone(powercap: Path, path: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    folder = powercap / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "energy_uj"


def test_the_packages_of_a_cpu_are_added_up(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_500_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    # Parts of a package, the whole platform, and the same package by another way.
    zone(tmp_path, "intel-rapl:0:0", "core", 700_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_500_000)
    meter = the(energy_meter("cpu", powercap=tmp_path))
    assert (meter.name, meter.source, meter.is_shared()) == ("RAPL", "measured", True)
    assert meter.joules() == 3.5
    first.write_text("2500000\n")
    assert meter.joules() == 4.5


@pytest.mark.parametrize(
    ("counters_uj", "joules"),
    [
        ({"package-0-die-0": 1_500_000, "package-0-die-1": 1_500_000}, 1.5),
        ({"package-0-die-0": 1_500_000, "package-0-die-1": 2_000_000}, 3.5),
        ({"package-0-die-0": 1_500_000, "package-0-die-1": 2_000_000, "package-0-die-2": 2_000_000}, 3.5),
        ({"package-0-die-0": 1_500_000, "package-1-die-0": 1_500_000}, 3.0),
        ({"package-0": 1_500_000, "package-1": 1_500_000}, 3.0),
    ],
)
def test_a_counter_that_several_dies_show_is_counted_once(
    tmp_path: Path, counters_uj: dict[str, int], joules: float
) -> None:
    """As on AMD's Threadripper and EPYC, where each die shows what its whole package took."""
    for number, (name, counter_uj) in enumerate(counters_uj.items()):
        zone(tmp_path, f"intel-rapl:{number}", name, counter_uj)
    assert the_joules(the(energy_meter("cpu", powercap=tmp_path))) == joules


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, range_uj=1_000_000)
    meter = the(energy_meter("cpu", powercap=tmp_path))
    begun = the_joules(meter)
    for reading, since in ((950_000, 0.05), (100_000, 0.2), (50_000, 1.15)):
        counter.write_text(f"{reading}\n")
        assert the_joules(meter) - begun == pytest.approx(since)


def the_joules(meter: Meter) -> float:
    joules = meter.joules()
    assert joules is not None
    return joules


def test_a_cpu_that_shows_no_counter(tmp_path: Path) -> None:
    assert energy_meter("cpu", powercap=tmp_path / "missing") is None
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert energy_meter("cpu", powercap=tmp_path) is None
    # As where only root may read it: what is there cannot be read.
    counter = zone(tmp_path, "intel-rapl:1", "package-0", 1)
    counter.unlink()
    counter.mkdir()
    assert energy_meter("cpu", powercap=tmp_path) is None
    counter.rmdir()
    counter.write_text("nonsense\n")
    assert energy_meter("cpu", powercap=tmp_path) is None


def test_a_counter_that_can_no_longer_be_read(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = the(energy_meter("cpu", powercap=tmp_path))
    counter.unlink()
    assert meter.joules() is None
