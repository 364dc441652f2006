"""``%cache``: the answers that are kept."""

from __future__ import annotations

from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.magics.shell import Shell
from tokmagic.prompts.parser import Parser
from tokmagic.runs.session import Session


def parser() -> Parser:
    """The words of ``%cache``."""
    made = Parser("%cache")
    told = "status (or none): its contents and savings; on, off; clear: empty it"
    made.add_argument("action", nargs="?", choices=("status", "on", "off", "clear"), default="status", help=told)
    return made


def run(at: Shell, line: str) -> Table:
    """Do what the word says, and show what the cache holds and saved. Raises LedgerError."""
    session, action = at.session, at.parse(parser(), line).action
    if action in ("on", "off"):
        session.settings.cache = action == "on"
    elif action == "clear":
        session.ledger().clear_answers()
    return table(session)


def table(session: Session) -> Table:
    """What is kept, and what it was good for. Raises LedgerError."""
    status, settings = session.ledger().cache_status(), session.settings
    hits = status.hits
    row = (
        "on" if session.cache.on else "off",
        f"{status.answers:,}",
        numbers.size(status.size_bytes),
        numbers.size(settings.cache_bytes),
        f"{hits.runs:,}",
        numbers.usd_marked(hits.saved_usd, hits.saved_precision),
    )
    notes = []
    if not settings.store_text:
        notes.append("no answer is kept or looked up, since texts are not kept (TOKMAGIC_STORE_TEXT=off)")
    if hits.unpriced_hits:
        notes.append(f"what {hits.unpriced_hits:,} of {hits.runs:,} hits saved is not known")
    return Table(("cache", "answers", "size", "at most", "hits", "saved"), (row,), "; ".join(notes))
