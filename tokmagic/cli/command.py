"""The command's verbs, and what its errors become: one line on stderr; exit 2 for wrong usage, 1 for failure."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

from tokmagic.cli import streams
from tokmagic.core.version import __version__
from tokmagic.errors import TokmagicError, UsageError
from tokmagic.prompts.parser import HelpWanted, Parser

VERBS = {
    "doctor": "what works here and what does not, each problem with its fix",
    "pull": "fetch a model once, so that later starts are quick",
    "run": "run a prompt from a file or standard input",
    "count": "count a text's tokens without running it",
    "compare": "variants of a prompt on the same inputs: which is worth its money",
    "bench": "how fast a model answers, what that costs, and what the machine could do",
    "serve": "models behind a gateway that meters what each key spends",
    "report": "tokens, cost and latency of recorded runs",
    "export": "recorded runs, one per line",
    "check": "a notebook's saved numbers against limits, for pre-commit and CI",
    "reproduce": "run a notebook again and show what changed",
    "key": "keys by which programs ask a shared engine, each with its budget",
    "ledger": "copy the ledger into another database; deliver runs that wait for it",
}
"""Each is a module beside this one, imported when it is called: ``add_options(parser)``, ``run(given) -> status``."""

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a full or broken disk answers where the output goes into a file."""


def parser(called: str | None = None) -> Parser:
    """The command's words and options: those of every verb, or of the one that is ``called``."""
    top = Parser("tokmagic", description="See what every prompt costs, while you write it.")
    top.add_argument("--version", action="version", version=f"tokmagic {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, told in VERBS.items():
        verb = verbs.add_parser(name, help=told)
        if called in (None, name):
            module = import_module(f"tokmagic.cli.{name}")  # start-up: a verb brings its machinery
            module.add_options(verb)
            verb.set_defaults(run=module.run)
    return top


def run(words: list[str]) -> int:
    """Run a command line and return its exit status."""
    status = 0
    try:
        with streams.told_of_interrupts():
            verb = parser(next((word for word in words if not word.startswith("-")), ""))
        given = verb.parse_args(words)
        status = int(given.run(given))
        sys.stdout.flush()  # what is still buffered may be what cannot be written
        return status
    except HelpWanted as wanted:
        print(wanted.text, end="", flush=True)
        return 0
    except (TokmagicError, KeyboardInterrupt) as error:
        print(f"tokmagic: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # The reader of a pipe went away (`tokmagic export | head`): nothing is wrong.
        sys.stderr.close()
        return status
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        print(f"tokmagic: standard output cannot be written: {error.strerror}", file=sys.stderr)
        # Python flushes once more as it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
