"""What a ledger of a million runs takes to ask and to write.

``python -m benchmarks.ledger [RUNS]``: runs over a year in 500 notebooks, by three users and five models. Prints the
notebook's table with its line of waste and the month by model in milliseconds; each again in a ledger with a tenth of
the history outside what was asked, as a ratio; the waste of all runs beside their table by cell; the beginning of a
run, from the record on, against bare sqlite3 that inserts ready-made values of the same columns into the same file with
the same pragmas, alternating; and what the file grows by for each run.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import report, spread
from tokmagic import reports as tables
from tokmagic.core.money import Cost, Rates
from tokmagic.core.record import EngineInfo, Reading, RunRecord, Selection
from tokmagic.core.stream import Usage
from tokmagic.ledgers import Ledger
from tokmagic.ledgers.schema import runs, to_row

NOTEBOOK = Selection(notebook="/home/ada/notebooks/nb-7.ipynb")
MONTH = Selection(since=datetime(2026, 6, 1, tzinfo=UTC), until=datetime(2026, 7, 1, tzinfo=UTC))
ALL = Selection()
ROUNDS = 15


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Build both ledgers and time all questions."""
    large, small = folder / "large.sqlite", folder / "small.sqlite"
    _fill(large, _history(count))
    _fill(small, _history(count, keep_outside=0.1))
    found: dict[str, Any] = {"runs": count, "bytes_per_run": large.stat().st_size / count}
    questions: dict[str, Callable[[Ledger], object]] = {
        "notebook_table": lambda ledger: (tables.table(ledger, NOTEBOOK, "cell"), tables.waste_line(ledger, NOTEBOOK)),
        "month_by_model": lambda ledger: tables.table(ledger, MONTH, "model"),
    }
    one, other = Ledger(f"sqlite:///{large}"), Ledger(f"sqlite:///{small}")
    for name, ask in questions.items():
        in_large, in_small = _alternate(lambda ask=ask: ask(one), lambda ask=ask: ask(other))  # type: ignore[misc]
        found[f"{name}_ms"] = spread(in_large)
        found[f"{name}_ratio"] = statistics.median(in_large) / statistics.median(in_small)
    other.close()
    wasted, by_cell = _alternate(lambda: one.wasted(ALL), lambda: tables.table(one, ALL, "cell"), rounds=3)
    found |= {"waste_ms": spread(wasted), "waste_ratio": statistics.median(wasted) / statistics.median(by_cell)}
    found |= _insert(one, large)
    one.close()
    return found


def _alternate(
    first: Callable[[], object], second: Callable[[], object], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(2 * rounds):
        side = turn % 2
        began = time.perf_counter()
        (first, second)[side]()
        times[side].append((time.perf_counter() - began) * 1e3)
    return times


def _insert(ledger: Ledger, path: Path) -> dict[str, Any]:
    """One run begun through the ledger, and one written by sqlite3 alone from ready-made values, each committed."""
    bare = sqlite3.connect(path, isolation_level=None)
    bare.execute("PRAGMA synchronous=NORMAL")
    whole = _record(random.Random(1), 0, datetime.now(UTC))
    # As a run begins: nothing is measured yet.
    record = replace(whole, status="running", finished_at=None, finish_reason=None, reading=Reading())
    begun = {"owner": "0" * 32, "hold_pico": None, "hold_tokens": None}
    statement = _statement({**to_row(record), **begun})
    ledger_ms, bare_ms = [], []
    for number in range(400):
        record = replace(record, run_id=f"ledger-{number}")
        began = time.perf_counter()
        ledger.begin(record)
        ledger_ms.append((time.perf_counter() - began) * 1e3)
        record = replace(record, run_id=f"bare-{number}")
        values = (*to_row(record).values(), *begun.values())
        began = time.perf_counter()
        bare.execute("BEGIN IMMEDIATE")
        bare.execute(statement, values)
        bare.execute("INSERT INTO texts (run_id, prompt, answer) VALUES (?, '[]', NULL)", (record.run_id,))
        bare.execute("COMMIT")
        bare_ms.append((time.perf_counter() - began) * 1e3)
    bare.close()
    ratio = statistics.median(ledger_ms) / statistics.median(bare_ms)
    return {"insert_ms": spread(ledger_ms), "bare_insert_ms": spread(bare_ms), "insert_ratio": ratio}


def _fill(path: Path, records: Iterator[RunRecord]) -> None:
    Ledger(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN")
    first = to_row(next(records))
    connection.execute(_statement(first), tuple(first.values()))
    # Made once from a record, and then only what differs from run to run: making a million rows whole takes minutes.
    connection.executemany(_statement(first), (_values(first, record) for record in records))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _statement(row: dict[str, Any]) -> str:
    names = ", ".join(f'"{name}"' for name in row)
    return f"INSERT INTO {runs.name} ({names}) VALUES ({', '.join('?' * len(row))})"


def _values(template: dict[str, Any], record: RunRecord) -> tuple[Any, ...]:
    usage, cost = record.reading.usage, record.reading.cost.usd or Decimal(0)
    changed = {
        "run_id": record.run_id,
        "prompt_sha256": record.prompt_sha256,
        "started_at": record.started_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "notebook": record.notebook,
        "cell_id": record.cell_id,
        "user": record.user,
        "model": record.info.name,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_pico": int(cost * 10**12),
    }
    return tuple({**template, **changed}.values())


def _history(count: int, keep_outside: float = 1.0) -> Iterator[RunRecord]:
    """Runs in the order of time; of those in neither question only a share is kept."""
    dice = random.Random(7)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(count):
        at = start + timedelta(seconds=number * 365 * 86_400 / count)
        record = _record(dice, number, at)
        asked = record.notebook == NOTEBOOK.notebook or (MONTH.since or at) <= at < (MONTH.until or at)
        if asked or dice.random() < keep_outside:
            yield record


def _record(dice: random.Random, number: int, at: datetime) -> RunRecord:
    model = f"model-{dice.randrange(5)}"
    usage = Usage(
        input_tokens=dice.randrange(20, 4_000),
        output_tokens=dice.randrange(1, 400),
        input_source="measured",
        output_source="measured",
    )
    cost = Cost(Decimal(dice.randrange(1, 10**9)) / 10**12, "measured")
    return RunRecord(
        f"{number:032x}",
        at,
        "ok",
        EngineInfo(model, f"org/{model}", "local", "a" * 40, "cuda:0", "bfloat16"),
        _sha256(dice),
        {"max_tokens": 256, "temperature": 0.0, "n": 1},
        finished_at=at,
        finish_reason="stop",
        notebook=f"/home/ada/notebooks/nb-{dice.randrange(500)}.ipynb",
        cell_id=f"cell-{dice.randrange(20)}",
        session="5" * 32,
        user=f"user-{dice.randrange(3)}",
        reading=Reading(usage, cost, 0.2, 0.01, 2.5, 0.011, 0.011, 0.013, 90.0, 2.3, spark_ms=(11.0,) * 32),
        rates=Rates(Decimal("0.15"), Decimal("0.60"), source="%price"),
        env={"tokmagic": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
    )


def _sha256(dice: random.Random) -> str:
    """Half of the prompts are one of a thousand that come again and again."""
    return f"{dice.getrandbits(256) if dice.random() < 0.5 else 10**70 + dice.randrange(1_000):064x}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report("ledger", measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, Path(scratch)))
