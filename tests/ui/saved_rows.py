"""Cells whose outputs keep a row with all its fields, as many as a test needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.notebooks.saved_notebooks import cell, row, write
from tokmagic.core.record import source_sha256

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def told(name: str, **more: Any) -> dict[str, Any]:
    """A cell with one saved run, all whose fields are there."""
    measured = {f"{it}_source": "measured" for it in ("input", "output", "cost")}
    unknown = dict.fromkeys(["ttft_s", "itl_mean_s", "latency_s", "max_tokens", "finish_reason", "error"])
    rest = {"started_at": "2026-11-29T07:39:00+00:00", "spark_ms": [1.0, 2.0, 1.5], "cell_id": name}
    return cell(row(name, **{**measured, **unknown, **rest, **more}), id=name)


def tokens_of(index: int) -> tuple[int, int]:
    """Input and output tokens of a cell of :func:`generated`; of no two cells the same."""
    return 1000 + index, 5000 - index


def generated(count: int, prompt: str = "Say something of cell {}.") -> list[dict[str, Any]]:
    """So many cells that generated, ``cell-0`` and on, each with numbers and a text of its own."""
    cells = []
    for index in range(count):
        source = f"%%generate\n{prompt.format(index)}"
        made = told(
            f"cell-{index}",
            cost=f"0.00{1000 + index}",
            tokens=tokens_of(index),
            ttft_s=0.21,
            itl_mean_s=0.0112,
            latency_s=1.4,
            source_sha256=source_sha256(source),
        )
        text = {"data": {"text/markdown": f"Answer {index}."}}
        outputs = [{**output, **text} for output in made["outputs"]]
        cells.append({**made, "source": source, "outputs": outputs, "execution_count": index + 1})
    return cells


def written(folder: Path, name: str, cells: list[dict[str, Any]]) -> str:
    """Write a notebook for a Python kernel, and return its name."""
    return Path(write(str(folder / name), *cells, metadata=KERNEL)).name
