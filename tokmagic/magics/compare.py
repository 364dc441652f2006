"""``%%compare``: the cell holds the variants of a prompt."""

from __future__ import annotations

import argparse
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tokmagic.comparisons.amounts import amount
from tokmagic.comparisons.api import compare_in
from tokmagic.comparisons.cells import split_variants
from tokmagic.comparisons.inputs import is_dataset
from tokmagic.comparisons.ratings import Human
from tokmagic.core.files import expanded
from tokmagic.errors import UsageError
from tokmagic.magics.display import View, publish, view
from tokmagic.magics.rating import RatingWidget
from tokmagic.magics.shell import Shell, check_into
from tokmagic.prompts.options import compare_parser, given_numbers, model_names
from tokmagic.runs.pace import Paced

if TYPE_CHECKING:
    from tokmagic.comparisons.results import Comparison

_FILES = (".csv", ".jsonl", ".ndjson", ".parquet")


def run(at: Shell, line: str, cell: str | None) -> Comparison | None:
    """Run the cell's variants on the same items and compare them. Raises what :func:`tokmagic.compare` raises."""
    if cell is None:
        at.help(compare_parser(), line)
        raise UsageError("%%compare takes variants from its cell: begin the cell with %%compare (two percent signs)")
    options = at.parse(compare_parser(), line)
    check_into(options.into)
    savings = None if options.savings is None else amount(options.savings, "--savings")
    shown = View() if options.quiet else view(at)
    progress = Paced(shown)
    try:
        found = compare_in(
            at.session,
            split_variants(cell),
            _over(at, options.over),
            model=model_names(options.model) or None,
            score=_score(at, options.score),
            progress=progress,
            **_plain(options),
        )
        if options.into:
            at.variables[options.into] = found
        if savings is not None:
            try:
                found = found.with_savings(savings, progress=progress)
            except KeyboardInterrupt:
                # What was paid for before is whole.
                shown.clear()
                if not options.quiet:
                    publish(found)
                raise
    finally:
        shown.clear()
    if options.into:
        at.variables[options.into] = found
    if options.quiet:
        return None
    if isinstance(found.score, Human) and not at.terminal and found.rating().left:
        publish(RatingWidget(found.rating()).widget)
    return found


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """What goes on as it is."""
    names = ("repeat", "seed", "baseline", "pilot", "concurrency")
    given = {name: getattr(options, name) for name in names}
    return {**given, "budget": options.budget, "tags": options.tag, "stop": options.stop, **given_numbers(options)}


def _over(at: Shell, text: str | None) -> Any:
    """A file by its ending, a saved data set's folder, else an expression over the notebook's variables."""
    if text is None or PurePath(text).suffix.lower() in _FILES:
        return text
    if text not in at.variables and is_dataset(expanded(text)):
        return text
    return at.evaluated(text, "--over")


def _score(at: Shell, text: str | None) -> Any:
    """Text such as ``exact(answer)`` means a score of ours, unless the notebook has something of that name."""
    if text is None or ("(" in text and text.partition("(")[0].strip() not in at.variables):
        return text
    return at.evaluated(text, "--score")
