"""``NOTEBOOK.tokmagic.json``: what a notebook ran with, as JSON that stays the same where nothing changed.

docs/reproduce.md describes each field. What is unknown is left out; money is decimal strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, get_args

from tokmagic.core.files import atomic_write
from tokmagic.core.money import Bound, Cost, Rates, Tier, plain, rates_dict, rates_of
from tokmagic.core.record import EngineInfo, Status
from tokmagic.core.stream import Source, Usage
from tokmagic.errors import NotebookError, UsageError
from tokmagic.formatting.markdown import plain_text
from tokmagic.notebooks.fields import amount, one_of, parse_json, take
from tokmagic.notebooks.snapshots import CellSnapshot, Decoding, NotebookSnapshot, RunSnapshot

FORMAT = 1
"""Raised where an older tokmagic would misread the file."""
_ENDING = ".tokmagic.json"
_DIGITS = 60  # more than any rate has before or after its point
_INFO: dict[str, type] = {
    **dict.fromkeys(("name", "model_id", "revision", "engine", "provider", "server", "device", "device_name"), str),
    **dict.fromkeys(("dtype", "quant", "tokenizer_sha256"), str),
    "greedy": bool,
}
_NEEDED = ("name", "model_id", "engine")
_COUNTS = tuple(name for name in Usage.__dataclass_fields__ if name.endswith("_tokens"))


def beside(notebook: Path) -> Path:
    """Where a notebook's frozen file is: ``nb.tokmagic.json`` beside ``nb.ipynb``."""
    return notebook.with_name(f"{notebook.stem}{_ENDING}")


def notebook_of(file: Path) -> str:
    """The notebook's name that a frozen file's own name tells; empty where that is another one."""
    stem = file.name.removesuffix(_ENDING)
    return f"{stem}.ipynb" if stem != file.name else ""


