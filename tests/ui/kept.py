"""Whether a sidebar, or a panel, shows what the ledger keeps."""

from __future__ import annotations

from decimal import Decimal

from playwright.sync_api import Locator

from tokmagic.core.record import Selection
from tokmagic.ledgers import Ledger

Told = dict[str, tuple[str, ...]]


def assert_shows_the_ledger(view: Locator, ledger: Ledger, notebook: str) -> None:
    """Compare each cell's row, and the notebook's sums, with the ledger's; ``notebook`` is how its path ends."""
    runs = [run for run in ledger.runs() if (run.notebook or "").endswith(notebook)]
    assert runs, f"the ledger has no run of {notebook}"
    latest = ledger.latest_by_cell(Selection(notebook=runs[0].notebook))
    assert _told(view) == {
        str(run.cell_id): (
            run.run_id,
            run.status,
            *map(_text, (run.reading.usage.input_tokens, run.reading.usage.output_tokens, run.reading.cost.usd)),
        )
        for run in latest
    }
    assert_shows_the_sums(view, ledger, Selection(notebook=runs[0].notebook))


def assert_shows_the_sums(view: Locator, ledger: Ledger, where: Selection) -> None:
    """Compare the notebook's sums with those of the ledger's runs that are meant."""
    total = ledger.totals(where)
    fields = [view.locator(f"[data-total='notebook'] [data-field='{name}']") for name in ("cost", "input", "output")]
    assert [it.get_attribute("data-value") for it in fields] == [
        _text(it) for it in (total.cost_usd, total.input_tokens, total.output_tokens)
    ]


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
