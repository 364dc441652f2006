"""Notebook files with the rows of runs in their outputs, as kernels save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row(run_id: Any = "r1", cost: Any = "0.001", tokens: tuple[Any, Any] = (10, 2), **more: Any) -> dict[str, Any]:
    """What a cell's output keeps of a run."""
    return {
        "run_id": run_id,
        "cell_id": None,
        "status": "ok",
        "model": "m",
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "cost_usd": cost,
        "cost_bound": "exact",
        "saved_usd": None,
        **more,
    }


def cell(*rows: Any, id: str | None = None, source: Any = "%%generate\nHi", **more: Any) -> dict[str, Any]:
    """A cell whose outputs show these runs; None is an output without one."""
    outputs = [{"output_type": "display_data", "data": {}, "metadata": {"tokmagic": it}} if it else {} for it in rows]
    named = {"id": id} if id else {}
    body = {"cell_type": "code", "source": source, "outputs": outputs, "metadata": {}, "execution_count": 1}
    return {**body, **named, **more}


def one(cost: Any, tokens: tuple[Any, Any] = (10, 2), id: str | None = "a", **more: Any) -> dict[str, Any]:
    """A cell with one run, which is named after its figures."""
    return cell(row(f"{id} {cost} {tokens}", cost, tokens, **more), id=id)


TEXT = {"cell_type": "markdown", "source": "%%generate", "metadata": {}, "id": "text"}
SETUP = cell(source="%load_ext tokmagic", id="setup")


def write(path: str, *cells: dict[str, Any], **more: Any) -> str:
    """Write a notebook, and return its path."""
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **more}
    Path(path).write_text(json.dumps(notebook), encoding="utf-8")
    return path