def dump(notebook: NotebookSnapshot) -> str:
    """A frozen notebook as text, always the same for the same values."""
    runs = [run for cell in notebook.cells for run in cell.runs]
    shared = _shared([run.env for run in runs])
    body = {
        "format": FORMAT,
        "tokmagic": notebook.version,
        "notebook": notebook.name,
        "environment": shared,
        "cells": [
            {"cell": cell.number, "id": cell.id, "runs": [_run_dict(run, shared) for run in cell.runs]}
            for cell in notebook.cells
        ],
    }
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def _shared(environments: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all runs have in common, so that an upgrade is one line of a diff."""
    first, *others = [*environments] or [{}]
    return {name: first[name] for name in sorted(first) if all(_same(name, first, other) for other in others)}


def _same(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # As JSON, where 1, 1.0 and true are three values.
    return name in other and json.dumps(one[name]) == json.dumps(other[name])


def _run_dict(run: RunSnapshot, shared: Mapping[str, Any]) -> dict[str, Any]:
    info = {name: getattr(run.info, name) for name in _INFO}
    usage = {name: getattr(run.usage, name) for name in (*_COUNTS, "input_source", "output_source")}
    cost = {"usd": plain(run.cost.usd), "source": run.cost.source, "bound": run.cost.bound}
    found = {
        "run_id": run.run_id,
        "status": run.status,
        "drawn": run.decoding,
        "model": _known(info),
        "params": {name: run.params[name] for name in sorted(run.params)},
        "prompt_sha256": run.prompt_sha256,
        "usage": _known(usage),
        "finish_reason": run.finish_reason,
        "answer_sha256": run.answer_sha256,
        "answer": run.answer,
        "source_sha256": run.source_sha256,
        "cost": _known({**cost, "saved_usd": plain(run.cost.saved_usd)}),
        "rates": None if run.rates is None else rates_dict(run.rates),
        "environment": {name: run.env[name] for name in sorted(run.env) if name not in shared} or None,
    }
    return _known(found)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def write(notebook: NotebookSnapshot, path: Path) -> None:
    """Write the file, or leave an earlier one as it was. Raises UsageError."""
    try:
        atomic_write(path, dump(notebook))
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written: {why}; name another file: %tokmagic freeze FILE") from error


def read(path: Path) -> NotebookSnapshot:
    """Read a frozen file. Raises UsageError where it cannot be opened, NotebookError where it makes no sense."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse(data, str(path))


def parse(data: bytes, name: str) -> NotebookSnapshot:
    """The inverse of :func:`dump`. ``name`` is what errors call it. Raises NotebookError."""
    try:
        body = parse_json(data)
        form = take(body, "format", int, needed=True)
        if form > FORMAT:
            raise NotebookError(f"{name} was written by a newer tokmagic (format {form}); upgrade tokmagic")
        if form != FORMAT:
            raise ValueError(f"format is {form}")
        shared = take(body, "environment", dict) or {}
        return NotebookSnapshot(
            take(body, "notebook", str, needed=True),
            take(body, "tokmagic", str, needed=True),
            tuple(_cell(cell, shared) for cell in take(body, "cells", list, needed=True)),
        )
    except (ValueError, RecursionError) as error:
        message = plain_text(str(error)).split("\n")[0]
        raise NotebookError(
            f"{name} is not a frozen notebook: {message}; restore it, or write it again with %tokmagic freeze"
        ) from None


def _cell(body: Any, shared: Mapping[str, Any]) -> CellSnapshot:
    runs = tuple(_run(run, shared) for run in take(body, "runs", list, needed=True))
    source = next((run.source_sha256 for run in runs), None)
    return CellSnapshot(take(body, "id", str), take(body, "cell", int), runs, source_sha256=source)


def _run(body: Any, shared: Mapping[str, Any]) -> RunSnapshot:
    model, usage = take(body, "model", dict, needed=True), take(body, "usage", dict) or {}
    counts = {name: take(usage, name, int) for name in _COUNTS}
    sources = {name: one_of(usage, name, get_args(Source), "unknown") for name in ("input_source", "output_source")}
    return RunSnapshot(
        run_id=take(body, "run_id", str, needed=True),
        status=one_of(body, "status", get_args(Status)),
        decoding=one_of(body, "drawn", (*get_args(Decoding), None)),
        info=EngineInfo(**{name: take(model, name, kind, needed=name in _NEEDED) for name, kind in _INFO.items()}),
        params=take(body, "params", dict) or {},
        prompt_sha256=take(body, "prompt_sha256", str),
        usage=Usage(**counts, **sources),
        finish_reason=take(body, "finish_reason", str),
        answer_sha256=take(body, "answer_sha256", str),
        answer=take(body, "answer", str),
        source_sha256=take(body, "source_sha256", str),
        cost=_cost(take(body, "cost", dict) or {}),
        rates=_rates(take(body, "rates", dict)),
        env={**shared, **(take(body, "environment", dict) or {})},
    )


def _cost(body: dict[str, Any]) -> Cost:
    return Cost(
        usd=amount(body, "usd"),
        source=one_of(body, "source", get_args(Source), "unknown"),
        bound=one_of(body, "bound", get_args(Bound), "exact"),
        saved_usd=amount(body, "saved_usd"),
    )


def _rates(body: dict[str, Any] | None) -> Rates | None:
    try:
        rates = None if body is None else rates_of(body)
        if rates is None or all(map(_sane, _amounts(rates))):
            return rates
    except (LookupError, TypeError, AttributeError, InvalidOperation):
        pass
    raise ValueError("rates cannot be read")


def _amounts(rates: Rates) -> Iterator[Decimal]:
    priced: tuple[Rates | Tier, ...] = (rates, *rates.tiers)
    for of in priced:
        yield from (value for it in fields(of) if isinstance(value := getattr(of, it.name), Decimal))
    if rates.shadow is not None:
        yield from _amounts(rates.shadow)


def _sane(amount: Decimal) -> bool:
    """Whether it is a number that can be written out: ``1E+9999999`` would fill the memory."""
    return amount.is_finite() and amount.adjusted() < _DIGITS and int(amount.as_tuple().exponent) > -_DIGITS
