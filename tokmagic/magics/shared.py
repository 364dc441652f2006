"""What ``%model`` tells of shared engines: which models are loaded there, and who uses them at this moment."""

from __future__ import annotations

from collections.abc import Iterator

from tokmagic.engines.base import ServedModel, Shared
from tokmagic.errors import TokmagicError
from tokmagic.formatting import numbers
from tokmagic.runs.session import Session


def notes(session: Session) -> Iterator[str]:
    """One line for each shared engine that a model of this session is at; each is asked once."""
    asked = set()
    for name, spec in session.models:
        server = session.info(name).server
        if not spec.shared or server in asked:
            continue
        asked.add(server)
        yield _line(session, name, server)


def _line(session: Session, name: str, server: str | None) -> str:
    try:
        engine = session.models.engine(name)
        served = engine.served() if isinstance(engine, Shared) else ()
    except TokmagicError as error:
        return f"shared engine: {error}"
    told = "; ".join(f"{it.name} ({in_words(it)})" for it in served)
    return f"shared engine {server}: {told or 'no model'}"


def told_of(engine: Shared, source: str) -> str:
    """How a model is at its shared engine, in words; what is wrong where that cannot be asked."""
    try:
        found = next((it for it in engine.served() if it.name == source), None)
    except TokmagicError as error:
        return str(error)
    return "not served" if found is None else in_words(found)


def in_words(model: ServedModel) -> str:
    """``loaded, in use: ada (2 requests), bob (1 request)``."""
    state = "loaded" if model.state == "ready" else model.state or numbers.UNKNOWN
    users = [f"{user or 'somebody'} ({numbers.counted(requests, 'request')})" for user, requests in model.users.items()]
    return f"{state}, in use: {', '.join(users)}" if users else f"{state}, idle"
