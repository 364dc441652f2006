"""Ratios taken side by side in one run, printed as JSON on the last line; results in docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def report(name: str, results: dict[str, Any]) -> None:
    """Print results with the date and the machine, as one line of JSON."""
    import torch

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    machine = {
        "cpus": os.cpu_count(),
        "cpu": platform.processor() or platform.machine(),
        "gpu": cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"benchmark": name, "date": datetime.now(UTC).date().isoformat(), **results, "machine": machine}))
