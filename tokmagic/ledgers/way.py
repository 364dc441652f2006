"""The way to a PostgreSQL server: what its connections are opened with, and what its silence means."""

from __future__ import annotations

import time
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa

from tokmagic.core.forks import leave
from tokmagic.errors import LedgerError

SILENT_S = 10
"""How long a server may leave unanswered that something reached it, before it passes for gone."""
AWAY_S = 15.0
"""For so long a server is not tried again that has left a connection without an answer."""
_SOON_S = 1.0
"""What takes no longer has been refused, and may be tried again at once."""
_ANSWERED = "FATAL"
"""What a server says when it refuses a connection itself."""
_GONE_S = 60
"""After how long a server asks whether a client that says nothing is there; it takes a minute to give up."""
STUCK_S = 60.0
"""How long a transaction may do nothing: of a process that was stopped in the middle of one, others must not wait."""
_NAME = "tokmagic"
POOLED = (
    "is reached by way of a pooler, such as PgBouncer, that does not pass a connection's options on; "
    "name the server itself in TOKMAGIC_LEDGER"
)
"""What to say of a server between whose connections a pooler stands: locks there tell who lives, and who waits."""
_away: dict[str, tuple[float, Exception]] = {}
"""Of servers by their names: until when, and what came of the last connection."""


class Way:
    """The connections of this process to one server."""

    name: str
    """What to call it in messages; never with a password."""
    arguments: dict[str, Any]
    """What connections are opened with, beside what their URL says."""

    def __init__(self, url: sa.URL, patience_s: float) -> None:
        """``patience_s`` is how long they wait for the server, and for others' locks there, in seconds."""
        theirs = url.query.get("options", "")
        theirs = theirs if isinstance(theirs, str) else " ".join(theirs)
        self.name = f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"
        if theirs:  # they may name a schema, in which another ledger is
            self.name += f"?options={theirs}"
        usual = {
            "connect_timeout": max(1, round(patience_s)),
            # A network that is gone says nothing: without these a run would wait a quarter of an hour for its ledger.
            "tcp_user_timeout": round(SILENT_S * 1000),
            "keepalives_idle": round(SILENT_S / 2),
            "keepalives_interval": 1,
            "keepalives_count": round(SILENT_S / 2),
        }
        # A machine that is gone says nothing either, and the server would keep for hours what its transaction has
        # locked.
        kept = f"-c tcp_keepalives_idle={_GONE_S} -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6"
        kept += f" -c idle_in_transaction_session_timeout={round(STUCK_S * 1000)}"
        ours = f"-c lock_timeout={round(patience_s * 1000)} -c timezone=UTC"
        self.arguments = {name: value for name, value in usual.items() if name not in url.query}
        self.arguments["options"] = f"-c application_name={_NAME} {kept} {theirs} {ours}"  # what is said last holds
        self._named = "application_name" in url.query or "application_name" in theirs
        self._open: WeakSet[Any] = WeakSet()

    def connect(self, dialect: sa.Dialect, _record: Any, given: Any, named: Any) -> Any:
        """Open a connection. One that the server left without an answer spares it, and the runs, the next ones.

        Raises LedgerError where the options do not come through.
        """
        (until_s, silence), began_s = _away.get(self.name, (0.0, None)), time.monotonic()
        if silence is not None and began_s < until_s:
            raise type(silence)(*silence.args)
        try:
            connection = dialect.connect(*given, **named)
        except Exception as error:
            ended_s = time.monotonic()
            if ended_s - began_s >= _SOON_S and _ANSWERED not in str(error):
                _away[self.name] = ended_s + AWAY_S, error
            raise
        # The server tells it at once; it is among the options.
        if not self._named and connection.info.parameter_status("application_name") != _NAME:
            connection.close()
            raise LedgerError(f"{self.name} {POOLED}")
        self._open.add(connection)
        return connection

    def renew(self) -> None:
        """Let go of the connections in a forked child, whose parent has them."""
        leave(it.fileno() for it in self._open if not it.closed)
        self._open = WeakSet()
