"""What a terminal is shown: an answer as it comes, and how far something is."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tokmagic.formatting.markdown import plain_text


def progress(doing: str, share: float | None = None) -> None:
    """Say on standard error what is being done, in place of what was said before; nothing at the end, nor in a file."""
    if sys.stderr.isatty():
        percent = "" if share is None else f" {share:.0%}"
        sys.stderr.write("\r\033[K" + ("" if share == 1.0 else f"{doing}{percent}"))
        sys.stderr.flush()


class Printer:
    """Prints an answer on standard output, as it comes where ``stream`` is set."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._streamed = False
        self.unread = False
        """Whether who read the answer has gone (``| head``)."""

    def token(self, text: str) -> None:
        """Print more of the answer. Interrupts the run where nobody reads it any more: the rest would cost for nobody.

        Raises KeyboardInterrupt, once.
        """
        if self._stream and not self.unread:
            self._streamed = True
            try:
                sys.stdout.write(plain_text(text))
                sys.stdout.flush()
            except BrokenPipeError:
                self.unread = True
                raise KeyboardInterrupt from None

    def rest(self, texts: Sequence[str]) -> None:
        """Print those of the answers that were not streamed, and end the line."""
        left = [plain_text(text) for text in texts[1 if self._streamed else 0 :]]
        sys.stdout.write("\n\n".join(["", *left] if self._streamed and left else left) + "\n")
        sys.stdout.flush()
