"""The notebooks as people run them without a browser, and the magics in a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.kernels import running_kernel
from tests.terminal import Terminal
from tokmagic.core.record import COMPARISON_IN_OUTPUTS, RunRecord
from tokmagic.ledgers import Ledger

pytestmark = pytest.mark.model

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNS = {
    "01_quickstart": ["ok"] * 4,
    "02_budgets_and_reports": ["ok", "ok", "refused", "ok", "cached"],
    "03_tokens_and_endpoints": ["ok"],
    "04_compare": ["ok"] * (2 * 6 + 4 * 6),
}
"""How the runs of each notebook end."""


@pytest.fixture
def environment(tiny_home: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``smollm2`` is a stand-in of random weights."""
    monkeypatch.setenv("TOKMAGIC_HOME", str(tiny_home))
    monkeypatch.setenv("TOKMAGIC_LEDGER", ledger_url)
    monkeypatch.setenv("SAMPLE", "6")


@pytest.fixture
def default_model(model_home: Path, environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is itself."""
    monkeypatch.setenv("TOKMAGIC_HOME", str(model_home))


def outputs(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def kept(notebook: Path) -> dict[str, dict[str, Any]]:
    """The runs that a notebook's outputs tell of."""
    found = [output.get("metadata", {}).get("tokmagic") for output in outputs(notebook)]
    return {row["run_id"]: row for row in found if row}


def shows(record: RunRecord) -> bool:
    """Whether an output keeps the run's row.

    A refusal is an error that the notebook catches, and has no output of its own; a comparison keeps its figures.
    """
    return record.status != "refused" and not any(tag.startswith("compare:") for tag in record.tags)


def assert_recorded(notebook: Path, ledger: Ledger, name: str) -> None:
    """What the notebook keeps of its runs is what the ledger says, and there are as many as it has prompts."""
    runs = ledger.runs()
    assert [record.status for record in runs] == RUNS[name]
    records = {record.run_id: record for record in runs if shows(record)}
    rows = kept(notebook)
    assert set(rows) == set(records)
    for run_id, row in rows.items():
        usage = records[run_id].reading.usage
        assert (row["input_tokens"], row["output_tokens"]) == (usage.input_tokens, usage.output_tokens)
    errors = [output for output in outputs(notebook) if output["output_type"] == "error"]
    assert errors == []


def test_the_notebooks_are_saved_without_outputs() -> None:
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        assert outputs(notebook) == [], f"{notebook.name}: clear its outputs before committing it"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbconvert_executes_a_notebook_with_the_default_model(
    notebook: Path, default_model: None, ledger: Ledger, tmp_path: Path
) -> None:

    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path), str(notebook)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "comm target" not in done.stderr, "there is no front end that would know the sidebar's"
    assert_recorded(tmp_path / notebook.name, ledger, notebook.stem)
    compared = [it for it in outputs(tmp_path / notebook.name) if COMPARISON_IN_OUTPUTS in it.get("metadata", {})]
    assert len(compared) == (notebook.stem == "04_compare")
    for output in compared:
        figures = output["metadata"][COMPARISON_IN_OUTPUTS]
        assert (figures["complete"], figures["items"]) == (True, 6)
        check = [sys.executable, "-m", "tokmagic.cli", "check", str(tmp_path / notebook.name), "--compare"]
        told = subprocess.run(check, capture_output=True, text=True, check=False)
        assert (told.returncode, told.stdout.count("no variant is worse in score")) == (0, 1), told


@pytest.mark.slow
def test_a_kernel_runs_the_cells_of_each(environment: None, ledger: Ledger) -> None:
    """As above, in one kernel, over the stand-in."""
    with running_kernel() as kernel:
        for notebook in NOTEBOOKS:
            before = len(ledger.runs())
            cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
            ran = [
                kernel.run("".join(cell["source"]), cell_id=f"{notebook.stem}-{cell['id']}")
                for cell in cells
                if cell["cell_type"] == "code"
            ]
            assert [it.error for it in ran if not it.ok] == []
            runs = ledger.runs()[before:]
            assert [record.status for record in runs] == RUNS[notebook.stem]
            rows = [shown["metadata"].get("tokmagic") for it in ran for shown in it.displays]
            assert {row["run_id"]: (row["input_tokens"], row["output_tokens"]) for row in rows if row} == {
                record.run_id: (record.reading.usage.input_tokens, record.reading.usage.output_tokens)
                for record in runs
                if shows(record)
            }


