"""The ``tokmagic`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tokmagic.core.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        if words[:1] == ["--version"]:
            print(f"tokmagic {__version__}")
            return 0
        from tokmagic.cli import streams  # start-up: --version needs nothing of it

        with streams.told_of_interrupts():
            from tokmagic.cli import command  # start-up: --version needs nothing of it
        if not streams.ready():
            print("tokmagic: standard output is closed; give it a file, or /dev/null", file=sys.stderr)
            return 1
        return command.run(words)
    except KeyboardInterrupt:  # before or after those two that tell of it themselves
        print("tokmagic: interrupted", file=sys.stderr)
        return 130
