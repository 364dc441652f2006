"""List prices of devices: by exact name, each with its source and date."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from importlib.resources import files

import pytest

from tests.prices.test_bills import CPU, GPU, NOW, D
from tokmagic.core.money import Rates
from tokmagic.prices import (
    PriceBook,
    hourly,
)
from tokmagic.prices import devices as device_prices


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("NVIDIA H100 80GB HBM3", "H100, Modal"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10,"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("NVIDIA T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A10-24Q", None),
        ("NVIDIA L40", None),
        ("NVIDIA GH200 480GB", None),
        ("", None),
    ],
)
def test_a_gpu_is_listed_by_its_exact_name(name: str, listed: str | None) -> None:
    rates = PriceBook().rates(replace(GPU, device_name=name), NOW)
    if listed is None:
        assert rates == Rates()
    else:
        assert rates.source.startswith(f"list price: {listed}")
        assert rates.device_hour


def test_a_cpu_counts_with_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_prices, "cpus", lambda: 8)
    assert PriceBook().rates(CPU, NOW) == Rates(
        device_hour=D("0.3264"), source="list price: 8 vCPU, AWS m7g.large on demand, us-east-1", version="2026-06"
    )


def test_each_list_price_has_a_source_and_a_date() -> None:
    table = tomllib.loads((files("tokmagic.prices") / "prices.toml").read_text(encoding="utf-8"))
    entries = [table["cpu"], *table["gpu"]]
    assert len(entries) > 12
    for entry in entries:
        assert 0 < hourly(entry["usd"]) < 20
        assert re.fullmatch(r"20\d\d-[01]\d", entry["date"])
        assert entry["source"]
    names = [device_prices.device_key(name) for entry in table["gpu"] for name in entry["names"]]
    assert len(names) == len(set(names)), "no device is listed twice"