PASSES = 10
ENDED = {"01_quickstart": 8, "02_budgets_and_reports": 0, "03_tokens_and_endpoints": 10}
"""In how many of them the forecast names an upper end: a code cell has to have run twice, and one that counts on being
refused stays unknown."""


@pytest.mark.slow
def test_what_run_all_costs_is_within_its_forecast(environment: None, ledger: Ledger) -> None:
    """In nine of ten runs of the notebooks, the first one among them, by what the ledger says afterwards."""
    for notebook in NOTEBOOKS[:3]:  # a comparison makes a forecast of its own
        cells = [it for it in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if it["cell_type"] == "code"]
        sources = {f"{notebook.stem}-{it['id']}": "".join(it["source"]) for it in cells}
        kept_to, ended = [], 0
        with running_kernel() as kernel:
            assert kernel.run(sources[next(iter(sources))]).ok
            assert kernel.run("%price smollm2 --input 0.15 --output 0.60").ok
            comm = kernel.open_comm("tokmagic.control")
            for number in range(PASSES):
                before = ledger.runs()
                ran = {it.cell_id for it in before}
                asked = [
                    {"id": cell, "source": source}
                    for cell, source in sources.items()
                    if source.startswith("%%generate") or "tokmagic.generate" in source or cell in ran
                ]
                kernel.send_comm(comm, {"v": 1, "type": "forecast", "seq": number, "cells": asked})
                told: dict[str, Any] = {}
                while not (told.get("type") == "forecast" and told["seq"] == number and told["done"]):
                    told = kernel.wait_comm(comm)
                for cell, source in sources.items():
                    assert kernel.run(source, cell_id=cell).ok
                spent = sum((it.reading.cost.usd or 0 for it in ledger.runs()[len(before) :]), Decimal(0))
                low, high = (told["total"][name] for name in ("low_usd", "high_usd"))
                ended += high is not None
                kept_to.append(Decimal(low) <= spent and (high is None or spent <= Decimal(high)))
        assert sum(kept_to) >= 0.9 * PASSES, (notebook.stem, kept_to)
        assert ended == ENDED[notebook.stem], notebook.stem


@pytest.mark.slow
def test_papermill_executes_the_quickstart(environment: None, ledger: Ledger, tmp_path: Path) -> None:
    import papermill  # takes seconds to import

    notebook = NOTEBOOKS[0]
    papermill.execute_notebook(notebook, tmp_path / "out.ipynb", progress_bar=False, kernel_name="python3")
    assert_recorded(tmp_path / "out.ipynb", ledger, notebook.stem)


def test_a_terminal_runs_the_magics(environment: None, ledger: Ledger) -> None:
    with_terminal = Terminal([sys.executable, *Terminal.IPYTHON])
    try:
        with_terminal.ask("%load_ext tokmagic")
        with_terminal.ask("%model add s scripted")
        with_terminal.ask("%model use s")
        with_terminal.ask("%price s --input 0.15 --output 0.60")
        with_terminal.ask('get_ipython().run_cell("%%generate --max-tokens 8 --into out\\nSay hello.");')
        shown = with_terminal.ask("print(out.usage.output_tokens, out.status)")
        assert re.search(r"^8 ok\r?$", shown, re.MULTILINE)
        assert re.search(r"total +1 +12 +8 +\$0\.0000066 ", with_terminal.ask("%cost"))
    finally:
        with_terminal.end()
    assert "tokens · $0.0000" in with_terminal.seen
    (record,) = ledger.runs()
    assert (record.status, record.reading.usage.output_tokens) == ("ok", 8)
