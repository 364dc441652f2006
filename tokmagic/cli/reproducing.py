"""``tokmagic reproduce``."""

from __future__ import annotations

import argparse
import json
import sys

from tokmagic import api, reproduction
from tokmagic import budget as budgets
from tokmagic.errors import BudgetError, UsageError
from tokmagic.prices import plain


def reproduce(given: argparse.Namespace) -> int:
    """``tokmagic reproduce NOTEBOOK``: exit 1 where something changed, failed, or nothing was compared."""
    report = reproduction.reproduce(
        api.session(),
        given.notebook,
        frozen_file=given.frozen,
        out=given.output,
        kernel=given.kernel,
        timeout_s=None if given.timeout is None else _seconds(given.timeout),
        budget_usd=None if given.budget is None else _usd(given.budget),
        allowed=given.allow,
        progress=_progress,
    )
    _progress("")
    if given.json:
        print(json.dumps(reproduction.as_dict(report), ensure_ascii=False, indent=1))
    else:
        told = [reproduction.table(report)] if report.comparisons else []
        print(*told, *(f"{given.notebook}: {problem}" for problem in report.problems), sep="\n")
    return 0 if report.ok else 1


def _usd(text: str) -> str | None:
    try:
        return plain(budgets.usd(text, what="--budget"))
    except BudgetError as error:
        raise UsageError(str(error)) from None


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**7:
        raise UsageError(f"--timeout is {text!r}; give whole seconds, above 0, such as 600")
    return int(text)


def _progress(doing: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{doing}")
        sys.stderr.flush()
