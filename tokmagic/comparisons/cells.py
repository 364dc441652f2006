"""A ``%%compare`` cell: its variants, each below a line ``--- variant NAME``."""

from __future__ import annotations

import re

from tokmagic.errors import UsageError

_VARIANT = re.compile(r"^---[ \t]+variant(?:[ \t]+(.*?))?[ \t]*\r?$\n?", re.MULTILINE)


def split_variants(cell: str) -> list[tuple[str, str]]:
    """The names and templates of a cell, in its order, role lines left in them. Raises UsageError."""
    before, *parts = _VARIANT.split(cell)
    if before.strip() or not parts:
        raise UsageError("%%compare needs a line '--- variant NAME' above each prompt; begin the cell with one")
    names, texts = parts[::2], parts[1::2]
    if not all(names):
        raise UsageError("a line '--- variant' has no name; write it as --- variant NAME")
    return list(zip(names, texts, strict=True))
