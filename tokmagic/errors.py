"""What can go wrong, each with one line that says what is wrong and how to fix it.

::

    TokmagicError
    ├── UsageError        the command was written wrong (options, names, values)
    │   └── NotBuiltError the option exists, the room behind it does not yet
    ├── PromptError       the cell's text does not make a prompt
    │   └── ContextError  the prompt does not fit the model's context
    ├── PriceError        rates that cannot be used
    ├── BudgetError       a budget does not admit the run, or stopped it
    ├── ModelError        the model cannot be found, read or run
    │   └── OutOfMemoryError  the device's memory does not hold it
    ├── NotebookError     a notebook file whose numbers cannot be checked
    └── LedgerError       runs cannot be recorded
        └── NewerLedgerError  written by a newer tokmagic; never touched

    GenerationInterrupted (also a KeyboardInterrupt)  raised after the interrupted run was settled
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TokmagicError(Exception):
    """Base of all errors meant for the user: one line, with its fix."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows this instead of a traceback; the stack holds nothing the reader could fix.
        return [f"{type(self).__name__}: {self}"]


class UsageError(TokmagicError):
    """The command was written wrong."""


class NotBuiltError(UsageError):
    """An option that parses, but whose room is not built yet."""


class PromptError(TokmagicError):
    """The cell's text does not make a prompt."""


class ContextError(PromptError):
    """The prompt does not fit the model's context."""


class PriceError(TokmagicError):
    """Rates that cannot be used."""


class BudgetError(TokmagicError):
    """A budget does not admit the run, or stopped it in mid-stream.

    ``passing``: the run would fit if active runs gave back what they hold, so that it may be tried again later.
    ``alone``: only this run is beyond what each may cost or hold, and others may fit. ``behind``: it was not looked at,
    since another run of the same call was refused before it.
    """

    def __init__(self, message: str, *, passing: bool = False, alone: bool = False, behind: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.alone = alone
        self.behind = behind


class ModelError(TokmagicError):
    """The model cannot be found, read or run."""


class EndpointError(ModelError):
    """A server cannot be reached, refuses, or does not answer as it should."""


class OutOfMemoryError(ModelError):
    """The device's memory does not hold the model or its cache."""


class NotebookError(TokmagicError):
    """A notebook file whose numbers cannot be checked."""


class LedgerError(TokmagicError):
    """Runs cannot be recorded."""


class NewerLedgerError(LedgerError):
    """The ledger was written by a newer tokmagic; it is left untouched."""


class GenerationInterrupted(KeyboardInterrupt):
    """The person interrupted; the run's row is settled and its text kept."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the known name nearest to ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""
