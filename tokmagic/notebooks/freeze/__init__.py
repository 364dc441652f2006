"""``%tokmagic freeze``: what a notebook ran with, written to a file of its own."""

from tokmagic.notebooks.freeze.freezing import freeze

__all__ = ["freeze"]
