"""What a run writes to: the ledger, never in the run's way. What cannot be written now is kept, and written later."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tokmagic.core.config import TokMagic
from tokmagic.core.forks import in_child, whole
from tokmagic.core.interrupts import uninterrupted
from tokmagic.core.prompt import Message
from tokmagic.core.record import RunRecord
from tokmagic.errors import LedgerError
from tokmagic.runs.checkpoints import Checkpoints

if TYPE_CHECKING:
    from tokmagic.ledgers import Ledger, Outbox

_LOST = "this run is NOT being recorded"
_KEPT = "this run is kept on this machine and delivered when its ledger can be reached again"
PAY_AGAIN_S = 1.0
"""How long to wait before what is owed is written again."""

Write = Callable[["Ledger"], None]
"""Something that is written to a ledger."""


class LedgerWarning(UserWarning):
    """Runs are not being recorded."""


class Teller:
    """Warns of each cause once, until it has gone away."""

    def __init__(self, category: type[UserWarning]) -> None:
        self._category = category
        self._told: set[str] = set()

    def tell(self, causes: Mapping[str, str]) -> None:
        """Warn of these causes, by their keys; one that is missing has gone away."""
        for key, text in causes.items():
            if key not in self._told:
                # With a registry of its own each cause is told again when it comes back.
                warnings.warn_explicit(text, self._category, "tokmagic", 0, registry={})
        self._told = set(causes)


class Recorder:
    """A session's ledger, opened when it is first needed, and what is owed to it. For any thread."""

    def __init__(self, settings: TokMagic, patience_s: float | None = None) -> None:
        """``patience_s`` is how long the ledger is waited for while others write there; None: as long as usual."""
        self._settings = settings
        self._patience_s = patience_s
        self._ledger: Ledger | None = None
        self._outbox: Outbox | None = None
        # Ends of runs whose rows say that they go on, each with the ledger in which it says so.
        self._owed: deque[tuple[Ledger, Write]] = deque()
        self._lock = threading.Lock()
        self._payer: threading.Thread | None = None
        self._closed = threading.Event()
        self.checkpoints = Checkpoints(self._bring_up_to_date)
        self._warnings, self._moved, self._undelivered = (Teller(LedgerWarning) for _ in range(3))
        settings.observe(lambda _change: self._let_go(), ["ledger", "store_text"])
        in_child(self._renew)

    def _renew(self) -> None:
        # What is owed is for the parent to pay.
        self._owed, self._lock, self._payer, self._closed = deque(), threading.Lock(), None, threading.Event()
        self.checkpoints = Checkpoints(self._bring_up_to_date)

    def ledger(self) -> Ledger:
        """Return the ledger. Raises LedgerError."""
        with whole():
            # start-up: SQLAlchemy takes 0.2 s, which a session without a run need not pay for.
            from tokmagic.ledgers import Ledger

        given = self._settings
        with whole(), self._lock:
            if self._ledger is not None and self._ledger.gone:
                gone = f"{self._ledger.name} was deleted, moved or replaced; runs are recorded in what is there now"
                self._ledger.close()
                self._ledger = None
                self._moved.tell({})  # each time anew
                self._moved.tell({gone: gone})
            if self._ledger is None:
                self._ledger = Ledger(given.ledger, store_text=given.store_text, patience_s=self._patience_s)
            return self._ledger

    def _box(self) -> Outbox | None:
        """Where ends of runs are kept while a server is away; None for a ledger that is a file, and for no ledger.

        Whether the ledger is open does not matter: what ends after :meth:`close` has an end, too.
        """
        with whole():
            # start-up: as above.
            from tokmagic.ledgers import Outbox, is_on_a_server

        given = self._settings
        with self._lock:
            if self._outbox is None and is_on_a_server(given.ledger):
                self._outbox = Outbox.of(given.home_path, given.ledger, store_text=given.store_text)
            return self._outbox

    def close(self) -> None:
        """Pay what is owed, if that can be, and let go of the ledger; it is opened anew when it is needed again."""
        self._closed.set()
        with suppress(LedgerError):
            self._pay()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
            self._ledger = self._outbox = None

    def write(self, write: Write) -> bool:
        """Write to the ledger and say whether it was written; where not, a warning says so once and nothing stops."""
        try:
            ledger = self.ledger()
            self._pay()
            write(ledger)
        except LedgerError as error:
            return self._not_written(f"{_LOST if self._box() is None else _KEPT}: {error}")
        self._warnings.tell({})
        return True

    def _bring_up_to_date(self, records: Sequence[RunRecord]) -> bool:
        return self.write(lambda ledger: ledger.progress(*records))

    def settle(self, record: RunRecord, prompt: Sequence[Message], answer: str, *, begun: bool) -> bool:
        """Write a run's end and say whether it is in the ledger now; where that cannot be reached it will be later.

        A server's runs are kept in a file meanwhile. A file's are owed in memory, and only where their beginning is in
        the ledger, so that no run goes on for ever.
        """

        def write(ledger: Ledger) -> None:
            ledger.settle(record, prompt, answer)

        ledger, outbox = self._ledger, self._box()
        if outbox is None:
            written = self.write(write)
            if not written and begun and ledger is not None:
                self._owe(ledger, write)
            return written
        if self.write(write):
            self._deliver(outbox)
            return True
        try:
            outbox.keep(record, prompt, answer)
        except LedgerError as error:
            self._not_written(f"{_LOST}: {error}")
        return False

    def _deliver(self, outbox: Outbox) -> None:
        """Deliver what was kept while the ledger was away. What hinders it is told, and hinders no run."""
        causes: dict[str, str] = {}
        try:
            outbox.deliver(self.ledger())
        except LedgerError as error:
            causes["kept"] = f"runs that are kept on this machine are not delivered yet: {error}"
        self._undelivered.tell(causes)

    def _owe(self, ledger: Ledger, write: Write) -> None:
        with self._lock:
            self._owed.append((ledger, write))
            # Until it is paid the run holds back what others could spend, and this kernel may not run another one.
            if self._payer is None or not self._payer.is_alive():
                self._closed.clear()
                self._payer = threading.Thread(target=self._keep_paying, name="tokmagic-owed", daemon=True)
                self._payer.start()

    def _keep_paying(self) -> None:
        while not self._closed.wait(PAY_AGAIN_S):
            with suppress(LedgerError):
                self._pay()
            with self._lock:
                if not self._owed:
                    self._payer = None
                    return

    def _pay(self) -> None:
        """Write what is owed, each end by the one thread that took it. Raises LedgerError."""
        while self._owed and self._pay_one():
            pass

    def _pay_one(self) -> bool:
        """Write the end that is owed the longest; whether there was one."""
        with uninterrupted():  # what was taken is written, or given back
            with self._lock:
                if not self._owed:
                    return False
                ledger, write = self._owed.popleft()
            try:
                write(self.ledger() if ledger.gone else ledger)
            except BaseException:
                self._owe(ledger, write)
                raise
        return True

    def _not_written(self, why: str) -> bool:
        self._warnings.tell({why: why})
        return False
