"""What NVML says of GPUs and MIG instances, and which of them torch's ``cuda:N`` is."""

from __future__ import annotations

import inspect
import os
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from tests.nvml import FUNCTIONS, GIB, Device, Functions, divided, install
from tokmagic.engines import gpu
from tokmagic.engines.fit import Held
from tokmagic.engines.gpu import Gpu, Load
from tokmagic.engines.gpu.memory import split
from tokmagic.engines.gpu.visible import gpu_of, visible

FIRST, SECOND, THIRD = (f"GPU-{number}2345678-aaaa-bbbb-cccc-000000000000" for number in (1, 2, 3))
MIG = "MIG-00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_stand_in_has_the_functions_of_the_real_binding(name: str) -> None:
    real, ours = (inspect.signature(getattr(of, name)) for of in (pynvml, Functions))
    _self, *parameters = ours.parameters.values()
    assert [(it.name, it.default) for it in parameters] == [(it.name, it.default) for it in real.parameters.values()]


def test_everything_is_read_in_units_that_its_name_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = install(monkeypatch, Device(processes={17: 3 * GIB}))
    seen = gpu.look()
    (device,) = seen.devices
    assert (seen.driver, seen.cuda, seen.absence) == ("580.95.05", "13.0", None)
    assert (device.index, device.instance, device.label, device.name) == (0, None, "0", "NVIDIA H200")
    assert (device.total_bytes, device.used_bytes, device.reserved_bytes) == (140 * GIB, 2 * GIB, GIB // 2)
    assert device.free_bytes == 138 * GIB
    assert device.load == Load(0.37, 0.12, 250.5, 700.0, 41, 1980, 3201)
    assert device.processes == {17: 3 * GIB}
    assert functions.opened == 0, "NVML is closed again"


def test_what_draws_uses_a_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Device(processes={17: 3 * GIB, 18: GIB}, drawing={18: GIB, 19: GIB // 4}))
    (device,) = gpu.look().devices
    assert device.processes == {17: 3 * GIB, 18: GIB, 19: GIB // 4}


def test_what_a_device_does_not_tell_is_unknown_and_not_0(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = dict.fromkeys(
        ("busy", "power", "limit", "temperature", "clock", "memory_clock", "processes", "reserved"), None
    )
    install(monkeypatch, Device(**silent))  # type: ignore[arg-type]
    (device,) = gpu.look().devices
    assert device.load == Load()
    assert device.processes is None
    assert device.others_bytes(is_used=False) is None
    assert device.reserved_bytes == 0


@pytest.mark.parametrize(
    ("code", "absence"),
    [(9, "no driver"), (12, "no library"), (18, "mismatch"), (4, "no permission"), (999, "error")],
)
def test_why_nvml_cannot_be_used(monkeypatch: pytest.MonkeyPatch, code: int, absence: str) -> None:
    install(monkeypatch, Device(), fails=code)
    seen = gpu.look()
    assert (seen.devices, seen.absence) == ((), absence)
    assert seen.says


def test_without_the_binding_or_a_device_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert gpu.look().absence == "no device"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu.look().absence == "no binding"


def test_mig_instances_stand_in_place_of_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Device(uuid=FIRST), divided("1g.18gb", None, "2g.35gb", uuid=SECOND))
    whole, one, two = gpu.look().devices
    assert [it.label for it in (whole, one, two)] == ["0", "1:0", "1:2"]
    assert (one.name, one.total_bytes) == ("NVIDIA H200 MIG 1g.18gb", 16 * GIB)
    assert len({it.uuid for it in (whole, one, two)}) == 3
    # The board's, since an instance has none of its own; how busy it is NVML does not say of one.
    assert (one.load.power_w, one.load.temperature_c, one.load.busy) == (250.5, 41, None)


ME = os.getpid()


@pytest.mark.parametrize(
    ("processes", "used_gib", "is_used", "others"),
    [
        ({}, 0, False, 0),
        ({17: 3 * GIB}, 3, False, 3 * GIB),
        ({ME: 5 * GIB, 17: 3 * GIB}, 8, True, 3 * GIB),
        ({ME: 5 * GIB}, 5, True, 0),
        # A container: this process is there under the host's id, or cannot be told from the others.
        ({17: 3 * GIB}, 3, True, 0),
        ({17: 3 * GIB, 18: GIB}, 4, True, None),
        ({}, 0, True, None),
        # Somebody holds memory who is not listed.
        ({ME: 5 * GIB}, 40, True, None),
        ({ME: None}, 5, True, None),
        (None, 5, True, None),
    ],
)
def test_what_others_hold(processes: Any, used_gib: int, is_used: bool, others: int | None) -> None:
    device = Gpu(0, "A", 80 * GIB, used_gib * GIB, "580", processes=processes)
    assert device.others_bytes(is_used=is_used) == others


def test_the_parts_of_the_memory_add_up() -> None:
    device = Gpu(0, "A", 80 * GIB, 30 * GIB, "580", processes={ME: 20 * GIB, 17: 9 * GIB}, reserved_bytes=GIB)
    held = Held(12 * GIB, 15 * GIB, 19 * GIB)
    parts = split(device, held, other_weights_bytes=2 * GIB)
    assert parts is not None
    gib = (parts.weights_bytes, parts.other_weights_bytes, parts.cache_bytes, parts.reserve_bytes, parts.context_bytes)
    assert gib == (12 * GIB, 2 * GIB, GIB, 4 * GIB, GIB)
    assert (parts.others_bytes, parts.driver_bytes, parts.free_bytes) == (9 * GIB, GIB, 50 * GIB)
    assert parts.total_bytes == device.total_bytes
    unseen = split(Gpu(0, "A", 80 * GIB, 30 * GIB, "580", reserved_bytes=GIB), held)
    assert unseen is not None
    assert (unseen.others_bytes, unseen.context_bytes, unseen.total_bytes) == (None, 10 * GIB, 80 * GIB)
    assert split(device, Held(12 * GIB)) is None, "main memory is not counted by torch"


def devices(*names: str) -> list[Gpu]:
    uuids = (FIRST, SECOND, THIRD)
    return [Gpu(index, name, GIB, 0, "580", uuid=uuids[index]) for index, name in enumerate(names)]


def instance(index: int = 0, place: int = 0, uuid: str = MIG) -> Gpu:
    return Gpu(index, "A MIG 1g", GIB, 0, "580", uuid=uuid, instance=place)


PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def shown(setting: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": setting}


@pytest.mark.parametrize(
    ("there", "environ", "order"),
    [
        (devices("A", "A", "A"), {}, [0, 1, 2]),
        (devices("A", "A", "A"), shown("2, 0"), [2, 0]),
        (devices("A", "A"), shown("1,-1,0"), [1]),
        (devices("A", "A"), shown("1,7,0"), [1]),
        (devices("A", "A"), shown(""), []),
        # The fastest first, which only CUDA knows, unless it is told to go by the bus.
        (devices("A", "B"), {}, None),
        (devices("A", "B"), shown("0"), None),
        (devices("A", "B"), PCI, [0, 1]),
        (devices("A", "B"), shown("1") | PCI, [1]),
        (devices("A", "B", "C"), shown(f"{THIRD},{FIRST}"), [2, 0]),
        (devices("A", "B"), shown(SECOND[:12]), [1]),
        (devices("A", "B"), shown("GPU-"), []),
        ([instance()], {}, [0]),
        ([instance(), instance(0, 1, MIG.replace("0000-", "1111-"))], {}, None),
        ([*devices("A"), instance(1)], shown(MIG), [1]),
        ([*devices("A"), instance(1)], shown(f"{FIRST},{MIG}"), [0, 1]),
        ([*devices("A"), instance(1)], shown("0"), None),
    ],
)
def test_cudas_numbers(there: list[Gpu], environ: dict[str, str], order: list[int] | None) -> None:
    found = visible(there, environ)
    assert found == (None if order is None else [there[index] for index in order])
    for number in range(3):
        expected = None if order is None or number >= len(order) else there[order[number]]
        assert gpu_of(f"cuda:{number}", there, environ) == expected


def test_what_is_no_cuda_device_is_none() -> None:
    assert [gpu_of(device, devices("A"), {}) for device in ("cpu", "cuda:x", "cuda:-1", "mps")] == [None] * 4
    assert gpu_of("cuda", devices("A"), {}) == devices("A")[0]


def torch_says(monkeypatch: pytest.MonkeyPatch, uuids: dict[str, str | None]) -> None:
    module = SimpleNamespace(cuda_uuid=uuids.get)
    monkeypatch.setitem(sys.modules, "tokmagic.engines.local.device", module)


def test_torch_knows_its_devices_by_uuid_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(monkeypatch, {"cuda:0": SECOND.removeprefix("GPU-"), "cuda:1": MIG.removeprefix("MIG-"), "cuda:2": None})
    there = [*devices("A", "B"), instance(2)]
    assert gpu_of("cuda:0", there, PCI) == there[1]
    assert gpu_of("cuda:1", there, PCI) == there[2]
    # Where it does not tell, the environment has to do.
    assert gpu_of("cuda:2", there, {}) is None
    assert gpu_of("cuda:2", devices("A", "A", "A"), {}) == devices("A", "A", "A")[2]


def test_an_instance_that_torch_calls_by_its_gpus_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(monkeypatch, {"cuda:0": SECOND.removeprefix("GPU-")})
    one, two = instance(), instance(0, 1, "MIG-11111111-0000-0000-0000-000000000000")
    assert gpu_of("cuda:0", [one], {}) == one
    assert gpu_of("cuda:0", [one, two], shown(str(two.uuid))) == two
    assert gpu_of("cuda:0", [one, two], {}) is None
    assert gpu_of("cuda:0", devices("A"), {}) is None, "no GPU but the one that torch names"
