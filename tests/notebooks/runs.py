"""Snapshots of runs, as a ledger, a frozen file or an output tells of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import EngineInfo
from tokmagic.core.stream import Usage
from tokmagic.notebooks.snapshots import RunSnapshot
from tokmagic.runs.generation import answers_sha256

INFO = EngineInfo("m", "org/model", "local", "abc", "cpu", "bfloat16", tokenizer_sha256="1" * 64)
ENV = {"python": "3.11.7", "torch": "2.8.0", "transformers": "5.17.0"}
PRICED = Rates(Decimal("0.15"), Decimal("0.6"), source="%price")
TIMED = Rates(device_hour=Decimal("2"), source="list price: H100")


def run(answer: str = "Hello.", prompt: str = "p1", **more: Any) -> RunSnapshot:
    """A greedy run that went well."""
    values: dict[str, Any] = {
        "run_id": "r1",
        "status": "ok",
        "info": INFO,
        "decoding": "greedy",
        "params": {"max_tokens": 9, "temperature": 0.0},
        "prompt_sha256": prompt * 32,
        "usage": Usage(input_tokens=9, output_tokens=3, cached_input_tokens=0),
        "finish_reason": "stop",
        "cost": Cost(Decimal("0.00000315"), "measured"),
        "rates": PRICED,
        "env": ENV,
        "answer_sha256": answers_sha256([answer]),
        "answer": answer,
    }
    return RunSnapshot(**{**values, **more})
