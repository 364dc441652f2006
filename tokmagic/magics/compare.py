"""``%%compare``: the cell holds the variants of a prompt."""

from __future__ import annotations

import argparse
import time
from decimal import Decimal
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tokmagic.comparisons.api import compare_in
from tokmagic.comparisons.cells import split_variants
from tokmagic.errors import UsageError
from tokmagic.formatting import numbers
from tokmagic.magics.display import View, view
from tokmagic.magics.shell import Shell, check_into
from tokmagic.prompts.options import compare_parser, given_numbers, model_names

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison
    from tokmagic.comparisons.running import Stand

_FILES = (".csv", ".jsonl", ".ndjson", ".parquet")
_UPDATE_S = 0.5


def run(at: Shell, line: str, cell: str | None) -> Comparison | None:
    """Run the cell's variants on the same items and compare them. Raises what :func:`tokmagic.compare` raises."""
    options = at.parse(compare_parser(), line)
    if cell is None:
        raise UsageError("%%compare takes variants from its cell: begin the cell with %%compare (two percent signs)")
    check_into(options.into)
    shown = View() if options.quiet else view(at)
    try:
        found = compare_in(
            at.session,
            split_variants(cell),
            _over(at, options.over),
            model=model_names(options.model) or None,
            score=_score(at, options.score),
            progress=_Progress(shown),
            **_plain(options),
        )
    finally:
        shown.clear()
    if options.into:
        at.variables[options.into] = found
    return None if options.quiet else found


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """What goes on as it is."""
    names = ("repeat", "seed", "baseline", "pilot")
    given = {name: getattr(options, name) for name in names}
    return {**given, "budget": options.budget, "tags": options.tag, "stop": options.stop, **given_numbers(options)}


def _over(at: Shell, text: str | None) -> Any:
    """A file by its ending, else an expression over the notebook's variables."""
    if text is None or PurePath(text).suffix.lower() in _FILES:
        return text
    return at.evaluated(text, "--over")


def _score(at: Shell, text: str | None) -> Any:
    """Text such as ``exact(answer)`` means a score of ours, unless the notebook has something of that name."""
    if text is None or ("(" in text and text.partition("(")[0].strip() not in at.variables):
        return text
    return at.evaluated(text, "--score")


class _Progress:
    """Tells how far it is, twice a second at most."""

    def __init__(self, shown: View) -> None:
        self._shown = shown
        self._due = 0.0

    def __call__(self, stand: Stand) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _UPDATE_S
            self._shown.progress(told(stand.done, stand.runs, stand.usd), 1.0)


def told(done: int, runs: int, usd: Decimal) -> str:
    """How far a comparison is, and what it cost so far."""
    return f"{done:,} of {runs:,} runs, {numbers.usd(usd)} so far"
