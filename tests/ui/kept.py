"""Whether a sidebar, or a panel, shows what the ledger keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from playwright.sync_api import Locator

from tests.ui.lab import WAIT_MS
from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger

Told = dict[str, tuple[str, ...]]


def assert_shows_the_ledger(view: Locator, ledger: Ledger, notebook: str) -> None:
    """Compare each cell's row, and the notebook's sums, with the ledger's; ``notebook`` is how its path ends."""
    runs = [run for run in ledger.runs() if (run.notebook or "").endswith(notebook)]
    assert runs, f"the ledger has no run of {notebook}"
    latest = ledger.latest_by_cell(Selection(notebook=runs[0].notebook))
    kept = {
        str(run.cell_id): (
            run.run_id,
            run.status,
            *map(_text, (run.reading.usage.input_tokens, run.reading.usage.output_tokens, run.reading.cost.usd)),
        )
        for run in latest
    }
    _assert_comes_to(view, _told, kept)
    assert_shows_the_sums(view, ledger, Selection(notebook=runs[0].notebook))


def assert_shows_the_sums(view: Locator, ledger: Ledger, where: Selection) -> None:
    """Compare the notebook's sums with those of the ledger's runs that are meant."""
    total = ledger.totals(where)
    kept = [_text(it) for it in (total.cost_usd, total.input_tokens, total.output_tokens)]
    _assert_comes_to(view, _sums, kept)


def _assert_comes_to(view: Locator, read: Callable[[Locator], Any], kept: Any) -> None:
    """A page hears what the kernel says a moment later, each page and each panel for itself."""
    until = time.monotonic() + WAIT_MS / 1000
    while (shown := read(view)) != kept and time.monotonic() < until:
        view.page.wait_for_timeout(100)
    assert shown == kept


def _sums(view: Locator) -> list[str | None]:
    fields = [view.locator(f"[data-total='notebook'] [data-field='{name}']") for name in ("cost", "input", "output")]
    return [it.get_attribute("data-value") for it in fields]


def _told(view: Locator) -> Told:
    found: Told = {}
    for row in view.locator("tr.tm-Row").all():
        name = row.get_attribute("data-cell-id") or ""
        # A refused run has words in their place.
        fields = [row.locator(f"[data-field='{it}']") for it in ("input", "output", "cost")]
        values = [it.get_attribute("data-value") if it.count() else "" for it in fields]
        found[name] = tuple(it or "" for it in (*map(row.get_attribute, ("data-run-id", "data-status")), *values))
    return found


def _text(value: int | Decimal | None) -> str:
    return "" if value is None else str(value)
