"""``%cache``, and what the options of ``%%generate`` ask of the cache."""

from __future__ import annotations

import argparse

from tokmagic.errors import UsageError, nearest
from tokmagic.formatting import numbers
from tokmagic.formatting.tables import Table
from tokmagic.runs.session import Session

_ACTIONS = ("status", "on", "off", "clear")


def wanted(options: argparse.Namespace) -> bool | None:
    """Whether the run asks for the cache, or to be kept out of it. Raises UsageError where it asks for both."""
    if options.no_cache and (options.cache or options.refresh):
        other = "--cache" if options.cache else "--refresh"
        raise UsageError(f"--no-cache keeps the run out of the cache, {other} uses it; give one of them")
    return False if options.no_cache else options.cache or None


def change(session: Session, action: str) -> None:
    """Do what the word says. Raises UsageError, LedgerError."""
    if action not in _ACTIONS:
        raise UsageError(f"%cache {action!r} is unknown{nearest(action, _ACTIONS)}; use {', '.join(_ACTIONS)}")
    if action in ("on", "off"):
        session.settings.cache = action == "on"
    elif action == "clear":
        session.cache.clear()


def table(session: Session) -> Table:
    """What is kept, and what it was good for. Raises LedgerError."""
    status, settings = session.cache.status(), session.settings
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
